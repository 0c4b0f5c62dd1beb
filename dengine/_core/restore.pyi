"""A data directory made from a snapshot, or with a hard state that is made again."""
from collections.abc import Callable

def restore(file: bytes, directory: bytes, setup: object,
            progress: Callable[[int], None]) -> dict[str, int]:
    """Makes the node of `setup` in an empty `directory` from the snapshot `file`."""

def rejoin(directory: bytes, setup: object, term: int, start: int) -> None:
    """A new file `meta`: the node's vote in `term` is its own, and it is in doubt."""
