"""Store: one node in this process, blocking and dict-like.

    with dengine.open("./data") as s:
        s[b"k"] = b"v"
        s[b"k"]

Decides the life of the store: open, close, fork, exit. The calls themselves are compiled, see
_core/local.pyx. Keys and values may be str (UTF-8); what is returned is bytes.
"""
from __future__ import annotations

import atexit
import contextlib
import logging
import os
import time
import weakref
from collections.abc import Iterator
from types import TracebackType

from dengine import config as configuration
from dengine._core import boot
from dengine._core.local import LocalStore
from dengine.errors import Error
from dengine.storage import Directory, Saving, setup_of

log = logging.getLogger("dengine.store")
LOOK_S = 0.005  # between two looks at a snapshot under way
_open: weakref.WeakSet[Store] = weakref.WeakSet()


class Store(LocalStore):
    """An open store of one node; use `dengine.open`. Thread-safe. Closed by `close` or `with`."""

    def __init__(self, directory: Directory, settings: configuration.Config) -> None:
        self._directory = directory
        self._closed = True  # until it is open
        turn = directory.open_turn(setup_of(settings, from_directory=True))
        for note in turn.notes:
            log.warning("%s", note)
        try:
            boot.start(turn, -1)
            super().__init__(turn)
        except BaseException:
            boot.close(turn)
            raise
        self._closed = False
        _open.add(self)

    def keys(self, prefix: bytes | str = b"", start: bytes | str = b"") -> Iterator[bytes]:
        """Keys in order, as they are at this call; see `items`."""
        return (key for key, _ in self.items(prefix, start))

    def values(self, prefix: bytes | str = b"", start: bytes | str = b"") -> Iterator[bytes]:
        """Values in the order of their keys, as they are at this call; see `items`."""
        return (value for _, value in self.items(prefix, start))

    def __iter__(self) -> Iterator[bytes]:
        return self.keys()

    def snapshot(self) -> str:
        """Writes the state to disk now, while the store goes on; returns the path of the file,
        which `dengine restore` takes. Raises StorageError."""
        self.check()
        saving = Saving(self.turn)
        while not saving.done():
            self.turn.run()
            time.sleep(LOOK_S)
        return self._directory.newest_snapshot(self.turn)

    def close(self) -> None:
        """Syncs what was written and closes; may be called again."""
        if self._closed:
            return
        self._closed = True
        self.shut()
        _open.discard(self)
        try:
            boot.close(self.turn)
        finally:
            self._directory.close()

    def _forked(self) -> None:
        self._closed = True
        self.after_fork()
        self._directory.close()

    def __enter__(self) -> Store:
        self.check()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_closed", True) is False:
            self.close()


def open_store(directory: str | os.PathLike[str], *, strategy: configuration.Strategy = "DiskFirst",
               flush_policy: object = None) -> Store:
    """Opens (or creates) the one-node store in `directory`.

    strategy: "DiskFirst" (default: a write returns when it is on disk) or "MemFirst" (when it is in
    the page cache: survives kill -9, a power cut may lose the newest, by `flush_policy`).
    Raises LockedError, FormatError, CorruptionError, StorageError, ConfigError.
    """
    settings = configuration.single(os.fspath(directory), strategy=strategy,
                                    flush_policy=flush_policy)
    opened = Directory(directory)
    try:
        return Store(opened, settings)
    except BaseException:
        opened.close()
        raise


def _after_fork() -> None:
    for store in list(_open):
        store._forked()
    _open.clear()


def _at_exit() -> None:
    for store in list(_open):
        with contextlib.suppress(Error):  # nothing acknowledged depends on it
            store.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
