"""Clients under faults: closed loops over HTTP that record what they asked and what they heard.

    python -m tests.chaos.load SPEC.json        until SIGTERM

It decides the mix of operations, when a client gives up, and what an answer states: a write that
may have had an effect is `unknown`, never `refused`. It knows nothing of faults, leaders or Raft,
and judges nothing.
"""

import asyncio
import itertools
import json
import signal
import sys
import time
from pathlib import Path
from random import Random

import uvloop

from tests.chaos.http import Answer, Connection, NotSent
from tests.check.history import Operation, Writer

GIVE_UP_S = (0.1, 0.2)
THINK_S = (0.0, 0.03)       # between two operations of a client
BACK_OFF_S = (0.02, 0.08)   # after a failure
AWAY = 0.25                 # of the operations go to another node than the client's own
HOT_KEYS = 8
ONCE = 0.15                 # of the puts go to a key that is never written again
KINDS = {"put": 34, "cas": 12, "delete": 5, "get": 49}
POLICIES = ("linearizable", "lease", "eventual")


class Client:
    """One closed loop. A client that lost an answer goes on under another process number."""

    def __init__(self, number: int, spec: dict, out: Writer, numbers: "itertools.count[int]"):
        self.rng = Random(f"client {spec['seed']} {number}")
        self.nodes = {int(i): tuple(at) for i, at in spec["nodes"].items()}
        self.home = sorted(self.nodes)[number % len(self.nodes)]
        self.connections = {i: Connection(*at) for i, at in self.nodes.items()}
        self.numbers, self.out = numbers, out
        self.process = next(numbers)
        self.name, self.written = f"c{number}", 0
        self.revisions: dict[str, int] = {}     # last seen, for compare-and-swap
        self.give_up_s = self.rng.uniform(*GIVE_UP_S)

    async def run(self, end: asyncio.Event) -> None:
        while not end.is_set():
            operation = self.choose()
            await perform(self.connections[operation.node], operation, self.give_up_s)
            self.out.add(operation)
            self.learn(operation)
            if operation.outcome == "unknown":
                self.process = next(self.numbers)
            failed = operation.outcome in ("unknown", "refused")
            await asyncio.sleep(self.rng.uniform(*(BACK_OFF_S if failed else THINK_S)))

    def choose(self) -> Operation:
        rng = self.rng
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        node = rng.choice(sorted(self.nodes)) if rng.random() < AWAY else self.home
        operation = new(self.process, kind, f"k{rng.randrange(HOT_KEYS)}", node)
        if kind == "get":
            operation.policy = rng.choice(POLICIES)
        if kind in ("put", "cas"):
            self.written += 1
            operation.value = f"{self.name}-{self.written}"
        if kind == "put" and rng.random() < ONCE:
            operation.key = f"once-{operation.value}"
        if kind == "cas":
            operation.expect = self.revisions.get(operation.key, 0)
        return operation

    def learn(self, op: Operation) -> None:
        """Which revision a compare-and-swap will ask for; often another client was faster."""
        if op.kind == "get" or op.outcome in ("conflict", "missing"):
            self.revisions[op.key] = op.mod
        elif op.outcome == "ok":
            self.revisions[op.key] = 0 if op.kind == "delete" else op.revision


def new(process: int, kind: str, key: str, node: int, **more: object) -> Operation:
    """An operation that was not yet asked."""
    return Operation(process=process, kind=kind, key=key, node=node, start=0, end=0,
                     outcome="unknown", **more)


async def perform(connection: Connection, op: Operation, within_s: float) -> None:
    """Asks, and fills in what came of it."""
    path = f"/kv/{op.key}" + (f"?consistency={op.policy}" if op.policy else "")
    method = {"put": "PUT", "cas": "PUT", "delete": "DELETE", "get": "GET"}[op.kind]
    headers = {"Accept": "application/octet-stream"} if op.kind == "get" else {}
    if op.kind == "cas":
        headers = {"If-Match": f'"{op.expect}"'} if op.expect else {"If-None-Match": "*"}
    op.start = time.monotonic_ns()
    try:
        answer = await connection.ask(method, path, (op.value or "").encode(), headers,
                                      within_s=within_s)
    except NotSent:
        op.outcome = "refused"
    except (OSError, TimeoutError):
        pass
    else:
        understand(op, answer)
    op.end = time.monotonic_ns()


def understand(op: Operation, answer: Answer) -> None:
    """The outcome that an answer states; what states nothing leaves it unknown."""
    store = int(answer.headers.get("dengine-revision", 0))
    if answer.status == 412:
        op.outcome, op.mod = "conflict", json.loads(answer.body)["revision"]
    elif op.kind == "get":
        op.outcome = {200: "ok", 404: "missing"}.get(answer.status, "refused")
        if op.outcome != "refused":
            op.revision = store
        if op.outcome == "ok":
            op.value = answer.body.decode()
            op.mod = int(answer.headers["etag"].strip('"'))
    elif answer.status == 200:
        said = json.loads(answer.body)
        op.outcome = "ok" if said.get("deleted", 1) else "missing"
        op.revision = said["revision"]
    elif answer.status < 500 or json.loads(answer.body)["code"] in (
            "not_proposed", "overloaded", "no_space"):
        op.outcome = "refused"


async def main(spec: dict, out: Writer) -> None:
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    numbers = itertools.count()
    clients = [Client(n, spec, out, numbers) for n in range(spec["clients"])]
    print("ready", flush=True)
    await asyncio.gather(*(client.run(end) for client in clients))


if __name__ == "__main__":
    chosen = json.loads(Path(sys.argv[1]).read_text())
    with Writer(Path(chosen["history"])) as history:
        uvloop.run(main(chosen, history))
