from dengine._core.turn import Turn

def change(turn: Turn, what: str, node: int, address: bytes = b"", promote: bool = False) -> None:
    """Begins a change of the membership: `what` is add, promote, remove or replace.

    The leader goes on with it by itself. Raises RequestError, UnavailableError: nothing was done.
    """

def members(turn: Turn) -> list[dict[str, object]]:
    """Every member, by id: its address, role, whether it is connected, what it has of the log."""

def settled(turn: Turn) -> bool:
    """Is the configuration that acts committed, and no change of voters under way?"""
