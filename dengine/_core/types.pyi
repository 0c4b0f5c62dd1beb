from typing import NamedTuple

class Entry(NamedTuple):
    """A key's value, the revision that changed it last, and the store's when it was read."""

    value: bytes
    mod_revision: int
    revision: int

class Waiter: ...
class Link: ...

class Work:
    """What a thread beside the node does step by step."""

    index: int
    size: int
    complete: bool
    def step(self) -> bool:
        """False: it is done. Raises what stopped it."""
    def close(self) -> None: ...
