"""The store as Python sees it: one process, in memory, ordered by key."""
from collections.abc import Iterator

class KV:
    """An ordered store of bytes in memory, for one process."""

    @property
    def revision(self) -> int:
        """Of the newest change: every change takes the next one."""
    @property
    def count(self) -> int:
        """Keys."""
    def store(self, key: bytes, value: bytes) -> int:
        """Puts a value and returns the revision of this change."""
    def lookup(self, key: bytes) -> tuple[bytes, int, int, int] | None:
        """(value, create_revision, mod_revision, version) of a key."""
    def remove(self, key: bytes) -> bool:
        """Deletes a key. Was it there?"""
    def __len__(self) -> int: ...
    def pin(self) -> Pin:
        """This generation of the store, which stays as it is while the store is changed."""
    def digest(self) -> int:
        """Equal for stores that made the same changes in the same order."""

class Pin:
    """One generation of a store, immutable. Dropping it frees what no other generation holds."""

    @property
    def revision(self) -> int: ...
    @property
    def count(self) -> int: ...
    def __len__(self) -> int: ...
    def scan(self, prefix: bytes = b"", start: bytes = b"") -> Scan:
        """(key, value) in key order, of keys that begin with `prefix` and are not below `start`."""
    def digest(self) -> int:
        """The digest of the store when it was pinned. Other threads run meanwhile."""

class Scan(Iterator[tuple[bytes, bytes]]):
    """Iterates over (key, value) of a Pin."""

    def __iter__(self) -> Scan: ...
    def __next__(self) -> tuple[bytes, bytes]: ...
