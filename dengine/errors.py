"""What dengine raises. Each message says what happened, what it means for the data, and what to do.

    Error
    ├── ConfigError           a configuration is wrong: file, key, value, fix; nothing was opened
    ├── RequestError          this request was refused; the node and all other data are untouched
    │   ├── TooLargeError     a key or value is over its limit
    │   ├── NoSpaceError      the disk is full: make room, no restart is needed
    │   └── ConflictError     a compare failed; `revision` is the key's, 0 where it does not exist
    ├── UnavailableError      no leader was reached before the deadline
    │   ├── NotProposedError  a write reached no leader: nothing was changed, safe to repeat
    │   │   └── OverloadedError  the node had too much to do: the same, a little later
    │   └── OutcomeUnknownError  a write may or may not be applied: read before repeating it
    ├── ClosedError           the node or store was closed, by its owner or a fatal error
    │   └── ForkedError       used in a child of the process that opened it
    └── FatalError            the node has stopped; every later call raises this again
        ├── StorageError      the disk failed a call: nothing acknowledged depends on what failed
        │   ├── LockedError   another process has the directory open
        │   ├── FormatError   a file of a newer format, another node or another cluster
        │   └── CorruptionError  bytes that a completed sync proved are not what was written
        ├── RemovedError      the node was removed from its cluster: its directory counts no more
        └── InvariantError    dengine found itself in a state that must not be: please report it
"""
from typing import Self


class Error(Exception):
    """Base of all errors of dengine."""

    def again(self) -> Self:
        """A copy to raise: one exception that is raised often would keep the frames of all."""
        copy = type(self)(*self.args)
        copy.__cause__ = self.__cause__
        return copy


class ConfigError(Error):
    """A configuration is unknown, contradictory or does not fit the data directory."""


class RequestError(Error):
    """This request was refused; nothing was changed."""


class TooLargeError(RequestError):
    """A key or value is over its limit."""


class NoSpaceError(RequestError):
    """The disks of a majority (of a node alone: its own) are full. Writes are taken again as soon
    as there is room."""


class ConflictError(RequestError):
    """A compare failed; nothing was changed. `revision` is the key's, 0 where it does not exist."""

    def __init__(self, message: str, revision: int = 0) -> None:
        super().__init__(message)
        self.revision = revision


class UnavailableError(Error):
    """No leader was reached before the deadline."""


class NotProposedError(UnavailableError):
    """The write reached no leader before its deadline: nothing was changed, safe to repeat."""


class OverloadedError(NotProposedError):
    """The node has as much to do as its limits let it take: nothing was changed."""


class OutcomeUnknownError(UnavailableError):
    """The write was sent to a leader but not confirmed before its deadline: it may be applied."""


class ClosedError(Error):
    """The node or store is closed."""


class ForkedError(ClosedError):
    """Used in a child process of the one that opened it; open it again in the child."""


class FatalError(Error):
    """The node has stopped; every later call raises this again."""


class StorageError(FatalError):
    """The disk failed a call. Nothing was acknowledged that depends on what failed."""


class LockedError(StorageError):
    """Another process has the data directory open."""


class FormatError(StorageError):
    """A file of a newer format, another node or another cluster."""


class CorruptionError(StorageError):
    """Bytes that a completed sync proved are not what was written."""


class RemovedError(FatalError):
    """The node was removed from its cluster, or replaced: what it holds counts nowhere any more."""


class InvariantError(FatalError):
    """dengine found itself in a state that must not be. Please report it with the log."""
