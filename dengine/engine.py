"""Engine: one node of a cluster inside an asyncio application.

    async with dengine.Engine.open("config/n1.toml") as e:
        await e.put(b"k", b"v")
        await e.get(b"k")
        e.get_eventual(b"k")

Decides which thread and loop the node runs in, and its life. By default that is a thread of its
own: a handler of yours that blocks delays no heartbeat. The calls are compiled, see
_core/task.pyx.
"""
from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeVar

import uvloop

from dengine import config as configuration
from dengine._core import boot
from dengine._core.task import Gate
from dengine.errors import ClosedError, ConfigError, Error, ForkedError
from dengine.join import cluster_to_join
from dengine.node import Node

CHANGES = 64  # of leadership kept for a listener that is late; older ones are dropped
EXIT_S = 10.0  # for a node to close while the interpreter exits; its log survives less
POLICIES = {"LinearizableRead": "linearizable", "LeaseRead": "lease", "EventualRead": "eventual"}

T = TypeVar("T")

_open: weakref.WeakSet[Engine] = weakref.WeakSet()


class Leadership(NamedTuple):
    """A change of leadership as this node sees it. `leader` is None while none is known."""

    term: int
    leader: int | None
    is_self: bool


def _settings(where: str | os.PathLike[str] | configuration.Config,
              overrides: dict[str, object]) -> tuple[configuration.Config, bool]:
    """The configuration in a .toml file; any other path is the directory of one node (True)."""
    if isinstance(where, configuration.Config):
        if overrides:
            raise ConfigError("overrides belong to a file or a directory: nothing was opened; put "
                              "the values into the Config")
        return where, False
    path = Path(where)
    if path.is_file() or (not path.is_dir() and (
            path.suffix == ".toml" or Path(f"{path}.toml").is_file())):
        return configuration.load(path, overrides), False
    return configuration.single(path, overrides=overrides), True


class Engine(Gate):
    """An open node; use `Engine.open`. Its methods may be called from any event loop."""

    def __init__(self, settings: configuration.Config, loop: Literal["own", "current"],
                 from_directory: bool = False) -> None:
        if loop not in ("own", "current"):
            raise ValueError(f"loop is 'own' or 'current', not {loop!r}")
        self.config = settings
        self._where = loop
        self._from_directory = from_directory
        self._node: Node | None = None
        self._home: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._listeners: list[_Listener] = []
        self._started = False
        self._forked = False
        self._closed = False
        self._ready = _promise()
        self._ended = _promise()

    @classmethod
    def open(cls, where: str | os.PathLike[str] | configuration.Config, *,
             loop: Literal["own", "current"] = "own",
             overrides: dict[str, object] | None = None) -> Engine:
        """A node by its configuration (a .toml file or a Config), or the one node in a directory.

        Use it as `async with`. loop="current" runs the node in the caller's event loop: lower
        latency, but a handler that blocks for longer than a heartbeat costs the leadership.
        Raises ConfigError here; LockedError, FormatError, StorageError on entering.
        """
        settings, from_directory = _settings(where, overrides or {})
        return cls(settings, loop, from_directory)

    # ------------------------------------------------------------------------------------- life
    async def start(self) -> None:
        """Opens the directory and starts the node; `async with` does it."""
        if self._started or self._closed:
            raise ClosedError("this engine was started before: make a new one with Engine.open")
        self._started = True
        _open.add(self)
        if self._where == "current":
            self._life = asyncio.create_task(self._live())
            self._life.add_done_callback(lambda _: _keep(self._ended, None))
        else:
            name = f"dengine-n{self.config.cluster.node_id}"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()
        try:
            await asyncio.wrap_future(self._ready)
        except BaseException:  # it failed, or nobody waits for it any more
            await self.close()
            raise

    def _run(self) -> None:
        """The node's own thread."""
        try:
            uvloop.run(self._live())
        finally:
            _keep(self._ended, None)

    async def _live(self) -> None:
        """The node from start to end, in the loop that it lives in."""
        self._stop = asyncio.Event()
        self._home = asyncio.get_running_loop()
        try:
            node = Node(self.config, self._home, from_directory=self._from_directory,
                        to_join=await cluster_to_join(self.config))
            try:
                await node.start()
                self._serve(node)
                _keep(self._ready, None)
                if not self._closed:  # else nobody knew this loop when it was asked to stop
                    await self._stop.wait()
            finally:
                if not node.failed.done():
                    await node.hand_over()
                self.shut()
                self._end_listeners()
                await node.close()
        except asyncio.CancelledError:  # the loop ends, and the node with it
            _keep(self._ready, self.refusal())
            raise
        except BaseException as error:
            _keep(self._ended if self._ready.done() else self._ready, error)

    def _serve(self, node: Node) -> None:
        policy = POLICIES[self.config.raft.read_consistency.default_policy]
        self._node = node
        node.on_role.append(self._role_changed)
        node.failed.add_done_callback(lambda _: self._end_listeners())
        self.attach(node.turn, node.loop, self.config.http.request_timeout_ms / 1000, policy)

    async def close(self) -> None:
        """Syncs what was written and stops the node; may be called again."""
        if self._forked:
            return
        self._ask_to_stop()
        if self._started:
            if self._home is not None and self._home.is_closed() and self._thread is None:
                self._abandon()
            await asyncio.wrap_future(self._ended)
        if self._thread is not None:
            self._thread.join()  # it has said its last word
        _open.discard(self)

    def _ask_to_stop(self) -> None:
        self._closed = True
        self.shut()
        if self._home is not None:
            with contextlib.suppress(RuntimeError):  # that loop was closed
                self._home.call_soon_threadsafe(self._stop.set)

    def _abandon(self) -> None:
        """The loop that the node lived in is gone: closes the node without it."""
        if self._node is not None:
            self._node.abandon()
        _keep(self._ended, None)

    def _close_at_exit(self) -> None:
        self._ask_to_stop()
        if self._thread is not None:
            self._thread.join(EXIT_S)
        else:
            self._abandon()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self.close()

    def refusal(self) -> Exception:
        """Why calls are refused: the error that stopped the node, or its life."""
        if self._forked:
            return ForkedError("the engine was opened in the parent of this process: nothing was "
                               "changed; open one here, with a directory of its own")
        failed = self._node.turn.failed if self._node is not None else None
        if isinstance(failed, Error) and not isinstance(failed, ClosedError):
            return failed.again()
        if not self._started and not self._closed:
            return ClosedError("the engine is not started: nothing was changed; use `async with`")
        return ClosedError("the engine is closed: nothing was changed; open it again")

    def _after_fork(self) -> None:
        self._forked = True
        self.shut()
        if self._node is not None:
            self._node.detach()

    # ------------------------------------------------------------------------------- leadership
    @property
    def leader(self) -> int | None:
        """The id of the leader, None while none is known."""
        if self._node is None or not self.is_open:
            return None
        return self._node.turn.raft.leader or None

    @property
    def is_leader(self) -> bool:
        """Does this node lead under a valid lease?"""
        return self._node is not None and self.is_open and self._node.is_primary()

    async def wait_leader(self, timeout: float | None = None) -> int:  # noqa: ASYNC109
        """Waits until a leader is known; its id. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            async for change in self.leadership():
                if change.leader is not None:
                    return change.leader
        raise self.refusal()

    async def transfer(self, to: int | None = None) -> int:
        """Hands the lead to that voter, or to the one that is ahead; who leads then.

        Raises RequestError for one that cannot lead, UnavailableError where this node does not
        lead, or the other did not take over: then this one leads on.
        """
        if self._node is None:
            raise self.refusal()
        return await self._in_node(self._node.transfer(to or 0))

    async def _in_node(self, work: Coroutine[None, None, T]) -> T:
        """Runs it in the loop of the node."""
        if self._node is None or not self.is_open:
            work.close()
            raise self.refusal()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._node.loop))

    async def _overview(self, what: str) -> Any:
        return self._node.overview()[what] if self._node is not None else None

    async def members(self) -> list[dict[str, object]]:
        """Every member, by id: its address, role, whether it is connected, what it has of the log
        (where this node leads)."""
        return await self._in_node(self._overview("members"))

    async def change_members(
        self, what: Literal["add", "promote", "remove", "replace"], node: int, address: str = "", *,
        promote: bool = False,
    ) -> None:
        """Adds (host:port), promotes, removes or replaces a member; returns when that is committed.

        Raises RequestError for what makes no sense now, UnavailableError where this node does not
        lead: nothing was changed; OutcomeUnknownError where it lost the lead meanwhile.
        """
        if self._node is None:
            raise self.refusal()
        await self._in_node(self._node.change_members(what, node, address, promote=promote))

    async def leadership(self) -> AsyncIterator[Leadership]:
        """Every change of leadership, beginning with how it is now, until the engine is closed.

        A listener that is late misses the oldest. Raises what stopped the node, if anything did.
        """
        listener = _Listener()
        self._listeners.append(listener)  # first: whoever ends them after the look below ends this
        try:
            if self._node is None or not self.is_open:
                raise self.refusal()
            yield self._leadership(self._node)
            while (change := await listener.next()) is not None:
                yield change
        finally:
            self._listeners.remove(listener)
        if not isinstance(refusal := self.refusal(), ClosedError):
            raise refusal

    def _leadership(self, node: Node) -> Leadership:
        raft = node.turn.raft
        return Leadership(raft.term, raft.leader or None, raft.leader == node.id)

    def _role_changed(self) -> None:
        assert self._node is not None
        change = self._leadership(self._node)
        for listener in list(self._listeners):
            listener.push(change)

    def _end_listeners(self) -> None:
        for listener in list(self._listeners):
            listener.push(None)

    def status(self) -> dict[str, Any]:
        """Role, term, commit, applied and counters of this node."""
        if self._node is None or not self.is_open:
            raise self.refusal()
        return boot.status(self._node.turn)


class _Listener:
    """The changes that one `leadership()` has not seen yet; pushed by the node's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changes: deque[Leadership | None] = deque(maxlen=CHANGES)
        self._come = asyncio.Event()
        self._told = False  # the loop has a call on its way: one is enough, however many changes

    def push(self, change: Leadership | None) -> None:
        """None: there will be no more."""
        self._changes.append(change)
        if not self._told:
            self._told = True
            with contextlib.suppress(RuntimeError):  # that loop was closed
                self._loop.call_soon_threadsafe(self._come.set)

    async def next(self) -> Leadership | None:
        while not self._changes:
            self._told = False
            self._come.clear()
            if not self._changes:  # what comes from here on tells the loop again
                await self._come.wait()
        return self._changes.popleft()


Promise = concurrent.futures.Future[None]


def _promise() -> Promise:
    """Kept in one thread, awaited in any loop; who waits for it cannot cancel it."""
    promise = Promise()
    promise.set_running_or_notify_cancel()
    return promise


def _keep(promise: Promise, error: BaseException | None) -> None:
    if not promise.done():
        if error is None:
            promise.set_result(None)
        else:
            promise.set_exception(error)


def _after_fork() -> None:
    for engine in list(_open):
        engine._after_fork()
    _open.clear()


def _at_exit() -> None:
    for engine in list(_open):
        engine._close_at_exit()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
