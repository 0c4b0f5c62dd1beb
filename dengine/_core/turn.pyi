import asyncio
from collections.abc import Callable

from dengine._core.kv import KV
from dengine._core.raft import Raft
from dengine._core.types import Work

class Turn:
    """The core of one node; `boot.open_turn` makes it, `run` does what is due."""

    loop: asyncio.AbstractEventLoop | None
    on_results: Callable[[], None] | None
    on_fatal: Callable[[Exception], None] | None
    on_role: Callable[[], None] | None
    on_members: Callable[[], object] | None
    on_snapshot: Callable[[Work], None] | None
    def snapshot_ended(self, work: Work) -> None:
        """Whoever stepped it is done with it."""
    @property
    def kv(self) -> KV: ...
    @property
    def raft(self) -> Raft: ...
    @property
    def alone(self) -> bool:
        """One voter, this node."""
    @property
    def failed(self) -> Exception | None:
        """What stopped the node."""
    @property
    def notes(self) -> list[str]:
        """What recovery cut and why, one sentence each."""
    @property
    def turns(self) -> int: ...
    @property
    def forwarded(self) -> int: ...
    def run(self) -> int:
        """One turn, in the thread that owns the core."""
