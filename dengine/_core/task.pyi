import asyncio
from typing import Literal, TypeVar, overload

from dengine._core.turn import Turn
from dengine._core.types import Entry

T = TypeVar("T")
Consistency = Literal["linearizable", "lease", "eventual"]

class Gate:
    """The calls of an Engine, which may come from any event loop and thread.

    They are plain methods that return a future of the running loop; a cancelled one is forgotten.
    Keys and values may be str (UTF-8). Each may raise what `refusal()` returns.
    """

    turn: Turn
    def attach(
        self, turn: Turn, home: asyncio.AbstractEventLoop, timeout: float, policy: str
    ) -> None:
        """Opens the gate. `home`: the loop that runs the turn, where results need no wake-up."""
    def flush(self) -> None:
        """After each batch of results: one call into each loop that has any."""
    def shut(self) -> None:
        """Every later call raises what `refusal()` returns."""
    def refusal(self) -> Exception:
        """The exception that a call raises while the gate is shut."""
    @property
    def is_open(self) -> bool:
        """Are calls answered?"""
    def put(
        self,
        key: bytes | str,
        value: bytes | str,
        *,
        if_revision: int | None = None,
        timeout: float | None = None,
    ) -> asyncio.Future[int]:
        """Sets `key`; the future gives its revision once the write is committed and applied here.

        if_revision: only if the key is at that revision, 0: only if it does not exist
        (ConflictError). timeout in seconds, default http.request_timeout_ms. Raises
        NotProposedError, OutcomeUnknownError, TooLargeError, ClosedError.
        """
    def delete(
        self, key: bytes | str, *, if_revision: int | None = None, timeout: float | None = None
    ) -> asyncio.Future[bool]:
        """Deletes `key`; the future gives True if it existed. Raises like `put`."""
    @overload
    def get(
        self,
        key: bytes | str,
        default: None = None,
        *,
        consistency: Consistency | None = None,
        timeout: float | None = None,
    ) -> asyncio.Future[bytes | None]:
        """A future of the value of `key` as bytes, or of `default`.

        consistency: by default the configured policy. Raises UnavailableError, ClosedError.
        """
    @overload
    def get(
        self,
        key: bytes | str,
        default: T,
        *,
        consistency: Consistency | None = None,
        timeout: float | None = None,
    ) -> asyncio.Future[bytes | T]: ...
    def entry(
        self,
        key: bytes | str,
        *,
        consistency: Consistency | None = None,
        timeout: float | None = None,
    ) -> asyncio.Future[Entry | None]:
        """Like `get`: a future of the value with its revisions, or of None."""
    @overload
    def get_eventual(self, key: bytes | str, default: None = None) -> bytes | None:
        """The value of `key` in this node's own state, at once; it may be old. From any thread."""
    @overload
    def get_eventual(self, key: bytes | str, default: T) -> bytes | T: ...
