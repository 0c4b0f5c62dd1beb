"""Good histories: a linearizable store, its clients and its nodes, run by a seed.

It decides what a correct cluster may answer: each operation takes effect at one moment between its
start and its end; one that is given up, at any later moment or never. Eventual reads are answered
from what a node has applied, which lags; a restarted node may lag more than before. It does not
know the checkers.
"""

import random
from bisect import bisect_right
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import cast

from tests.check.history import ANY, Kind, Operation, Outcome, Policy

POLICIES: tuple[Policy, ...] = ("linearizable", "lease", "eventual")
STEP_NS = 1000          # the mean of each part of an operation
GIVE_UP_NS = 4 * STEP_NS


@dataclass
class Store:
    """The current state, and what each key went through."""

    revision: int = 0
    state: dict[str, tuple[str, int]] = field(default_factory=dict)
    past: dict[str, list[tuple[int, str | None]]] = field(default_factory=dict)

    def apply(self, op: Operation) -> tuple[Outcome, int, int]:
        """Outcome, revision and mod_revision, as the store answers."""
        value, mod = self.state.get(op.key, (None, 0))
        if op.kind == "get":
            return ("ok" if mod else "missing"), self.revision, mod
        if op.expect is not None and not ((mod and op.expect == ANY) or op.expect == mod):
            return "conflict", 0, mod
        if op.kind == "delete" and not mod:
            return "missing", self.revision, 0
        self.revision += 1
        if op.kind == "delete":
            del self.state[op.key]
            value = None
        else:
            assert op.value is not None
            value = op.value
            self.state[op.key] = value, self.revision
        self.past.setdefault(op.key, []).append((self.revision, value))
        return "ok", self.revision, 0

    def at(self, key: str, revision: int) -> tuple[str | None, int]:
        """Value and mod_revision of a key when the store was at `revision`."""
        past = self.past.get(key, [])
        i = bisect_right(past, revision, key=lambda change: change[0])
        if not i or past[i - 1][1] is None:
            return None, 0
        return past[i - 1][1], past[i - 1][0]


class Run:
    """One history; `make` returns it in the order in which the operations ended."""

    def __init__(self, seed: int, operations: int, clients: int = 4, keys: int = 2,
                 unknown: float = 0.04, refused: float = 0.02, nodes: int = 3) -> None:
        self.rng = random.Random(seed)
        self.left = operations
        self.keys = [f"k{i}" for i in range(keys)]
        self.unknown, self.refused = unknown, refused
        self.store = Store()
        self.heap: list[tuple[int, int, str, object]] = []
        self.sequence = self.values = 0
        self.done: list[Operation] = []
        self.applied = [0] * nodes
        self.lives = [1] * nodes
        self.known: dict[str, int] = {}         # mod_revisions that clients have seen
        self.processes = clients
        for process in range(clients):
            self.later(0, "begin", process)

    def later(self, now: int, what: str, subject: object, mean: float = STEP_NS) -> None:
        """Times are random and never equal."""
        self.sequence += 1
        moment = now + int(self.rng.expovariate(1 / mean)) * 4096 + self.sequence % 4096
        heappush(self.heap, (moment, self.sequence, what, subject))

    def make(self) -> list[Operation]:
        while self.heap:
            now, _, what, subject = heappop(self.heap)
            getattr(self, what)(now, subject)
        return sorted(self.done, key=lambda op: op.end)

    # ------------------------------------------------------------ events
    def begin(self, now: int, process: int) -> None:
        if not self.left:
            return
        self.left -= 1
        op = self.new(now, process)
        if self.rng.random() < 0.01:
            self.restart(self.rng.randrange(len(self.lives)))
        op.node = self.rng.randrange(len(self.lives))
        op.life = self.lives[op.node]
        chance = self.rng.random()
        if chance < self.refused:
            op.outcome = "refused"
            self.later(now, "end", op)
        elif chance < self.refused + self.unknown and op.kind != "get":
            op.outcome = "unknown"
            self.later(now, "end", op, GIVE_UP_NS)
            if self.rng.random() < 0.6:
                self.later(now, "take_effect", op, GIVE_UP_NS * self.rng.choice((1, 1, 10)))
        else:
            self.later(now, "take_effect", op)

    def new(self, now: int, process: int) -> Operation:
        rng, key = self.rng, self.rng.choice(self.keys)
        kind = rng.choices(("get", "put", "delete", "cas"), (50, 25, 8, 17))[0]
        op = Operation(process=process, kind=cast(Kind, kind), key=key, start=now, end=0,
                       outcome="ok")
        if kind == "get":
            op.policy = rng.choice(POLICIES)
        if kind in ("put", "cas"):
            self.values += 1
            op.value = f"v{self.values}"
        if kind == "cas" or (kind == "delete" and rng.random() < 0.3):
            seen = self.known.get(key, 0)
            op.expect = rng.choices((seen, 0, ANY), (80, 12, 8))[0]
        return op

    def restart(self, node: int) -> None:
        """A life ends; the next may have applied less at first."""
        self.lives[node] += 1
        self.applied[node] = self.rng.randint(0, self.applied[node])

    def take_effect(self, now: int, op: Operation) -> None:
        if op.outcome == "unknown":
            self.store.apply(op)
            return
        if op.life != self.lives[op.node]:      # the node is gone: it was never asked
            op.outcome = "refused"
        elif op.policy == "eventual":
            applied = self.rng.randint(self.applied[op.node], self.store.revision)
            self.applied[op.node] = op.revision = applied
            op.value, op.mod = self.store.at(op.key, applied)
            op.outcome = "ok" if op.mod else "missing"
        else:
            op.outcome, op.revision, op.mod = self.store.apply(op)
            if op.kind == "get":
                op.value = self.store.state.get(op.key, (None, 0))[0]
            self.applied[op.node] = self.store.revision
        if op.mod or (op.kind in ("put", "cas") and op.outcome == "ok"):
            self.known[op.key] = op.mod or op.revision
        self.later(now, "end", op)

    def end(self, now: int, op: Operation) -> None:
        op.end = now
        self.done.append(op)
        again = op.process
        if op.outcome == "unknown":
            self.processes += 1
            again = self.processes
        self.later(now, "begin", again)


def generate(seed: int, operations: int, **more: float) -> list[Operation]:
    """The options of Run. The store is empty at first: the base is 0."""
    return Run(seed, operations, **more).make()  # type: ignore[arg-type]
