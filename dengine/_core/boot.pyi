"""Opens, watches and closes the core of one node."""
import asyncio
from typing import Any

from dengine._core.turn import Turn

def open_turn(directory: bytes, has_meta: bool, names: list[str], snapshots: list[str],
              setup: object) -> Turn:
    """The core of the node in `directory`, recovered; its workers are not started yet."""

def what_is_left(directory: bytes, names: list[str], snapshots: list[str],
                 setup: object) -> int:
    """The last entry that a start with `setup.repair` would go on from. It changes no entry."""

def start(turn: Turn, event_fd: int) -> None:
    """Starts the flusher and the preparer; both tell `event_fd` (or -1: nobody)."""

def close(turn: Turn) -> None:
    """A clean stop: what was written is synced, the mark says so, every waiter is told."""

def is_primary(turn: Turn) -> bool:
    """Does this node lead under a valid lease, its no-op committed?"""

def is_replica(turn: Turn) -> bool:
    """Is this a voter that follows and heard its leader within the promise?"""

def members(turn: Turn) -> list[tuple[int, bytes]]:
    """(id, address) of every member."""

def status(turn: Turn) -> dict[str, Any]:
    """What `/health`, `/metrics` and `dengine status` show."""

def ask_snapshot(turn: Turn) -> int:
    """A snapshot is begun in the next turn; the entry that it will hold at least."""

def found(turn: Turn) -> str:
    """What the start found, in one line; what it cut and why is in `turn.notes`."""

def transfer(turn: Turn, to: int = 0) -> int:
    """Begins to hand the lead over to that voter, 0: to the one that is ahead; who it is. Raises
    RequestError, UnavailableError."""

def transferee(turn: Turn) -> int:
    """Who is to lead next; 0: nobody, the transfer is over."""

def attach(turn: Turn, loop: asyncio.AbstractEventLoop) -> None:
    """`loop`, which runs in the calling thread, runs the turn from now on."""
