"""Judges the history of a run: replay in the order of revisions, plus real time.

It decides what contradicts linearizability where every reply carries a revision: writes have
unique, dense revisions that respect real time; what a read saw at revision R is what the writes up
to R left; reads that are not eventual are never older than anything anyone had heard before they
began. A write without an answer may have happened once, at any time after it began, or never.
O(n log n). It knows operations only, not where or how they were run.
"""

import bisect
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from tests.chaos.load import Operation

WRITES = ("put", "cas", "delete")
SHOWN = 20                  # violations listed of one history
NEVER = math.inf


def check(history: Sequence[Operation]) -> list[str]:
    """What contradicts; empty: the history is linearizable in the order of its revisions."""
    judge = Judge(history)
    judge.writes_in_order()
    for op in history:
        judge.one(op)
    judge.density()
    return judge.found[:SHOWN]


def text(op: Operation) -> str:
    what = f"{op.kind} {op.key}" + (f" {op.policy}" if op.policy else "")
    at = f"revision {op.revision}" + (f" read at {op.read_revision}" if op.read_revision else "")
    return f"[{what} value {op.value} by {op.process} at node {op.node}: {op.outcome}, {at}, " \
           f"invoked {op.invoke_ns}]"


def returned(op: Operation) -> float:
    return NEVER if op.return_ns is None else op.return_ns


class Judge:
    """Tables of one history: who wrote each revision, what was heard when."""

    def __init__(self, history: Sequence[Operation]) -> None:
        self.history = history
        self.found: list[str] = []
        self.by_value = {op.value: op for op in history if op.kind in ("put", "cas")}
        self.writer: dict[int, Operation] = {}          # revision -> its write
        self.deletes: dict[str, list[Operation]] = defaultdict(list)     # unknown outcome
        for op in history:
            if op.kind in WRITES and op.outcome == "ok":
                self.wrote(op.revision or 0, op)
            if op.kind == "delete" and op.outcome == "unknown":
                self.deletes[op.key].append(op)
        for op in history:
            if op.kind == "get" and op.outcome == "ok":
                self.attribute(op)
        self.revisions = sorted(self.writer)
        self.of_key: dict[str, list[int]] = defaultdict(list)
        for revision in self.revisions:
            self.of_key[self.writer[revision].key].append(revision)
        self.begun: list[int] = []      # by position in revisions: latest invocation up to it
        for revision in self.revisions:
            invoked = self.writer[revision].invoke_ns
            self.begun.append(max(invoked, self.begun[-1]) if self.begun else invoked)
        self.heard_at, self.heard = heard(history)

    def wrote(self, revision: int, op: Operation) -> None:
        other = self.writer.setdefault(revision, op)
        if other is not op:
            self.found.append(f"revision {revision} twice: {text(other)} and {text(op)}")

    def attribute(self, read: Operation) -> None:
        """A value that was read names its write, also one whose outcome was not heard."""
        write = self.by_value.get(read.value)
        if write is None or write.key != read.key:
            self.found.append(f"a value that nobody wrote there: {text(read)}")
        elif write.outcome in ("refused", "conflict"):
            self.found.append(f"a write without effect was read: {text(write)} by {text(read)}")
        elif write.outcome == "ok":
            if write.revision != read.revision:
                self.found.append(f"written as {text(write)}, read as {text(read)}")
        else:
            if write.revision not in (None, read.revision):
                self.found.append(f"one write at two revisions: {text(write)} {text(read)}")
            write.revision = read.revision
            self.wrote(read.revision or 0, write)

    # ------------------------------------------------------------------------------- rules
    def writes_in_order(self) -> None:
        """A write that ended before another began has the lower revision."""
        soonest, first = NEVER, None
        for revision in reversed(self.revisions):
            op = self.writer[revision]
            if soonest < op.invoke_ns and first is not None:
                self.found.append(f"against real time: {text(first)} before {text(op)}")
            if returned(op) < soonest:
                soonest, first = returned(op), op

    def one(self, op: Operation) -> None:
        floor = self.floor(op.invoke_ns)
        if op.kind in WRITES and op.outcome == "ok" and (op.revision or 0) <= floor:
            self.found.append(f"revision {floor} was heard before it began: {text(op)}")
        if op.kind == "cas" and op.outcome == "ok":
            self.swapped(op)
        if op.kind == "cas" and op.outcome == "conflict":
            self.conflicted(op, floor)
        if op.read_revision is None or op.outcome not in ("ok", "missing"):
            return
        if op.policy != "eventual" and op.read_revision < floor:
            self.found.append(f"stale: revision {floor} was heard before it began: {text(op)}")
        self.not_before_its_time(op, op.read_revision)
        self.explained(op, op.read_revision)

    def explained(self, op: Operation, at: int) -> None:
        """What a read saw at a revision is what the writes up to it left."""
        newest = self.newest(op.key, at)
        if op.outcome == "ok":
            if op.revision is None or op.revision > at or op.revision < newest:
                self.found.append(f"the key was written at {newest}: {text(op)}")
            elif (write := self.writer.get(op.revision)) and write.kind == "delete":
                self.found.append(f"a deleted key was read: {text(op)}")
        elif newest and not self.gone(op.key, newest, at, op):
            self.found.append(f"lost: {text(self.writer[newest])}: {text(op)}")

    def swapped(self, op: Operation) -> None:
        """Nothing was written to the key between what a swap asked for and the swap."""
        newest = self.newest(op.key, (op.revision or 0) - 1)
        if op.expected == 0:
            if newest and not self.gone(op.key, newest, op.revision or 0, op):
                self.found.append(f"created over {text(self.writer[newest])}: {text(op)}")
        elif newest > (op.expected or 0):
            self.found.append(f"swapped over {text(self.writer[newest])}: {text(op)}")

    def conflicted(self, op: Operation, floor: int) -> None:
        newest = self.newest(op.key, floor)
        if op.revision == op.expected:
            self.found.append(f"a conflict without a reason: {text(op)}")
        elif op.revision and op.revision < newest:
            self.found.append(f"a conflict with what was overwritten at {newest}: {text(op)}")
        elif op.revision:
            self.not_before_its_time(op, op.revision)

    def density(self) -> None:
        """Revisions that no known write has: no more than writes whose outcome is unknown."""
        last = max((op.read_revision or 0 for op in self.history), default=0)
        free = last - bisect.bisect_right(self.revisions, last)
        silent = sum(op.kind in WRITES and op.outcome == "unknown" and op.revision is None
                     for op in self.history)
        if free > silent:
            self.found.append(f"{free} revisions have no writer, {silent} writes are unknown")

    # ------------------------------------------------------------------------------ look-ups
    def floor(self, ns: int) -> int:
        """The highest revision that anyone had heard of before this moment."""
        n = bisect.bisect_left(self.heard_at, ns)
        return self.heard[n - 1] if n else 0

    def newest(self, key: str, at: int) -> int:
        revisions = self.of_key.get(key, [])
        n = bisect.bisect_right(revisions, at)
        return revisions[n - 1] if n else 0

    def not_before_its_time(self, op: Operation, at: int) -> None:
        n = bisect.bisect_right(self.revisions, at)
        if n and self.begun[n - 1] > returned(op):
            self.found.append(f"it saw a write that had not begun: {text(op)}")

    def gone(self, key: str, newest: int, at: int, op: Operation) -> bool:
        """Could the key be absent at revision `at`? By the newest write, or by a delete that was
        not answered and has a revision left to be at."""
        if self.writer[newest].kind == "delete":
            return True
        taken = bisect.bisect_right(self.revisions, at) - bisect.bisect_right(self.revisions,
                                                                              newest)
        begun = any(d.invoke_ns < returned(op) for d in self.deletes.get(key, ()))
        return begun and at - newest > taken


def heard(history: Iterable[Operation]) -> tuple[list[int], list[int]]:
    """Moments at which an answer told a higher revision than all before, and these."""
    answers = sorted((op.return_ns, max(op.revision or 0, op.read_revision or 0))
                     for op in history
                     if op.return_ns is not None and op.outcome in ("ok", "missing", "conflict"))
    moments, highest = [], []
    for moment, revision in answers:
        if not highest or revision > highest[-1]:
            moments.append(moment)
            highest.append(revision)
    return moments, highest
