"""One run: a cluster under load and faults, healed, converged, and judged.

It decides the order of a run and what makes it passed, failed or void. Bounds after the faults have
healed: all nodes take a write within SERVE_S, and agree on revision, commit and applied within
CONVERGE_S; /health answers within SILENCE_S at any time while the process runs.
"""

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

from tests.chaos.faults import Done, Faults
from tests.chaos.http import Connection
from tests.chaos.load import new, perform
from tests.chaos.net import Network
from tests.chaos.nodes import Node, build
from tests.chaos.plan import Plan
from tests.chaos.watch import ask as ask_port
from tests.check import history as histories
from tests.check.history import Operation
from tests.check.witness import check
from tests.cluster import ROOT

WRITES = ("put", "cas", "delete")
OURS = 1_000_000            # process numbers of our own operations, upwards
MIN_OPERATIONS = 1500       # with an answer that states an outcome
MIN_TRIGGERED = 0.75        # of the faults
FORM_S = 30.0
START_S = 15.0              # of a process, until its health port answers
SERVE_S = 15.0
CONVERGE_S = 15.0
SILENCE_S = 3.0
AGREED = ("commit", "applied", "last", "revision", "keys", "term")    # the first three are equal
SETTLED_S = 0.5
CALM_S = 1.5                # of load after the cluster serves again
CHILD_S = 15.0
LOOK_S = 0.1
RESTARTS = 1                # of a node that ended by itself
STALL_S = 1.0               # of our own watch: the machine is too slow to judge by time
FINAL_READERS = 16


@dataclass
class Verdict:
    seed: int
    nodes: int
    strategy: str
    directory: str
    violations: list[str] = field(default_factory=list)
    void: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)       # until it is settled: see settle
    operations: int = 0             # with a definite outcome
    writes: int = 0
    unknown: int = 0                # writes
    faults: dict[str, int] = field(default_factory=dict)        # triggered, by kind
    missed: int = 0
    overlapping: int = 0            # most faults at one moment
    unavailable_ms: int = 0         # longest time without an acknowledged write
    serve_ms: int = 0               # after the faults had healed
    leader_changes: int = 0
    samples: int = 0
    longest_turn_us: int = 0        # these as the nodes tell at the end of the run
    longest_sync_us: int = 0
    syncs: int = 0
    sync_bytes: int = 0             # to the device
    log_stalls: int = 0             # waits for prepared space
    log_stall_us: int = 0
    seconds: float = 0.0


class Run:
    def __init__(self, plan: Plan, root: Path, network: Network | None,
                 min_operations: int = MIN_OPERATIONS) -> None:
        self.plan, self.root, self.network = plan, root, network
        self.min_operations = min_operations
        self.nodes = build(plan, root, network)
        self.verdict = Verdict(plan.seed, plan.nodes, plan.strategy, str(root))
        self.faults = Faults(plan, self.nodes, network, self.ask)
        self.connections = {i: Connection(n.host, n.http) for i, n in self.nodes.items()}
        self.own: list[Operation] = []          # our operations, part of the history
        self.agreed: tuple[tuple | None, float] = None, 0.0     # a view of all, and since when
        self.children: list[subprocess.Popen[bytes]] = []

    async def go(self) -> Verdict:
        """Carries out the run and judges it. Raises OSError where the machine refused."""
        begun = time.monotonic()
        watch = self.child("watch")             # first: it notices if the machine stands still
        for node in self.nodes.values():
            node.start()
        await self.until("the cluster forms", FORM_S, self.leads)
        load = self.child("load")
        monitor = asyncio.create_task(self.look_after())
        try:
            await self.faults.run(time.monotonic_ns())
            healed = time.monotonic()
            if await self.until("all nodes take a write", SERVE_S, self.serves):
                self.verdict.serve_ms = int((time.monotonic() - healed) * 1000)
            await asyncio.sleep(CALM_S)
            await self.end(load)
            if await self.until("all nodes agree", CONVERGE_S, self.agree):
                await self.read_all()
            await self.read_metrics()
            await self.end(watch)
        finally:
            monitor.cancel()
        self.stop_nodes()
        self.judge()
        self.verdict.seconds = round(time.monotonic() - begun, 1)
        return self.verdict

    # --------------------------------------------------------------------------- processes
    def child(self, module: str) -> "subprocess.Popen[bytes]":
        """One of our own processes, ready; the kernel ends it with us."""
        spec = {
            "seed": self.plan.seed, "clients": self.plan.clients,
            "nodes": {i: (n.host, n.http) for i, n in self.nodes.items()},
            "health": {i: (n.host, n.health) for i, n in self.nodes.items()},
            "history": str(self.root / "load.ndjson"),
            "watched": str(self.root / "watched.json"),
        }
        path = self.root / f"{module}.spec.json"
        path.write_text(json.dumps(spec))
        with (self.root / f"{module}.log").open("wb") as log:
            child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", f"tests.chaos.{module}",
                 str(path)],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                process_group=0)
        self.children.append(child)
        assert child.stdout is not None
        if child.stdout.readline() != b"ready\n":
            raise OSError(f"{module} did not start: see {log.name}")
        return child

    async def end(self, child: "subprocess.Popen[bytes]") -> None:
        child.terminate()
        status = await asyncio.to_thread(child.wait, CHILD_S)
        if status:
            raise OSError(f"{child.args}: exit status {status}")

    async def look_after(self) -> None:
        """A node that ends by itself is a violation; the run goes on with a new process, once."""
        ends: Counter[int] = Counter()
        while True:
            for node in self.nodes.values():
                status = node.ended()
                if status == 0 and node.may_leave:
                    node.note("stop")
                    node.process = None
                elif status is not None:
                    self.verdict.violations.append(
                        f"node {node.id} ended by itself, status {status}:\n{node.tail()}")
                    node.note("stop")
                    node.process, node.paused = None, False
                    ends[node.id] += 1
                    if ends[node.id] <= RESTARTS:
                        node.start()
            await asyncio.sleep(LOOK_S)

    def stop_nodes(self) -> None:
        for node in self.nodes.values():
            if node.process is not None and (status := node.stop()):
                judged = self.verdict.late if status == -signal.SIGKILL else self.verdict.violations
                judged.append(f"node {node.id}: exit status {status} after SIGTERM:\n{node.tail()}")

    def close(self) -> None:
        """Ends whatever still runs; may be called at any point."""
        for node in self.nodes.values():
            if node.process is not None:
                node.kill()
        for child in self.children:
            child.kill()
            child.wait(CHILD_S)
            if child.stdout:
                child.stdout.close()
        for connection in self.connections.values():
            connection.close()

    # ------------------------------------------------------------------------------ waiting
    async def ask(self, node: Node, path: str) -> tuple[int, dict]:
        return await ask_port(node.host, node.health, path)

    async def until(self, what: str, seconds: float, probe) -> bool:
        deadline = time.monotonic() + seconds
        while not await probe():
            if time.monotonic() > deadline:
                states = [(await self.ask(n, "/health"))[1] for n in self.nodes.values()]
                self.verdict.late.append(
                    f"{what}: not within {seconds:g} s: {json.dumps(states)}")
                return False
            await asyncio.sleep(0.02)
        return True

    async def leads(self) -> bool:
        return await self.faults.leader() is not None

    async def serves(self) -> bool:
        """Does each node take a write now?"""
        for i in self.nodes:
            op = new(OURS + len(self.own), "put", f"healed-{i}", i,
                     value=f"healed-{i}-{len(self.own)}")
            await perform(self.connections[i], op, 1.0)
            self.own.append(op)
            if op.outcome != "ok":
                return False
        return True

    async def agree(self) -> bool:
        """Are all in one state, for a while, with nothing under way? A write that a client gave up
        may wait for a slow sync, and be committed later."""
        states = [(await self.ask(n, "/health"))[1] for n in self.nodes.values()]
        views = {tuple(state.get(name) for name in AGREED) for state in states}
        view = views.pop()
        equal = not views and None not in view and len(set(view[:3])) == 1
        if not equal or view != self.agreed[0]:
            self.agreed = (view if equal else None), time.monotonic()
        return equal and time.monotonic() - self.agreed[1] > SETTLED_S

    # ----------------------------------------------------------------------------- judgement
    def history(self) -> list[Operation]:
        """All operations, ours too, with the process of the node that answered each."""
        recorded = histories.read(self.root / "load.ndjson")
        # a read that was queued in a paused node which then died was never asked
        ours = [op for op in [*self.own, *self.faults.queued] if op.start]
        operations = sorted([*recorded, *ours], key=lambda op: op.end)
        for n, op in enumerate(operations):
            op.life = self.nodes[op.node].life(op.start, op.end) or -1 - n
        return operations

    async def read_all(self) -> None:
        """Every key, at every node: they agree, so even a local read must be fresh."""
        for key in sorted({op.key for op in self.history()}):
            for i, connection in self.connections.items():
                op = new(OURS + len(self.own), "get", key, i, policy="eventual")
                await perform(connection, op, 5.0)
                op.policy = "linearizable"
                self.own.append(op)
                if op.outcome not in ("ok", "missing"):
                    self.verdict.violations.append(f"a final read failed: {op}")
                    return

    async def read_metrics(self) -> None:
        """The product's own watchdogs, where no pause of ours is in them."""
        for node in (n for n in self.nodes.values() if not n.was_paused):
            connection = Connection(node.host, node.health)
            try:
                text = (await connection.ask("GET", "/metrics", within_s=2.0)).body.decode()
            except OSError:
                continue
            finally:
                connection.close()
            take_metrics(self.verdict, text)

    def judge(self) -> None:
        verdict, history = self.verdict, self.history()
        watched = json.loads((self.root / "watched.json").read_text())
        histories.write(self.root / "history.ndjson", history, base=0)
        if violation := check(history, base=0):
            verdict.violations.append(str(violation))
        verdict.violations += watched["violations"]
        verdict.violations += [
            f"the term of node {i} fell from {high} to {low}" for i, high, low, a, b
            in watched["falls"] if not self.nodes[i].was_emptied(a, b)]
        verdict.late += self.faults.late
        for node in self.nodes.values():
            verdict.late += silences(node, watched["silences"])
        settle(verdict, watched["stall_s"])
        writes = [op for op in history if op.kind in WRITES]
        verdict.operations = sum(op.outcome in ("ok", "conflict", "missing") for op in history
                                 if op.process < OURS)
        verdict.writes = len(writes)
        verdict.unknown = sum(op.outcome == "unknown" for op in writes)
        verdict.samples = watched["samples"]
        verdict.leader_changes = watched["terms"] - 1
        verdict.unavailable_ms = longest_gap_ms(writes)
        self.count_faults()
        if verdict.operations < self.min_operations:
            verdict.void.append(f"{verdict.operations} operations of {self.min_operations}")
        verdict.void += self.faults.trouble
        lines = [asdict(d) for d in self.faults.done]
        (self.root / "faults.json").write_text(json.dumps(lines, indent=1))

    def count_faults(self) -> None:
        verdict, real = self.verdict, [d for d in self.faults.done if d.triggered]
        for done in real:
            verdict.faults[done.fault.kind] = verdict.faults.get(done.fault.kind, 0) + 1
        verdict.missed = len(self.faults.done) - len(real)
        verdict.overlapping = overlap(real)
        if len(real) < MIN_TRIGGERED * len(self.plan.faults):
            verdict.void.append(f"{len(real)} faults of {len(self.plan.faults)} took place")
        if verdict.overlapping < 2:
            verdict.void.append("no two faults overlapped")


def settle(verdict: Verdict, stall_s: float) -> None:
    """What was late is a violation, unless the machine stood still: then the run is void. What must
    hold at any speed (the history, one primary, terms) is a violation either way."""
    if stall_s > STALL_S:
        verdict.void += [f"the machine stood still for {stall_s:.1f} s", *verdict.late]
    else:
        verdict.violations += verdict.late
    verdict.late = []


def take_metrics(verdict: Verdict, text: str) -> None:
    """What one node tells of itself: the longest of all nodes, the sums over all."""
    for name in ("longest_turn_us", "longest_sync_us", "syncs", "sync_bytes", "log_stalls",
                 "log_stall_us"):
        found = re.search(rf"^dengine_{name}(?:_total)? ([\d.e+]+)$", text, re.M)
        if found is None:
            raise OSError(f"/metrics has no {name}")
        before, value = getattr(verdict, name), int(float(found[1]))
        setattr(verdict, name, max(before, value) if name.startswith("longest") else before + value)


def overlap(faults: list[Done]) -> int:
    """Most faults that held at one moment."""
    edges = sorted([(d.begin_ns, 1) for d in faults] + [(d.end_ns, -1) for d in faults])
    now = most = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


def longest_gap_ms(writes: list[Operation]) -> int:
    """Longest time between two acknowledged writes."""
    moments = sorted(op.end for op in writes if op.outcome == "ok")
    return max((b - a for a, b in pairwise(moments)), default=0) // 1_000_000


def silences(node: Node, listed: list[list[int]]) -> list[str]:
    """Silences of the health port that no pause, kill or start excuses."""
    running: list[tuple[int, int]] = []
    since = None
    for ns, what in node.journal:
        if since is not None:
            running.append((since, ns))
        since = {"start": ns + int(START_S * 1e9), "go": ns}.get(what)
    found = []
    for of, begin, end in listed:
        for a, b in running if of == node.id else []:
            silent = (min(end, b) - max(begin, a)) / 1e9
            if silent > SILENCE_S:
                found.append(f"/health of node {of} did not answer for {silent:.1f} s")
    return found
