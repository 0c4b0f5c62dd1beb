"""Linearizability of millions of recorded operations, by the revisions in the answers.

    python -m tests.check.witness HISTORY

Every acknowledged write has a revision of its own; replay in their order must explain every answer;
and an operation that began after another had ended must not have a smaller revision. That takes
O(n log n) time and about 120 bytes an operation. Eventual reads owe less: a state that existed,
never an older one than the same life of the same node has shown before. It decides what is read
from where and how a contradiction is told; `_witness` decides what is one.

What it does not prove: where a write of unknown outcome left no value that was read, only numbers
are compared (enough such writes, begun early enough, free revisions). It never accuses falsely.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.check.history import Operation, read_at, read_header, read_with_offsets

try:
    from tests.check._witness import Found, Replay
except ImportError as error:        # pragma: no cover
    raise ImportError("build it first: DENGINE_TESTS=1 python setup.py build_ext --inplace"
                      ) from error


@dataclass(frozen=True)
class Violation:
    """What contradicts, and the operations that show it, in the order in which they began."""

    what: str
    operations: Sequence[Operation]

    def __str__(self) -> str:
        zero = min((op.start for op in self.operations), default=0)
        lines = [str(shifted(op, zero)) for op in self.operations]
        return "\n  ".join([f"{self.what}:", *lines])


def shifted(op: Operation, zero: int) -> Operation:
    copy = Operation(**{name: getattr(op, name) for name in op.__struct_fields__})
    copy.start -= zero
    copy.end -= zero
    return copy


def check(operations: Sequence[Operation], base: int | None = None) -> Violation | None:
    """The first violation of a history in memory; None: it is linearizable."""
    replay = Replay(base)
    for i, op in enumerate(operations):
        replay.add(op, i)
    return _verdict(replay, lambda offset: operations[offset])


def check_file(path: Path) -> tuple[int, Violation | None]:
    """How many operations were judged, and the first violation."""
    replay = Replay(read_header(path).base)
    add = replay.add
    for offset, op in read_with_offsets(path):
        add(op, offset)
    return len(replay), _verdict(replay, lambda offset: read_at(path, offset))


def _verdict(replay: Replay, fetch: Callable[[int], Operation]) -> Violation | None:
    try:
        replay.check()
    except Found as found:
        what, which = found.args
        involved = [fetch(replay.offset(i)) for i in dict.fromkeys(which) if 0 <= i < len(replay)]
        return Violation(what, sorted(involved, key=lambda op: op.start))
    return None


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    began = time.monotonic()
    operations, violation = check_file(Path(sys.argv[1]))
    print(f"{operations} operations in {time.monotonic() - began:.1f} s")
    if violation:
        sys.exit(f"NOT LINEARIZABLE: {violation}")
    print("linearizable")


if __name__ == "__main__":
    main()
