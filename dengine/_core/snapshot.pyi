"""Snapshots as Python sees them: names of files, and steps. The core opens them."""

from dengine._core.types import Work

def snapshot_name(index: int) -> str:
    """The file name of the snapshot that covers the log up to `index`."""

def sort_names(names: list[str]) -> tuple[list[str], list[str]]:
    """(snapshots, newest first; what may go: all but the newest two, and what a writer left)."""

class SnapshotWriter(Work):
    """Writes one pinned generation of the store, step by step."""

    def step(self) -> bool:
        """One frame written, or one read back. False: the snapshot is complete and durable."""
    def close(self) -> None:
        """An unfinished file is removed."""

class SnapshotReader:
    """Verifies a snapshot step by step, or loads it into a new store."""

    def step(self) -> bool:
        """One frame. False: the footer agrees with all of them."""
    def close(self) -> None: ...
