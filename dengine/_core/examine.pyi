from collections.abc import Callable
from typing import Any

PAGE: int
SEGMENT_DATA: int
SLOT_BYTES: int
HEADER_BYTES: int
MARK_BYTES: int

class Reader:
    """One directory's files, and a place among the records of one of them. Raises OSError."""

    @property
    def fault(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def crc(self) -> int: ...
    @property
    def padding(self) -> int: ...
    @property
    def strange(self) -> int: ...
    @property
    def strange_at(self) -> int: ...
    @property
    def newer(self) -> bool: ...
    def open(self, path: bytes) -> int:
        """A descriptor for reading; no link is followed, and nothing is waited for."""
    def close(self, fd: int) -> None: ...
    def bytes_of(self, fd: int) -> int:
        """The size of the file."""
    def drop(self, fd: int, size: int) -> None:
        """What the kernel holds of the file and calls clean is read from the disk again."""
    def snapshot(self, path: bytes, progress: Callable[[int], None]) -> dict[str, int]:
        """What a snapshot says, all its bytes verified. Raises StorageError and its kinds."""
    def read(self, fd: int, n: int, offset: int) -> bytes:
        """n bytes, at most a window; zeros where the file ends before."""
    def first_not_zero(self, fd: int, at: int, end: int) -> int:
        """The offset of the first byte in [at, end) that is not zero; -1: none."""
    def start(self, fd: int, size: int, index: int, term: int, crc: int) -> None:
        """Before the first record of a segment of `size` bytes that is anchored at this entry."""
    def follow(self, until: int, budget: int) -> bool:
        """Checks records up to entry `until`, or about `budget` bytes; False: `fault` ended it."""
    def next(self) -> dict[str, Any] | None:
        """The next record, decoded; None: `fault` says why there is none."""

def slot(page: bytes) -> tuple[int, dict[str, int]]:
    """(0; 1: damaged; 2: of a newer format, what it says) of a slot of `meta`."""

def header(page: bytes) -> tuple[int, dict[str, int]]:
    """(0; 1: blank; 2: damaged; 3: of a newer format, what it says) of a segment."""

def mark(page: bytes) -> dict[str, int] | None:
    """What a mark says; None: it is no valid one."""

def first_crc(cluster: int) -> int:
    """The checksum that the first record of a cluster continues."""
