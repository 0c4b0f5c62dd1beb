"""Records what a cluster answers over HTTP to closed-loop sessions, for the checkers of histories.

    python -m benchmarks.history_client --node 1=127.0.0.1:8081 --node 2=127.0.0.1:8082 \\
        --out history.ndjson --seconds 30

It decides what is asked: reads of each policy at each node, puts of unique values, compare-and-swap
by If-Match, deletes; some given up at once, all others after 100 to 200 ms; repeated elsewhere
where that is safe. And it decides how an answer is written down: whoever gives up a write does not
know its outcome. It knows a node only by its port and does not know what is done to the cluster.

What limits it: one core of Python, about 15,000 operations a second.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from tests.check.history import ANY, Operation, Writer

GIVE_UP_NS = (100_000_000, 200_000_000)
HURRIED = 0.02          # of the operations are given up at once, so that some outcomes are unknown
HURRIED_S = 0.002
SWEEP_S = 0.005         # how exactly other operations are given up
PAUSE_S = (0.02, 0.05)  # after a refused connection
CONNECT_S = 1.0
STALL_S = 60.0          # without an answer: the recording ends
PROBE_S = 10.0          # to learn the revision at the beginning
KEY_OPERATIONS = 1000   # then a fresh key takes its place: a search can hold so many
KEY_CLIENTS = 10        # that share a key
RETRIES = 3
POLICIES = ("linearizable", "lease", "eventual")
KINDS, WEIGHTS = ("get", "put", "cas", "delete"), (55, 25, 14, 6)
Endpoints = Mapping[int, tuple[str, int]]       # node -> host, port


@dataclass
class Totals:
    """What was recorded. Unexpected answers are faults of the server or of this client."""

    operations: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)     # "put unknown" -> number
    unexpected: list[str] = field(default_factory=list)
    stalled: bool = False

    def of(self, outcome: str) -> int:
        return sum(n for name, n in self.outcomes.items() if name.endswith(" " + outcome))

    @property
    def unknown_fraction(self) -> float:
        return self.of("unknown") / max(1, self.operations)

    def __str__(self) -> str:
        return (
            f"{self.operations:,} operations in {self.seconds:.1f} s "
            f"({self.operations / max(self.seconds, 1e-9):,.0f}/s), {self.unknown_fraction:.2%} "
            f"unknown, {self.of('refused')} refused, {len(self.unexpected)} unexpected"
            + (", STALLED" if self.stalled else "")
        )


@dataclass
class Key:
    """A key in use; when it has had its operations, another name takes its place."""

    group: str
    generation: int = 0
    used: int = 0
    mod: int = 0            # the mod_revision heard last

    @property
    def name(self) -> str:
        return f"{self.group}.{self.generation}"

    def take(self) -> str:
        if self.used == KEY_OPERATIONS:
            self.generation, self.used, self.mod = self.generation + 1, 0, 0
        self.used += 1
        return self.name


# ---------------------------------------------------------------- requests and answers
CONDITIONS = {0: "If-None-Match: *\r\n", ANY: "If-Match: *\r\n"}


def request(op: Operation) -> bytes:
    """Puts and swaps go by PUT with a raw body; keys and values are plain ASCII."""
    if op.kind == "get":
        return f"GET /kv/{op.key}?consistency={op.policy} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
    condition = ""
    if op.expect is not None:
        condition = CONDITIONS.get(op.expect) or f'If-Match: "{op.expect}"\r\n'
    method, body = ("DELETE", "") if op.kind == "delete" else ("PUT", op.value or "")
    return (f"{method} /kv/{op.key} HTTP/1.1\r\nHost: h\r\n{condition}"
            f"Content-Length: {len(body)}\r\n\r\n{body}").encode()


def number(data: bytes, before: bytes) -> int:
    """The decimal number behind `before`; 0: not there."""
    at = data.find(before)
    if at < 0:
        return 0
    end = at = at + len(before)
    while data[end:end + 1].isdigit():
        end += 1
    return int(data[at:end] or 0)


def is_complete(data: bytes) -> bool:
    end = data.find(b"\r\n\r\n")
    return end >= 0 and len(data) >= end + 4 + number(data[:end], b"Content-Length: ")


def take_answer(op: Operation, data: bytes) -> bool:
    """Writes into the operation what it was answered; False: no answer that is expected."""
    status = data[9:12]
    op.outcome = "unknown"
    if status == b"200":
        op.outcome = "ok"
        op.revision = number(data, b"Dengine-Revision: ")
        if op.kind == "get":
            op.mod = number(data, b'ETag: "')
            at = data.find(b'{"value":"')
            op.value = data[at + 10:-2].decode()
            return at > 0 and op.mod > 0
        if op.kind == "delete" and data.endswith(b'"deleted":0}'):
            op.outcome = "missing"
        return op.revision > 0 or op.outcome == "missing"
    if status == b"404" and op.kind == "get":
        op.outcome, op.revision = "missing", number(data, b"Dengine-Revision: ")
        return b'"key_not_found"' in data
    if status == b"412" and op.expect is not None:
        op.outcome, op.mod = "conflict", number(data, b'"revision":')
        return True
    if status == b"503":
        if op.kind == "get" or b'"not_proposed"' in data or b'"too_many_connections"' in data:
            op.outcome = "refused"
        return True                             # stopped: a write may have been proposed
    if status == b"507":                        # the disks are full: it was not proposed
        op.outcome = "refused"
        return True
    return status == b"504"


# ---------------------------------------------------------------- connections and sessions
class Link(asyncio.Protocol):
    """One connection of one session to one node; at most one request is under way."""

    def __init__(self, session: "Session", node: int) -> None:
        self.session, self.node = session, node
        self.pending = b""
        self.op: Operation | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.life = self.session.recorder.life(self.node)

    def send(self, op: Operation) -> None:
        self.op = op
        op.life = self.life
        data = request(op)
        op.start = time.monotonic_ns()
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if self.op is None:
            return                              # it was given up
        if self.pending:
            data = self.pending + data
        if not is_complete(data):
            self.pending = data
            return
        self.pending = b""
        op, self.op = self.op, None
        op.end = now
        if b"\r\nConnection: close\r\n" in data:
            self.session.drop(self)
        self.session.answered(op, data)

    def connection_lost(self, error: Exception | None) -> None:
        self.session.drop(self)
        op, self.op = self.op, None
        if op is not None:
            self.session.given_up(op)


class Session:
    """A client: one operation at a time, at any node, under a new name after an unknown one."""

    def __init__(self, recorder: "Recorder", process: int, keys: Sequence[Key]) -> None:
        self.recorder, self.process, self.keys = recorder, process, keys
        self.rng = random.Random(f"{recorder.seed}-{process}")
        self.links: dict[int, Link] = {}
        self.link: Link | None = None           # on which an operation is under way
        self.deadline = 0
        self.key = keys[0]
        self.repeat: Operation | None = None
        self.retries = 0
        self.connecting: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The next operation, or the end."""
        if self.recorder.finished:
            self.stop()
            self.recorder.ended()
            return
        node = self.rng.choice(self.recorder.nodes)
        link = self.links.get(node)
        if link is None:
            self.connecting = asyncio.get_running_loop().create_task(self.connect(node))
        else:
            self.ask(link)

    def stop(self) -> None:
        """Nothing is recorded any more."""
        self.recorder.finished = True
        for link in self.links.values():
            link.op = None
            link.transport.abort()

    async def connect(self, node: int) -> None:
        loop = asyncio.get_running_loop()
        host, port = self.recorder.endpoints[node]
        try:
            async with asyncio.timeout(CONNECT_S):
                _, link = await loop.create_connection(lambda: Link(self, node), host, port)
        except OSError:                         # TimeoutError is one
            loop.call_later(self.rng.uniform(*PAUSE_S), self.begin)
            return
        self.links[node] = link
        if self.recorder.finished:
            self.begin()
        else:
            self.ask(link)

    def ask(self, link: Link) -> None:
        op = self.next_operation()
        op.node = link.node
        self.link = link
        if link.transport.is_closing():         # its end is not yet reported
            self.drop(link)
            self.repeat = op
            asyncio.get_running_loop().call_soon(self.begin)
            return
        link.send(op)
        self.deadline = op.start + self.rng.randint(*GIVE_UP_NS)
        if self.rng.random() < HURRIED:
            asyncio.get_running_loop().call_later(
                self.rng.uniform(0, HURRIED_S), self.give_up, op)

    def next_operation(self) -> Operation:
        rng, again = self.rng, self.repeat
        self.repeat = None
        op = Operation(process=self.process, kind="get", key="", start=0, end=0, outcome="unknown")
        if again is not None:
            op.kind, op.key, op.policy, op.expect = (
                again.kind, again.key, again.policy, again.expect)
        else:
            self.key = rng.choice(self.keys)
            op.key = self.key.take()
            op.kind = cast(Any, rng.choices(KINDS, WEIGHTS)[0])
            if op.kind == "get":
                op.policy = rng.choice(self.recorder.policies)
            elif op.kind == "cas":
                op.expect = rng.choices((self.key.mod, 0, ANY), (80, 12, 8))[0]
            elif op.kind == "delete" and self.key.mod and rng.random() < 0.3:
                op.expect = self.key.mod
        if op.kind in ("put", "cas"):
            op.value = self.recorder.new_value()
        return op

    def answered(self, op: Operation, data: bytes) -> None:
        if not take_answer(op, data):
            op.outcome, op.revision, op.mod = "unknown", 0, 0
            self.recorder.totals.unexpected.append(f"{op.kind}: {data[:300]!r}")
        told = op.mod or (op.kind != "get" and op.outcome == "ok")
        if told and op.key == self.key.name:
            self.key.mod = 0 if op.kind == "delete" else op.mod or op.revision
        self.finish(op)

    def give_up(self, op: Operation) -> None:
        """The connection is closed under the operation, if it is still under way."""
        link = self.link
        if link is not None and link.op is op:
            link.op = None
            self.drop(link)
            link.transport.abort()
            self.given_up(op)

    def given_up(self, op: Operation) -> None:
        op.end = time.monotonic_ns()
        op.outcome = "unknown"
        self.finish(op)

    def finish(self, op: Operation) -> None:
        self.link = None
        if op.outcome == "unknown":
            self.process = self.recorder.new_process()
        safe = op.outcome == "refused" or (op.kind == "get" and op.outcome == "unknown")
        self.retries = self.retries + 1 if safe else 0
        room = op.key == self.key.name and self.key.used < KEY_OPERATIONS
        if safe and self.retries <= RETRIES and room:
            self.key.used += 1
            self.repeat = op
        self.recorder.add(op)
        if op.outcome == "refused":             # nobody leads: do not ask in a tight loop
            asyncio.get_running_loop().call_later(self.rng.uniform(*PAUSE_S), self.begin)
        else:
            self.begin()

    def drop(self, link: Link) -> None:
        if self.links.get(link.node) is link:
            del self.links[link.node]


class Recorder:
    """What all sessions share: keys, names, the file, the end."""

    def __init__(self, endpoints: Endpoints, writer: Writer, seed: int,
                 policies: Sequence[str], lives: Mapping[int, int] | None) -> None:
        self.endpoints, self.writer, self.seed, self.lives = endpoints, writer, seed, lives
        self.nodes = sorted(endpoints)
        self.policies = cast(Any, list(policies))
        self.totals = Totals()
        self.finished = False
        self.values = self.links = 0
        self.operations: int | None = None
        self.heard = time.monotonic()

    async def run(self, clients: int, keys: int, seconds: float | None,
                  operations: int | None) -> Totals:
        groups = -(-clients // KEY_CLIENTS)
        each = max(1, keys // groups)
        shared = [[Key(f"h{self.seed}-{g}-{k}") for k in range(each)] for g in range(groups)]
        self.operations, self.processes, self.left = operations, clients, clients
        began = self.heard = time.monotonic()
        self.end = asyncio.get_running_loop().create_future()
        sessions = [Session(self, i, shared[i // KEY_CLIENTS]) for i in range(clients)]
        for session in sessions:
            session.begin()
        try:
            await self.until_end(sessions, began, seconds)
        finally:
            for session in sessions:
                session.stop()
        self.totals.seconds = time.monotonic() - began
        return self.totals

    async def until_end(self, sessions: Sequence[Session], began: float, seconds: float | None
                        ) -> None:
        while not self.end.done():
            await asyncio.wait([self.end], timeout=SWEEP_S)
            now = time.monotonic()
            self.totals.stalled = now - self.heard > STALL_S
            if self.totals.stalled or (seconds is not None and now - began >= seconds):
                self.finished = True
            for session in sessions:
                if session.link is not None and session.deadline < now * 1e9:
                    op = session.link.op
                    if op is not None:
                        session.give_up(op)

    def life(self, node: int) -> int:
        """If nobody tells when a node was restarted, each connection is a life of its own."""
        self.links += 1
        return self.links if self.lives is None else self.lives[node]

    def new_value(self) -> str:
        self.values += 1
        return f"v{self.values}"

    def new_process(self) -> int:
        self.processes += 1
        return self.processes - 1

    def add(self, op: Operation) -> None:
        self.writer.add(op)
        self.totals.operations += 1
        self.totals.outcomes[f"{op.kind} {op.outcome}"] += 1
        if op.outcome != "unknown":
            self.heard = time.monotonic()
        if self.operations is not None and self.totals.operations >= self.operations:
            self.finished = True

    def ended(self) -> None:
        self.left -= 1
        if not self.left and not self.end.done():
            self.end.set_result(None)


async def revision_now(endpoints: Endpoints) -> int | None:
    """The store's revision, by a linearizable read of a key that nobody has."""
    op = Operation(process=0, kind="get", key="no-such-key", policy="linearizable",
                   start=0, end=0, outcome="unknown")
    deadline = time.monotonic() + PROBE_S
    while time.monotonic() < deadline:
        for host, port in endpoints.values():
            try:
                async with asyncio.timeout(CONNECT_S):
                    reader, writer = await asyncio.open_connection(host, port)
                    writer.write(request(op))
                    data = b""
                    while not is_complete(data) and (more := await reader.read(65536)):
                        data += more
                    writer.transport.abort()
            except OSError:
                continue
            if take_answer(op, data) and op.outcome == "missing":
                return op.revision
        await asyncio.sleep(PAUSE_S[1])
    return None


async def record(
    endpoints: Endpoints, path: Path, *, seconds: float | None = None,
    operations: int | None = None, clients: int = 20, seed: int = 1, keys: int = 8,
    policies: Sequence[str] = POLICIES, lives: Mapping[int, int] | None = None,
    alone: bool = False,
) -> Totals:
    """Drives the cluster until `seconds` have passed or `operations` are recorded.

    `keys` are in use at a time; their names contain `seed`: two recordings of one cluster need two.
    `lives[node]` is read at each connection; whoever ends a process raises it before he starts the
    next one, and the checker then knows more. `alone`: nobody else writes meanwhile, and no earlier
    write is still on its way, so that each revision must belong to this history.
    """
    if seconds is None and operations is None:
        raise ValueError("how long? seconds or operations")
    base = await revision_now(endpoints) if alone else None
    with Writer(path, base, seed=seed, clients=clients, keys=keys, nodes=sorted(endpoints)) as to:
        recorder = Recorder(endpoints, to, seed, policies, lives)
        return await recorder.run(clients, keys, seconds, operations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--node", action="append", required=True, metavar="ID=HOST:PORT")
    add("--out", type=Path, required=True)
    add("--seconds", type=float)
    add("--operations", type=int)
    add("--clients", type=int, default=20)
    add("--keys", type=int, default=8)
    add("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.seconds is None and options.operations is None:
        parser.error("--seconds or --operations")
    endpoints = {}
    for node in options.node:
        name, _, address = node.partition("=")
        host, _, port = address.rpartition(":")
        endpoints[int(name)] = host, int(port)
    totals = uvloop.run(record(
        endpoints, options.out, seconds=options.seconds, operations=options.operations,
        clients=options.clients, seed=options.seed, keys=options.keys,
    ))
    print(totals)
    for text in totals.unexpected[:5]:
        print("unexpected:", text)


if __name__ == "__main__":
    main()
