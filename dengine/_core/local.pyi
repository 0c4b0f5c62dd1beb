from typing import TypeVar, overload

from dengine._core.kv import Scan
from dengine._core.turn import Turn

T = TypeVar("T")

class LocalStore:
    """Point reads, writes and scans of one node in this process. Keys: bytes, or str as UTF-8.

    Every call may raise ClosedError, ForkedError or what stopped the node (StorageError).
    """

    turn: Turn
    def __init__(self, turn: Turn) -> None:
        """Takes over a started turn; returns when all that the log holds is applied."""
    @overload
    def get(self, key: bytes | str, default: None = None) -> bytes | None:
        """The value of `key` as bytes, or `default`."""
    @overload
    def get(self, key: bytes | str, default: T) -> bytes | T: ...
    def __getitem__(self, key: bytes | str) -> bytes: ...
    def __setitem__(self, key: bytes | str, value: bytes | str) -> None: ...
    def __delitem__(self, key: bytes | str) -> None: ...
    def __contains__(self, key: bytes | str) -> bool: ...
    def __len__(self) -> int: ...
    @property
    def revision(self) -> int:
        """The revision of the newest change; 0 in an empty store."""
    def items(self, prefix: bytes | str = b"", start: bytes | str = b"") -> Scan:
        """(key, value) pairs in key order, as they are at this call whatever is written then."""
    def put(self, key: bytes | str, value: bytes | str) -> int:
        """Sets `key`; returns its revision once the write is durable by the strategy.

        Raises TooLargeError; OutcomeUnknownError if the store stopped meanwhile.
        """
    def delete(self, key: bytes | str) -> bool:
        """Deletes `key`; True if it existed. Raises like `put`."""
    def check(self) -> None:
        """Raises what a call would raise: ClosedError, ForkedError, what stopped the node."""
    def shut(self) -> None:
        """No call is answered from now on."""
    def after_fork(self) -> None:
        """In a child of the process that opened the store: every call raises ForkedError."""
