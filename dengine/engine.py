"""Engine: one node of a cluster inside an asyncio application.

    async with dengine.Engine.open("config/n1.toml") as e:
        await e.put(b"k", b"v")
        await e.get(b"k")
        e.get_eventual(b"k")

Decides which thread and loop the node runs in, and its life. By default that is a thread of its own:
a handler of yours that blocks delays no heartbeat. The calls are compiled, see _core/task.pyx.
"""
from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, overload

import uvloop

from dengine import config as configuration
from dengine._core import boot
from dengine._core.task import Gate
from dengine.errors import ClosedError, ForkedError
from dengine.node import Node

CHANGES = 64  # of leadership kept for a listener that is late; older ones are dropped
POLICIES = {"LinearizableRead": "linearizable", "LeaseRead": "lease", "EventualRead": "eventual"}

Consistency = Literal["linearizable", "lease", "eventual"]
_open: weakref.WeakSet[Engine] = weakref.WeakSet()


class Leadership(NamedTuple):
    """A change of leadership as this node sees it. `leader` is None while none is known."""

    term: int
    leader: int | None
    is_self: bool


def _settings(where: str | os.PathLike[str] | configuration.Config,
              overrides: dict[str, object]) -> configuration.Config:
    """The configuration in a .toml file; any other path is the directory of one node."""
    if isinstance(where, configuration.Config):
        return where
    path = Path(where)
    if path.suffix == ".toml" or path.is_file() or path.with_name(path.name + ".toml").is_file():
        return configuration.load(path, overrides)
    return configuration.single(path, overrides=overrides)


class Engine:
    """An open node; use `Engine.open`. Its methods may be called from any event loop."""

    def __init__(self, settings: configuration.Config, loop: Literal["own", "current"]) -> None:
        if loop not in ("own", "current"):
            raise ValueError(f"loop is 'own' or 'current', not {loop!r}")
        self.config = settings
        self._where = loop
        self._node: Node | None = None
        self._gate: Gate | None = None
        self._thread: threading.Thread | None = None
        self._home: asyncio.AbstractEventLoop | None = None
        self._listeners: list[tuple[asyncio.AbstractEventLoop, asyncio.Queue[Leadership]]] = []
        self._forked = False
        self._closed = False

    @classmethod
    def open(cls, where: str | os.PathLike[str] | configuration.Config, *,
             loop: Literal["own", "current"] = "own",
             overrides: dict[str, object] | None = None) -> Engine:
        """A node by its configuration (a .toml file or a Config), or one node in a directory.

        Use it as `async with`. loop="current" runs the node in the caller's event loop: lower
        latency, but a handler that blocks for longer than a heartbeat costs the leadership.
        Raises ConfigError here; LockedError, FormatError, StorageError on entering.
        """
        return cls(_settings(where, overrides or {}), loop)

    # ------------------------------------------------------------------------------------- life
    async def start(self) -> None:
        """Opens the directory and starts the node; `async with` does it."""
        if self._node is not None:
            raise ClosedError("this engine was started before: make a new one with Engine.open")
        if self._where == "current":
            await self._start_in(asyncio.get_running_loop())
        else:
            ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            name = f"dengine-n{self.config.cluster.node_id}"
            self._thread = threading.Thread(target=self._main, name=name, daemon=True,
                                            args=(asyncio.get_running_loop(), ready))
            self._thread.start()
            await ready
        _open.add(self)

    async def _start_in(self, loop: asyncio.AbstractEventLoop) -> None:
        node = Node(self.config, loop)
        try:
            await node.start()
        except BaseException:
            await node.close()
            raise
        policy = POLICIES[self.config.raft.read_consistency.default_policy]
        self._gate = Gate(node.turn, loop, self.config.http.request_timeout_ms / 1000, policy)
        self._gate.refusal = self._refusal
        self._home = loop
        self._node = node
        node.on_role.append(self._role_changed)
        self.put = self._gate.put
        self.get = self._gate.get
        self.delete = self._gate.delete
        self.get_eventual = self._gate.get_eventual

    def _main(self, caller: asyncio.AbstractEventLoop, ready: asyncio.Future[None]) -> None:
        """The node's own thread."""
        def tell(error: BaseException | None) -> None:
            if ready.done():
                return
            if error is None:
                ready.set_result(None)
            else:
                ready.set_exception(error)

        async def main() -> None:
            self._stopping = asyncio.Event()
            try:
                await self._start_in(asyncio.get_running_loop())
            except BaseException as error:
                caller.call_soon_threadsafe(tell, error)
                return
            caller.call_soon_threadsafe(tell, None)
            await self._stopping.wait()
            assert self._node is not None
            await self._node.close()

        uvloop.run(main())

    async def close(self) -> None:
        """Syncs what was written and stops the node; may be called again."""
        if self._closed or self._forked:
            return
        self._closed = True
        _open.discard(self)
        if self._gate is not None:
            self._gate.shut()
        if self._thread is None:
            if self._node is not None:
                await self._node.close()
            return
        self._ask_to_stop()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _ask_to_stop(self) -> None:
        if self._home is not None:
            with contextlib.suppress(RuntimeError):
                self._home.call_soon_threadsafe(self._stopping.set)

    def _close_at_exit(self) -> None:
        if self._thread is not None and not self._closed:
            self._ask_to_stop()
            self._thread.join(10)

    async def __aenter__(self) -> Engine:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self.close()

    def _refusal(self) -> Exception:
        if self._forked:
            return ForkedError("the engine was opened in the parent of this process: nothing was "
                               "changed; open one here, with a directory of its own")
        failed = self._node.turn.failed if self._node is not None else None
        if failed is not None and not isinstance(failed, ClosedError):
            return failed
        return ClosedError("the engine is closed: nothing was changed; open it again")

    def _after_fork(self) -> None:
        self._forked = True
        if self._gate is not None:
            self._gate.shut()
        if self._node is not None:
            self._node.detach()

    # ------------------------------------------------------------------------------------ calls
    # Replaced by the compiled ones of the same names once the node runs.
    def put(self, key: bytes | str, value: bytes | str, *, if_revision: int | None = None,
            timeout: float = -1) -> Awaitable[int]:
        """Sets `key`; gives its revision once the write is committed and applied here.

        if_revision: only if the key is at that revision, 0: only if it does not exist
        (ConflictError). timeout in seconds, default http.request_timeout_ms. Raises
        NotProposedError, OutcomeUnknownError, TooLargeError, ClosedError.
        """
        raise self._refusal()

    def delete(self, key: bytes | str, *, if_revision: int | None = None,
               timeout: float = -1) -> Awaitable[bool]:
        """Deletes `key`; gives True if it existed. Raises like `put`."""
        raise self._refusal()

    @overload
    def get(self, key: bytes | str, default: None = None, *,
            consistency: Consistency | None = None,
            timeout: float = -1) -> Awaitable[bytes | None]: ...
    @overload
    def get(self, key: bytes | str, default: bytes, *, consistency: Consistency | None = None,
            timeout: float = -1) -> Awaitable[bytes]: ...
    def get(self, key: bytes | str, default: bytes | None = None, *,
            consistency: Consistency | None = None, timeout: float = -1) -> Awaitable[Any]:
        """The value of `key` as bytes, or `default`; by default under the configured policy.

        Raises UnavailableError, ClosedError.
        """
        raise self._refusal()

    def get_eventual(self, key: bytes | str, default: bytes | None = None) -> bytes | None:
        """The value of `key` in this node's own state, at once; it may be old."""
        raise self._refusal()

    # ------------------------------------------------------------------------------- leadership
    @property
    def leader(self) -> int | None:
        """The id of the leader, None while none is known."""
        if self._node is None or self._closed:
            return None
        return self._node.turn.raft.leader or None

    @property
    def is_leader(self) -> bool:
        """Does this node lead under a valid lease?"""
        return self._node is not None and not self._closed and self._node.is_primary()

    async def wait_leader(self, timeout: float | None = None) -> int:
        """Waits until a leader is known; its id. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            async for change in self.leadership():
                if change.leader is not None:
                    return change.leader
        raise self._refusal()

    async def leadership(self) -> AsyncIterator[Leadership]:
        """Every change of leadership, beginning with now. A late listener misses the oldest."""
        if self._node is None or self._closed or self._forked:
            raise self._refusal()
        entry = (asyncio.get_running_loop(), asyncio.Queue[Leadership](CHANGES))
        self._listeners.append(entry)
        try:
            yield self._leadership()
            while True:
                yield await entry[1].get()
        finally:
            self._listeners.remove(entry)

    def _leadership(self) -> Leadership:
        assert self._node is not None
        raft, me = self._node.turn.raft, self.config.cluster.node_id
        return Leadership(raft.term, raft.leader or None, raft.leader == me)

    def _role_changed(self) -> None:
        change = self._leadership()
        for loop, queue in list(self._listeners):
            with contextlib.suppress(RuntimeError):  # that loop was closed
                loop.call_soon_threadsafe(_push, queue, change)

    def status(self) -> dict[str, Any]:
        """Role, term, commit, applied and counters of this node."""
        if self._node is None or self._closed:
            raise self._refusal()
        return boot.status(self._node.turn)


def _push(queue: asyncio.Queue[Leadership], change: Leadership) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(change)


def _after_fork() -> None:
    for engine in list(_open):
        engine._after_fork()


def _at_exit() -> None:
    for engine in list(_open):
        engine._close_at_exit()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
