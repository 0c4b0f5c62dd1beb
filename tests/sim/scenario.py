"""Random runs of the in-memory cluster: load and faults from one seed, then peace and a reckoning.

    replay(seed)    runs a seed again and prints its parameters and last events
"""
from __future__ import annotations

import random
import shutil
import tempfile
from typing import Any

from tests.sim import history
from tests.sim.cluster import Cluster

MS = 1000
SECOND = 1_000_000
PEACE_US = 10 * SECOND  # within which a healed cluster must serve and agree
LARGE = 300 << 10


class Run:
    """One seed. `faults` per second of simulated time."""

    def __init__(self, seed: int, directory: str, nodes: int | None = None,
                 strategy: int | None = None, seconds: float | None = None) -> None:
        self.random = r = random.Random(seed)
        self.seed = seed
        self.nodes = nodes or r.choice((1, 3, 3, 3, 5))
        self.strategy = r.randrange(2) if strategy is None else strategy
        self.seconds = seconds or r.uniform(4, 10)
        self.op_us = int(r.choice((2, 5, 10, 30)) * MS)
        self.fault_us = int(r.uniform(0.15, 1.5) * SECOND)
        self.keys = r.randrange(2, 20)
        self.large = r.random() < 0.2
        self.kinds = [k for k in FAULTS if r.random() < 0.7] or ["kill"]
        options: dict[str, Any] = {
            "threshold": r.choice((1, 10, 100)), "interval_us": r.choice((1, 20)) * MS}
        self.cluster = Cluster(seed, directory, nodes=self.nodes, strategy=self.strategy, **options)
        self.counts: dict[str, int] = {}
        self.writes = 0
        self.until = 0

    def __repr__(self) -> str:
        return (f"seed {self.seed}: {self.nodes} nodes, strategy {self.strategy}, "
                f"{self.seconds:.1f} s, an operation every {self.op_us // MS} ms, a fault every "
                f"{self.fault_us // MS} ms of {self.kinds}: {self.counts}")

    def __call__(self) -> Run:
        c = self.cluster
        c.start()
        self.until = int(self.seconds * SECOND)
        self._again(self.op_us, self._operation)
        self._again(self.fault_us, self._fault)
        c.run_for(self.until)
        self._peace()
        return self

    def _again(self, mean_us: int, what: Any) -> None:
        """Calls `what` at random intervals until the end of the first phase."""
        def call() -> None:
            if self.cluster.now_us < self.until:
                what()
                self.cluster.at(int(self.random.expovariate(1 / mean_us)) + 1, call)
        self.cluster.at(int(self.random.expovariate(1 / mean_us)) + 1, call)

    def _alive(self) -> list[int]:
        return [n.index for n in self.cluster.nodes if n.alive]

    # ------------------------------------------------------------------------------------- load
    def _operation(self) -> None:
        r, c = self.random, self.cluster
        alive = self._alive()
        if not alive:
            return
        for _ in range(r.choice((1, 1, 1, 2, 20))):
            node = r.choice(alive)
            key = b"k%d" % r.randrange(self.keys)
            timeout = r.choice((150 * MS, SECOND, 5 * SECOND))
            kind = r.random()
            if kind < 0.45:
                self.writes += 1
                value = b"w%d" % self.writes
                if self.large and r.random() < 0.1:
                    value += b"." * r.randrange(LARGE)
                c.put(node, key, value, timeout)
            elif kind < 0.5:
                c.delete(node, key, timeout)
            else:
                c.get(node, key, r.randrange(3), timeout)

    # ----------------------------------------------------------------------------------- faults
    def _fault(self) -> None:
        kind = self.random.choice(self.kinds)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        FAULTS[kind](self)

    def _later(self, low_ms: int, high_ms: int) -> int:
        return int(self.random.uniform(low_ms, high_ms) * MS)

    def _kill_one(self, node: int) -> None:
        if self.cluster.nodes[node].alive:
            self.cluster.kill(node)
            self.cluster.at(self._later(1, self.random.choice((50, 500, 4000))),
                            lambda: self._boot(node))

    def _boot(self, node: int) -> None:
        if not self.cluster.nodes[node].alive:
            self.cluster.boot(node)

    def _any(self) -> int:
        leader = self.cluster.leader()
        if leader >= 0 and self.random.random() < 0.5:
            return leader
        return self.random.randrange(self.nodes)

    def _kill(self) -> None:
        self._kill_one(self._any())

    def _kill_all(self) -> None:
        for node in range(self.nodes):
            self._kill_one(node)

    def _pause(self) -> None:
        self.cluster.pause(self._any(), self._later(5, self.random.choice((300, 3000))))

    def _stall(self) -> None:
        self.cluster.stall(self._any(), self._later(5, self.random.choice((300, 3000))))

    def _cut(self) -> None:
        a, b = self._any(), self.random.randrange(self.nodes)
        if a != b:
            self.cluster.cut(a, b, both=self.random.random() < 0.5)
            self.cluster.at(self._later(10, 3000), lambda: self.cluster.heal(a, b))

    def _partition(self) -> None:
        side = {n for n in range(self.nodes) if self.random.random() < 0.5} or {self._any()}
        pairs = [(a, b) for a in side for b in range(self.nodes) if b not in side]
        for a, b in pairs:
            self.cluster.cut(a, b)
        self.cluster.at(self._later(10, 4000),
                        lambda: [self.cluster.heal(a, b) for a, b in pairs])

    def _disconnect(self) -> None:
        a, b = self._any(), self.random.randrange(self.nodes)
        if a != b and self.cluster.nodes[a].alive:
            self.cluster.disconnect(a, b)

    # -------------------------------------------------------------------------------- reckoning
    def _peace(self) -> None:
        c = self.cluster
        c.heal()
        for node in range(self.nodes):
            c.stall(node, 0)
            self._boot(node)
        assert c.run_until(c.settled, PEACE_US), (
            "a healed cluster does not serve: "
            f"{[(n.index, n.alive) for n in c.nodes]} leader {c.leader()} {c.states()}")
        last = [c.put(i, b"last%d" % i, b"last%d" % i) for i in range(self.nodes)]
        assert c.run_until(c.settled, PEACE_US), f"no service after peace: {c.states()}"
        assert all(x.status == history.OK for x in last), last
        commands = c.commands(0)
        replay = history.check(commands, c.clients)
        for i in range(self.nodes):
            assert c.items(i) == replay.state, f"node {i + 1} has another state than the log"
        assert c.faults == []


FAULTS = {name[1:]: getattr(Run, name) for name in (
    "_kill", "_kill_all", "_pause", "_stall", "_cut", "_partition", "_disconnect")}


def run(seed: int, **options: Any) -> Run:
    """Runs one seed in a directory of its own, which is removed. Raises what is wrong."""
    directory = tempfile.mkdtemp(prefix="dengine-sim-", dir=options.pop("base", None))
    current = Run(seed, directory, **options)
    try:
        return current()
    except BaseException as error:
        error.add_note(f"{current!r}; run it again with tests.sim.scenario.replay({seed})")
        error.run = current  # type: ignore[attr-defined]
        raise
    finally:
        current.cluster.close()
        shutil.rmtree(directory, ignore_errors=True)


def replay(seed: int, **options: Any) -> None:
    """Runs a seed that failed; prints the parameters and the last 200 events."""
    try:
        print(run(seed, **options))
    except BaseException as error:
        for event in error.run.cluster.trace:  # type: ignore[attr-defined]
            print(*event)
        raise
