class Raft:
    """Consensus as one node sees it; see raft.pxd."""

    @property
    def term(self) -> int: ...
    @property
    def vote(self) -> int: ...
    @property
    def leader(self) -> int:
        """0: none is known."""
    @property
    def last(self) -> int: ...
    @property
    def commit(self) -> int: ...
