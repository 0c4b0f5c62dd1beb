from typing import NamedTuple

class Entry(NamedTuple):
    """A key's value, the revision that changed it last, and the store's when it was read."""

    value: bytes
    mod_revision: int
    revision: int

class Waiter: ...
class Link: ...
