import asyncio
import socket
from collections.abc import Callable

from dengine._core.turn import Turn

class Peer(asyncio.Protocol):
    """One connection to a peer; `node` is the one that was dialled, 0 for an accepted one."""

    def __init__(
        self,
        turn: Turn,
        node: int,
        on_event: Callable[[Peer, str], None],
        on_up: Callable[[Peer, int], None],
        on_lost: Callable[[Peer], None],
        bulk: bool = False,
    ) -> None: ...
    @property
    def slot(self) -> int:
        """Of the peer; -1: not known before its hello."""
    @property
    def node(self) -> int:
        """Its id; 0: not known before its hello."""
    @property
    def dialled(self) -> bool: ...
    @property
    def bulk(self) -> bool:
        """The second connection, for snapshots."""
    @property
    def up(self) -> bool:
        """After the handshake."""
    @property
    def was_up(self) -> bool:
        """Did the handshake succeed?"""
    @property
    def opened_us(self) -> int: ...
    def abort(self) -> None:
        """Closes at once, without a word."""
    def give_up(self) -> None:
        """A newer connection to the same peer replaces this one: the core hears of it first."""
    def socket(self) -> socket.socket | None:
        """The socket, or None."""
    def address(self) -> str:
        """Where the other side is, as text."""
    def look(self, ping_us: int, silent_us: int) -> None:
        """By the node's timer: a silent connection is given up, an idle one says something."""

def question(node: int, to: int) -> bytes:
    """What an empty node asks the node `to`: which cluster is this?"""

def answered(data: bytes) -> int | None:
    """The cluster that the answer names; None: it is not complete. ValueError: it is none."""
