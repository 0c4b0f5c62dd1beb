"""A data directory made from a snapshot."""
from collections.abc import Callable

def restore(file: bytes, directory: bytes, setup: object,
            progress: Callable[[int], None]) -> dict[str, int]:
    """Makes the node of `setup` in an empty `directory` from the snapshot `file`."""
