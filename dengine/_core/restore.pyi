"""A data directory made from a snapshot, or with a hard state that is made again."""
from collections.abc import Callable
from typing import Any

def restore(file: bytes, directory: bytes, setup: object,
            progress: Callable[[int], None]) -> dict[str, int]:
    """Makes the node of `setup` in an empty `directory` from the snapshot `file`."""

def rejoin(directory: bytes, setup: object, term: int, start: int) -> None:
    """A new file `meta`: the node's vote in `term` is its own, and it is in doubt."""

def recover(directory: bytes, names: list[str], snapshots: list[str], setup: object, to: bytes,
            fresh: object, progress: Callable[[int], None]) -> dict[str, Any]:
    """Makes the node alone of `fresh` in the empty directory `to`, from all that the directory of
    `setup` holds, committed or not."""

def holds(directory: bytes, names: list[str], snapshots: list[str],
          setup: object) -> dict[str, Any]:
    """What `recover` would go on from: entries, how far they are known to be committed, whose."""
