"""Known-bad histories: each kind of mutation takes a good one and makes one fault in it.

It decides where in a history a fault of its kind contradicts for certain, whatever was concurrent
or unknown, and changes the answers that would be different. `None`: there is no such place. The
operations it is given are not changed. It does not know how a checker works; `SEARCHABLE` says
which faults one can see at all without revisions, on one key, in reads that owe something.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from copy import copy

from tests.check.history import Operation

History = list[Operation]
Mutation = Callable[[Sequence[Operation], random.Random], History | None]


def _pick(rng: random.Random, sites: Iterator[tuple[Operation, ...]]) -> list[Operation] | None:
    found = list(sites)
    return list(rng.choice(found)) if found else None


def _writes(op: Operation) -> bool:
    return op.kind in ("put", "cas")


def _changed(op: Operation) -> bool:
    """An acknowledged change."""
    return op.kind != "get" and op.outcome == "ok"


def _fresh(op: Operation, policies: Sequence[str] = ("linearizable", "lease")) -> bool:
    """An answered read that owes the newest state."""
    return op.policy in policies and op.outcome in ("ok", "missing")


def _replaced(ops: Sequence[Operation]) -> Iterator[tuple[Operation, Operation]]:
    """(p, c) on one key: p wrote a value and had ended before c, acknowledged too, began."""
    changes = [op for op in ops if _changed(op)]
    for p in changes:
        for c in changes:
            if _writes(p) and p.key == c.key and p.end < c.start:
                yield p, c


def _show(read: Operation, value: str | None, mod: int) -> None:
    read.value, read.mod = value, mod
    read.outcome = "ok" if mod else "missing"


def _insert(ops: History, revision: int) -> None:
    """Makes room: what was at `revision` or later is one later."""
    for op in ops:
        op.revision += op.revision >= revision
        op.mod += op.mod >= revision
        if op.expect is not None:
            op.expect += op.expect >= revision


def _apply_late(ops: History, read: Operation, writer: Operation) -> None:
    """The write takes effect directly before the read, at a revision of its own."""
    end = min((op.revision for op in ops if op.key == read.key and _changed(op)
               and op.revision > read.revision), default=1 << 60)
    at = read.revision + 1
    later = [op for op in ops if op.kind == "get" and op.key == read.key
             and at <= op.revision < end]
    _insert(ops, at)
    read.revision = at
    for op in [read, *later]:
        _show(op, writer.value, at)


# ---------------------------------------------------------------- the kinds
def _stale(policy: str) -> Mutation:
    def mutate(ops: Sequence[Operation], rng: random.Random) -> History | None:
        mutated = [copy(op) for op in ops]
        site = _pick(rng, (
            (p, c, g) for p, c in _replaced(mutated) for g in mutated
            if _fresh(g, [policy]) and g.key == c.key and g.start > c.end
        ))
        if not site:
            return None
        p, c, g = site
        _show(g, p.value, p.revision)
        if rng.random() < 0.5:          # an old store, else a new store with an old value
            g.revision = c.revision - 1
        return mutated
    return mutate


def _lost(kind: Callable[[Operation], bool]) -> Mutation:
    """A change that was acknowledged is not there: what it replaced is read instead."""

    def mutate(ops: Sequence[Operation], rng: random.Random) -> History | None:
        mutated = [copy(op) for op in ops]

        def readers(p: Operation, c: Operation) -> History:
            if _writes(c):
                return [g for g in mutated if g.kind == "get" and g.value == c.value]
            until = min((op.revision for op in mutated if op.key == c.key and (
                _changed(op) or op.mod > 0) and max(op.revision, op.mod) > c.revision
            ), default=1 << 60)
            return [g for g in mutated if g.kind == "get" and g.key == c.key
                    and g.outcome == "missing" and c.revision <= g.revision < until]

        site = _pick(rng, (
            (p, c) for p, c in _replaced(mutated) if kind(c)
            and any(_fresh(g) and g.start > c.end for g in readers(p, c))
        ))
        if not site:
            return None
        p, c = site
        for g in readers(p, c):
            _show(g, p.value, p.revision)
        return mutated
    return mutate


def double_application(ops: Sequence[Operation], rng: random.Random) -> History | None:
    mutated = [copy(op) for op in ops]
    site = _pick(rng, (
        (p, g) for p, c in _replaced(mutated) for g in mutated
        if _fresh(g) and g.key == p.key and g.start > c.end and g.revision >= c.revision
    ))
    if not site:
        return None
    p, g = site
    _apply_late(mutated, g, p)
    return mutated


def both_swapped(ops: Sequence[Operation], rng: random.Random) -> History | None:
    mutated = [copy(op) for op in ops]
    known = {op.mod or op.revision for op in mutated if op.outcome == "ok" and op.value}
    site = _pick(rng, (
        (x, y) for x in mutated for y in mutated
        if x.kind == "cas" and x.outcome == "conflict" and x.key == y.key
        and _changed(y) and x.expect == y.expect and x.expect in known
    ))
    if not site:
        return None
    x, y = site
    at = y.revision + 1
    _insert(mutated, at)
    x.outcome, x.revision, x.mod = "ok", at, 0
    return mutated


def future(ops: Sequence[Operation], rng: random.Random) -> History | None:
    mutated = [copy(op) for op in ops]
    site = _pick(rng, (
        (g, c) for g in mutated for c in mutated
        if _fresh(g) and _writes(c) and _changed(c) and c.key == g.key and c.start > g.end
    ))
    if not site:
        return None
    g, c = site
    _show(g, c.value, c.revision)
    g.revision = max(g.revision, c.revision)
    return mutated


def refused_applied(ops: Sequence[Operation], rng: random.Random) -> History | None:
    mutated = [copy(op) for op in ops]
    site = _pick(rng, (
        (w, g) for w in mutated for g in mutated
        if _writes(w) and w.outcome == "refused" and _fresh(g) and g.key == w.key
        and g.start > w.end
    ))
    if not site:
        return None
    w, g = site
    _apply_late(mutated, g, w)
    return mutated


def inverted(ops: Sequence[Operation], rng: random.Random) -> History | None:
    """Two puts of one key change places, and the first one stays."""
    mutated = [copy(op) for op in ops]
    named = {op.expect for op in mutated} | {
        op.mod for op in mutated if op.outcome == "conflict"}
    seen = {op.value for op in mutated if op.kind == "get"}
    site = _pick(rng, (
        (a, b) for a, b in _replaced(mutated)
        if a.kind == "put" and b.kind == "put" and a.value not in seen
        and a.revision not in named and b.revision not in named
        and not any(_changed(op) and op.key == a.key and a.revision < op.revision < b.revision
                    for op in mutated)
        and any(_fresh(g) and g.value == b.value and g.start > b.end for g in mutated)
    ))
    if not site:
        return None
    a, b = site
    a.revision, b.revision = b.revision, a.revision
    for g in mutated:
        if g.kind == "get" and g.value == b.value:
            _show(g, a.value, a.revision)
    return mutated


def inverted_across_keys(ops: Sequence[Operation], rng: random.Random) -> History | None:
    mutated = [copy(op) for op in ops]
    changes = {op.revision: op for op in mutated if _changed(op)}
    read_at = {op.revision for op in mutated if op.kind == "get" or op.outcome == "missing"}
    site = _pick(rng, (
        (a, changes[r + 1]) for r, a in changes.items() if r not in read_at
        and r + 1 in changes and a.key != changes[r + 1].key and a.end < changes[r + 1].start
    ))
    if not site:
        return None
    first = site[0].revision
    swap = {first: first + 1, first + 1: first}
    for op in mutated:
        if _changed(op):
            op.revision = swap.get(op.revision, op.revision)
        op.mod = swap.get(op.mod, op.mod)
        if op.expect is not None:
            op.expect = swap.get(op.expect, op.expect)
    return mutated


def one_revision_twice(ops: Sequence[Operation], rng: random.Random) -> History | None:
    mutated = [copy(op) for op in ops]
    changes = [op for op in mutated if _changed(op)]
    if len(changes) < 2:
        return None
    a, b = rng.sample(changes, 2)
    a.revision = b.revision
    return mutated


def node_went_back(ops: Sequence[Operation], rng: random.Random) -> History | None:
    mutated = [copy(op) for op in ops]
    site = _pick(rng, (
        (a, b, p, c) for a in mutated for b in mutated
        if a.outcome in ("ok", "missing") and a.revision and a.kind == "get"
        and _fresh(b, ["eventual"]) and (a.node, a.life) == (b.node, b.life) and a.end < b.start
        for p, c in _replaced(mutated)
        if p.key == b.key and c.revision <= a.revision
    ))
    if not site:
        return None
    _, b, p, c = site
    _show(b, p.value, p.revision)
    b.revision = c.revision - 1
    return mutated


def no_prefix(ops: Sequence[Operation], rng: random.Random) -> History | None:
    """An eventual read misses a change, though it tells a later revision."""
    mutated = [copy(op) for op in ops]
    site = _pick(rng, (
        (p, g) for p, c in _replaced(mutated) for g in mutated
        if _fresh(g, ["eventual"]) and g.key == c.key and g.revision >= c.revision
    ))
    if not site:
        return None
    p, g = site
    _show(g, p.value, p.revision)
    return mutated


MUTATIONS: dict[str, Mutation] = {
    "stale linearizable read": _stale("linearizable"),
    "stale lease read": _stale("lease"),
    "lost write": _lost(_writes),
    "resurrected delete": _lost(lambda c: c.kind == "delete"),
    "double application": double_application,
    "both swaps succeeded": both_swapped,
    "read from the future": future,
    "refused write applied": refused_applied,
    "order inverted": inverted,
    "order inverted across keys": inverted_across_keys,
    "one revision twice": one_revision_twice,
    "eventual read went back": node_went_back,
    "eventual read of no prefix": no_prefix,
}
SEARCHABLE = frozenset(list(MUTATIONS)[:9])
