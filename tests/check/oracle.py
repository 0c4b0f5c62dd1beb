"""Oracles for tiny histories: every order is tried. Slow, plain, and independent of the checkers.

They decide what linearizable means for the rest: `store_explains` with revisions, for the whole
store and its eventual reads; `register_explains` without them, for one key.
"""

from collections.abc import Iterator, Mapping, Sequence

from tests.check.history import ANY, Operation

State = Mapping[str, tuple[str, int]]       # key -> value, mod_revision


def store_explains(operations: Sequence[Operation]) -> bool:
    """Some order of all operations gives every answer, from an empty store at revision 0."""
    return _store_order(_asked(operations), {}, 0)


def _asked(operations: Sequence[Operation]) -> list[Operation]:
    return [op for op in operations if op.outcome != "refused"
            and not (op.kind == "get" and op.outcome == "unknown")]


def _before(a: Operation, b: Operation) -> bool:
    """Must a take effect before b? An eventual read may miss what its node has not heard of."""
    if a.outcome == "unknown" or a.end >= b.start:
        return False
    return b.policy != "eventual" or (a.node, a.life) == (b.node, b.life)


def _next(left: Sequence[Operation]) -> Iterator[tuple[Operation, list[Operation]]]:
    for i, op in enumerate(left):
        if not any(_before(other, op) for other in left if other is not op):
            yield op, [*left[:i], *left[i + 1:]]


def _store_order(left: Sequence[Operation], state: State, revision: int) -> bool:
    if all(op.outcome == "unknown" for op in left):
        return True
    for op, rest in _next(left):
        after = _store_step(op, state, revision)
        if after and _store_order(rest, *after):
            return True
    return False


def _store_step(op: Operation, state: State, revision: int) -> tuple[State, int] | None:
    """State and revision after the operation; None: it would have answered otherwise."""
    value, mod = state.get(op.key, (None, 0))
    if op.kind == "get":
        told = (op.value, op.mod, op.revision, op.outcome)
        right = (value, mod, revision, "ok" if mod else "missing")
        return (state, revision) if told == right else None
    held = op.expect is None or op.expect == mod or (op.expect == ANY and mod > 0)
    if not held:
        outcome, told, right = "conflict", op.mod, mod
    elif op.kind == "delete" and not mod:
        outcome, told, right = "missing", op.revision, revision
    else:
        outcome, told, right = "ok", op.revision, revision + 1
    if op.outcome == "unknown":
        if outcome != "ok":
            return None                 # it changes nothing: as if it never happened
    elif (op.outcome, told) != (outcome, right):
        return None
    if outcome != "ok":
        return state, revision
    changed = {**state}
    if op.kind == "delete":
        del changed[op.key]
    else:
        assert op.value is not None
        changed[op.key] = op.value, revision + 1
    return changed, revision + 1


# ---------------------------------------------------------------- one key, revisions hidden
def register_explains(operations: Sequence[Operation], values: Mapping[int, str]) -> bool:
    """Some order of one key's operations gives every answer; `values` tells which value each
    condition names."""
    asked = [op for op in _asked(operations) if op.policy != "eventual"]
    return _register_order(asked, None, values)


def _register_order(
    left: Sequence[Operation], state: str | None, values: Mapping[int, str]
) -> bool:
    if all(op.outcome == "unknown" for op in left):
        return True
    for op, rest in _next(left):
        if op.kind == "get":
            if op.value == state and _register_order(rest, state, values):
                return True
            continue
        if not _register_answers(op, state, values):
            continue
        after = state
        if op.outcome in ("ok", "unknown"):
            after = None if op.kind == "delete" else op.value
        if _register_order(rest, after, values):
            return True
    return False


def _register_answers(op: Operation, state: str | None, values: Mapping[int, str]) -> bool:
    """Whether this outcome is possible in this state; an unknown one, that it takes effect."""
    if op.outcome == "missing":
        return state is None
    if op.expect is None:
        return op.kind == "put" or state is not None or op.outcome == "unknown"
    if op.expect == 0:
        held = state is None
    elif op.expect == ANY:
        held = state is not None
    elif op.expect in values:
        held = state == values[op.expect]
    elif op.outcome == "conflict":
        return True                     # nobody knows the value that it names
    else:
        held = state is not None
    return held != (op.outcome == "conflict")
