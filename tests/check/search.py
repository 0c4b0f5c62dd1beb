"""Linearizability of one key's operations by search, with revisions hidden: a second opinion.

`witness` believes the revisions in the answers; this check does not look at them, except to learn
which value a condition names. It decides what each operation asks of a register (a condition on the
state and an effect) and when it must have taken effect; `_search` looks for the order. Eventual
reads are left out. Keys do not depend on each other, so each is searched alone; a history of a key
should have at most 10 clients at once and 1,000 operations. A search that exceeds its budget says
`unknown`, which whoever calls it must count as a failure.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.check.history import ANY, Operation

try:
    from tests.check._search import Search
except ImportError as error:        # pragma: no cover
    raise ImportError("build it first: DENGINE_TESTS=1 python setup.py build_ext --inplace"
                      ) from error

BUDGET = 5_000_000      # configurations; about a second
ALWAYS, IS, NOT = 0, 1, 2
KEEP = 0xFFFFFFFF
MISSING, UNSEEN, FIRST = 0, 1, 2        # states; those from FIRST on are values
REFUTED = {IS: NOT, NOT: IS, ALWAYS: ALWAYS}


@dataclass(frozen=True)
class Verdict:
    result: Literal["linearizable", "violation", "unknown"]
    steps: int = 0
    what: str = ""
    operation: Operation | None = None

    @property
    def good(self) -> bool:
        return self.result == "linearizable"

    def __str__(self) -> str:
        told = f"\n  {self.operation}" if self.operation else ""
        return f"{self.result} after {self.steps} steps {self.what}{told}"


def by_key(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    keys: dict[str, list[Operation]] = defaultdict(list)
    for op in operations:
        keys[op.key].append(op)
    return keys


def search_all(operations: Iterable[Operation], budget: int = BUDGET) -> Verdict:
    """The first verdict on a key that is not good, or the last."""
    verdict = Verdict("linearizable")
    for key in by_key(operations).values():
        verdict = search(key, budget)
        if not verdict.good:
            break
    return verdict


def search(operations: Sequence[Operation], budget: int = BUDGET) -> Verdict:
    """Whether one key's operations are linearizable."""
    key = Key(operations)
    engine, slots = Search(), {}
    for _, is_return, i in sorted(key.events):
        op = operations[i]
        if is_return:
            found = engine.ret(slots.pop(i), budget)
            if found < 0:
                return Verdict("unknown", engine.steps, "steps exceed the budget", op)
            if not found:
                states = ", ".join(map(key.name, engine.states()))
                return Verdict("violation", engine.steps, f"no order explains this, from {states}",
                               op)
        elif i in key.optional:
            if key.is_idle(op):
                continue
            if not engine.maybe(*key.asks(op)):
                return Verdict("unknown", engine.steps, "too many unknown outcomes", op)
        else:
            slots[i] = engine.call(*key.asks(op))
            if slots[i] < 0:
                return Verdict("unknown", engine.steps, "too many operations at once", op)
    return Verdict("linearizable", engine.steps)


class Key:
    """The operations of one key as calls and returns, conditions and effects."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        read = [(i, op) for i, op in enumerate(operations)
                if op.outcome != "refused" and not (op.kind == "get" and op.outcome == "unknown")]
        asked = [(i, op) for i, op in read if op.policy != "eventual"]
        self.values: dict[int, str] = {}        # by the revision that conditions name
        for _, op in read:
            if op.value is not None and op.outcome == "ok":
                self.values.setdefault(op.mod or op.revision, op.value)
        self.shown = self.when_shown([op for _, op in read])
        named = [self.values.get(op.expect or 0) for _, op in asked]
        named += [op.value for _, op in asked if op.kind == "get"]
        self.states = {v: i for i, v in enumerate(
            dict.fromkeys(v for v in named if v is not None), FIRST)}
        self.optional: set[int] = set()
        self.events: list[tuple[int, bool, int]] = []
        for i, op in asked:
            end: int | None = op.end
            if op.outcome == "unknown":
                end = self.shown.get(op.value or "")
            self.events.append((op.start, False, i))
            if end is None:
                self.optional.add(i)
            else:
                self.events.append((max(end, op.start), True, i))
        self.unseen = {operations[i].value for i in self.optional} - {None}

    def when_shown(self, operations: Sequence[Operation]) -> dict[str, int]:
        """When each value had certainly been written: something that it explains has ended. A
        compare-and-swap of unknown outcome whose value was seen shows the value that it named."""
        shown: dict[str, int] = {}
        swaps = {op.value: op for op in operations if op.kind == "cas" and op.outcome == "unknown"}
        for op in operations:
            value, end = op.value, op.end
            if op.outcome != "ok":
                continue
            if op.kind != "get":
                value = self.values.get(op.expect or 0)
            while value is not None and end < shown.get(value, end + 1):
                shown[value] = end
                value = self.values.get(swaps[value].expect or 0) if value in swaps else None
        return shown

    def asks(self, op: Operation) -> tuple[int, int, int]:
        """Condition, its operand, effect."""
        if op.kind == "get":
            return IS, self.states[op.value] if op.value is not None else MISSING, KEEP
        effect = MISSING
        if op.kind != "delete":
            assert op.value is not None
            effect = self.states.get(op.value, UNSEEN)
        condition, operand = ALWAYS, 0
        if op.expect == ANY:
            condition, operand = NOT, MISSING
        elif op.expect == 0:
            condition, operand = IS, MISSING
        elif op.expect is not None:
            condition, operand = self.named(op)
        elif op.kind == "delete" and op.outcome == "ok":
            condition, operand = NOT, MISSING
        if op.outcome == "missing":
            return IS, MISSING, KEEP
        if op.outcome == "conflict":
            return REFUTED[condition], operand, KEEP
        return condition, operand, effect

    def is_idle(self, op: Operation) -> bool:
        """It waits for a value that nobody saw, if it was written at all: nobody misses it."""
        value = self.values.get(op.expect or 0)
        return value in self.unseen

    def named(self, op: Operation) -> tuple[int, int]:
        """The condition that the key is at revision op.expect. Where that was only heard of in a
        conflict its value is not known: then some value, or for a conflict anything."""
        value = self.values.get(op.expect or 0)
        if value is not None:
            return IS, self.states[value]
        return (ALWAYS, 0) if op.outcome == "conflict" else (NOT, MISSING)

    def name(self, state: int) -> str:
        """Of a state, for people."""
        fixed = {MISSING: "missing", UNSEEN: "a value that nobody saw"}
        return fixed.get(state) or next(v for v, s in self.states.items() if s == state)
