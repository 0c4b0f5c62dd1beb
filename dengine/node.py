"""Node: the life of one node in an event loop: open, listen, dial, tick, close.

It decides when connections are made and given up, and in which order a node starts and stops. What
frames and requests mean is the core's.
"""
from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from dengine import logs
from dengine._core import boot, change
from dengine._core.peer import Peer
from dengine.errors import (
    ConfigError,
    OutcomeUnknownError,
    RequestError,
    StorageError,
    UnavailableError,
)
from dengine.schema import split_address
from dengine.storage import Directory, Saving, setup_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from dengine.config import Config

log = logging.getLogger("dengine.node")

TICK_S = 0.02  # elections are 20 ms apart, heartbeats 100 ms
LOOK_S = 0.25  # between two looks at the connections
CONNECT_S = 1.0  # time to connect and shake hands
STRANGERS = 64  # accepted connections that have not shaken hands
CHANGE_S = 10.0  # within which a change of the membership is committed
LISTEN_AGAIN_S = 5.0  # after a port that could not be had
EVENTS = 32  # kept for /admin/status; older ones are in the log


class Node:
    """One node. `turn` is its core; `failed` completes with the error that stopped it."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop, *,
                 from_directory: bool = False, to_join: int = 0) -> None:
        self.config = config
        self.loop = loop
        self.failed: asyncio.Future[None] = loop.create_future()
        self.on_role: list[Callable[[], None]] = []
        self.events: deque[tuple[float, str]] = deque(maxlen=EVENTS)  # wall clock, what happened
        self._peers: dict[tuple[int, bool], Peer] = {}  # by id; True: the second, for snapshots
        self._strangers: set[Peer] = set()
        self._dialling: dict[tuple[int, bool], asyncio.Task[None]] = {}  # likewise
        self._server: asyncio.Server | None = None
        self._listening: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._event_fd = -1
        self._closed = False
        self._savings: list[tuple[Saving, asyncio.Future[None]]] = []  # asked for, not complete
        self._told = (0, 0, "")
        self._promise_s = config.raft.election.election_timeout_min_ms / 1000
        self._lost: dict[Peer, asyncio.Event] = {}  # a dialled connection ended
        self.directory = Directory(config.cluster.db_root_dir)
        try:
            self.turn = self.directory.open_turn(
                setup_of(config, from_directory=from_directory, to_join=to_join))
        except BaseException:
            self.directory.close()
            raise
        self._named = {m.id: m.address for m in config.cluster.initial_cluster}  # by the file
        self.id: int = boot.status(self.turn)["node_id"]

    # ------------------------------------------------------------------------------------- life
    async def start(self) -> None:
        """Starts workers, listener, dialling and time. Raises OSError where the port is taken."""
        self._tell()
        if len(self.members) > 1:
            await self._listen()
        self.turn.on_members = lambda: self.loop.call_soon(self._follow_members)
        self._event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.turn.on_fatal = self._fatal
        self.turn.on_role = self._role
        boot.attach(self.turn, self.loop)
        boot.start(self.turn, self._event_fd)
        self.loop.add_reader(self._event_fd, self._job_finished)
        self._follow_members()
        self._tick()
        self._look()

    async def _listen(self) -> None:
        host, port = split_address(self.config.cluster.listen_address)
        try:
            self._server = await self.loop.create_server(self._accept, host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise ConfigError(
                f"cluster.listen_address = {host}:{port}: the port is taken; free it, or change "
                "it with --listen-address and in initial_cluster of every node") from None

    async def close(self) -> None:
        """Stops everything, syncs what was written; may be called again."""
        if self._closed:
            return
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        for _, ended in self._savings:
            ended.cancel()
        dialling = list(self._dialling.values())
        for task in dialling:
            task.cancel()
        await asyncio.gather(*dialling, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        for peer in [*self._peers.values(), *self._strangers]:
            peer.abort()
        await asyncio.sleep(0)
        if self._event_fd >= 0:
            self.loop.remove_reader(self._event_fd)
        self._release()

    def abandon(self) -> None:
        """Closes without the loop, which is gone: connections end with the process."""
        if not self._closed:
            self._closed = True
            self._release()

    def _release(self) -> None:
        try:
            boot.close(self.turn)
        finally:
            if self._event_fd >= 0:
                os.close(self._event_fd)
            self.directory.close()
        log.info("closed")

    def detach(self) -> None:
        """In a forked child: drops the sockets and the lock, touches nothing that is shared."""
        null = os.open(os.devnull, os.O_RDWR)
        sockets: list[Any] = [p.socket() for p in [*self._peers.values(), *self._strangers]]
        sockets += self._server.sockets if self._server is not None else []
        for sock in sockets:
            if sock is not None:
                with contextlib.suppress(OSError):
                    os.dup2(null, sock.fileno())
        os.close(null)
        self.directory.close()

    # ------------------------------------------------------------------------- time and workers
    def _job_finished(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event_fd)
        self.turn.run()

    def _tick(self) -> None:
        self._timers["tick"] = self.loop.call_later(TICK_S, self._tick)
        self.turn.run()
        self._tell()
        self._look_at_savings()

    def _look(self) -> None:
        """A silent connection is given up; an idle one says something."""
        self._timers["look"] = self.loop.call_later(LOOK_S, self._look)
        ping_us, silent_us = int(self._promise_s * 5e5), int(self._promise_s * 3e6)
        for peer in list(self._peers.values()):
            peer.look(ping_us, silent_us)
        for peer in list(self._strangers):
            peer.look(ping_us, int(CONNECT_S * 1e6))

    def _fatal(self, error: BaseException) -> None:
        log.critical("the node has stopped: %s", error)
        if not self.failed.done():
            self.failed.set_exception(error)
            self.failed.exception()  # it is logged: nobody needs to ask

    def _role(self) -> None:
        status = boot.status(self.turn)
        told = (status["term"], status["leader"], status["role"])
        logs.set_term(status["term"])
        if told != self._told:
            self._told = told
            leader = f"node {status['leader']} leads" if status["leader"] else "no leader known"
            level = logging.DEBUG if status["role"] == "precandidate" else logging.INFO
            log.log(level, "%s, %s", status["role"], leader)
            self._note(f"{status['role']} in term {status['term']}, {leader}")
        for listener in self.on_role:
            listener()

    # --------------------------------------------------------------------------------- members
    @property
    def members(self) -> dict[int, str]:
        """The address of each, by id."""
        return {node: address.decode() for node, address in boot.members(self.turn)}

    def _follow_members(self) -> None:
        """Connections to those who are new are made, to others no more."""
        if self._closed:
            return
        others = set(self.members) - {self.id}
        for node in others:
            for bulk in (False, True):
                if (node, bulk) not in self._dialling:
                    self._dialling[node, bulk] = self.loop.create_task(self._dial(node, bulk))
        for key in [key for key in self._dialling if key[0] not in others]:
            self._dialling.pop(key).cancel()
        if others and self._server is None and self._listening is None:
            self._listening = self.loop.create_task(self._listen_now())

    async def _listen_now(self) -> None:
        """A node alone had no need to: it is one of several from now on."""
        try:
            await self._listen()
        except (ConfigError, OSError) as error:
            log.error("no other node can reach this one: %s", error)
            self._note(f"no other node can reach this one: {error}")
            await asyncio.sleep(LISTEN_AGAIN_S)
        finally:
            self._listening = None
            if self._server is None:
                self._follow_members()

    def _address(self, node: int, attempt: int) -> str:
        """By the cluster, or by this node's file: that may be newer."""
        candidates = [a for a in (self._named.get(node), self.members.get(node)) if a]
        return candidates[attempt % len(candidates)] if candidates else ""

    # ----------------------------------------------------------------------------- connections
    def _accept(self) -> Peer:
        peer = Peer(self.turn, 0, self._event, self._up, self._gone)
        self._strangers.add(peer)
        if len(self._strangers) > STRANGERS:
            min(self._strangers, key=lambda p: p.opened_us).abort()
        return peer

    async def _dial(self, node: int, bulk: bool) -> None:
        """Keeps one connection to a peer, with a jittered back-off. The one with the lower id
        dials; the other does where that does not: it may not know yet that this is a member."""
        replication = self.config.raft.replication
        low, high = replication.reconnect_min_ms / 1000, replication.reconnect_max_ms / 1000
        wait, attempt = low, 0
        while True:
            if node < self.id:
                await self._missed(node, bulk)
            address = self._address(node, attempt)
            peer = Peer(self.turn, node, self._event, self._up, self._gone, bulk)
            lost = self._lost[peer] = asyncio.Event()
            try:
                await self._connect(peer, *split_address(address))
                await lost.wait()
            except (OSError, TimeoutError) as error:
                self._strangers.discard(peer)
                log.debug("node %d at %s is not reached: %s", node, address, error)
            finally:
                del self._lost[peer]
            wait = low if peer.was_up else min(high, wait * 2)
            attempt = 0 if peer.was_up else attempt + 1
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))

    async def _missed(self, node: int, bulk: bool) -> None:
        """Returns when the node has not been connected for two promises."""
        since = self.loop.time()
        while self.loop.time() < since + 2 * self._promise_s:
            await asyncio.sleep(self._promise_s / 2)
            if (node, bulk) in self._peers:
                since = self.loop.time()

    def _tell(self) -> None:
        """What the core noticed, once."""
        while self.turn.notes:
            note = self.turn.notes.pop(0)
            log.warning("%s", note)
            self._note(note)

    def _note(self, what: str) -> None:
        self.events.append((time.time(), what))

    async def _connect(self, peer: Peer, host: str, port: int) -> None:
        self._strangers.add(peer)  # first: its handshake may be over before this goes on
        async with asyncio.timeout(CONNECT_S):
            await self.loop.create_connection(lambda: peer, host, port)

    def _up(self, peer: Peer, slot: int) -> None:
        """A handshake succeeded: the newer of two connections to one peer is kept."""
        self._strangers.discard(peer)
        old = self._peers.get((peer.node, peer.bulk))
        if old is not None:
            old.give_up()
        self._peers[peer.node, peer.bulk] = peer
        if not peer.bulk:
            log.info("connected to node %d", peer.node)
            self._note(f"connected to node {peer.node}")

    def _gone(self, peer: Peer) -> None:
        self._strangers.discard(peer)
        key = peer.node, peer.bulk
        if self._peers.get(key) is peer:
            del self._peers[key]
            if not peer.bulk:
                log.info("lost the connection to node %d", peer.node)
                self._note(f"lost the connection to node {peer.node}")
        if peer in self._lost:
            self._lost[peer].set()

    def _event(self, peer: Peer, text: str) -> None:
        who = f"node {peer.node}" if peer.node else "a peer connection"
        log.warning("%s (%s) is closed: %s", who, peer.address(), text)

    # --------------------------------------------------------------------------------- transfer
    async def transfer(self, to: int = 0) -> int:
        """Hands the lead to that voter, 0: to the one that is ahead; who leads then.

        Within two promises. Raises RequestError, UnavailableError: this node leads on.
        """
        to = boot.transfer(self.turn, to)
        changed = asyncio.Event()
        self.on_role.append(changed.set)
        try:
            async with asyncio.timeout(2 * self._promise_s):
                while (leads := boot.status(self.turn)["leader"]) != to:
                    if leads == self.id and not boot.transferee(self.turn):
                        break
                    changed.clear()
                    with contextlib.suppress(TimeoutError):  # not every end changes a role
                        await asyncio.wait_for(changed.wait(), TICK_S)
        except TimeoutError:
            leads = 0
        finally:
            self.on_role.remove(changed.set)
        if leads != to:
            now = f"node {leads} leads" if leads else "no leader is known now"
            raise UnavailableError(f"node {to} did not take over: {now}; nothing was lost; see the "
                                   f"log of node {to}")
        return to

    async def hand_over(self) -> None:
        """Before a stop: if this node leads, another does at once, not after an election."""
        if self.turn.failed is None and len(self.members) > 1:
            with contextlib.suppress(RequestError, UnavailableError):
                await self.transfer()

    # ------------------------------------------------------------------------------- membership
    async def change_members(self, what: str, node: int, address: str = "", *,
                             promote: bool = False) -> None:
        """Adds, promotes, removes or replaces a member; returns when that is committed.

        A learner becomes a voter later, when it has caught up. Raises RequestError,
        UnavailableError: nothing was changed; OutcomeUnknownError.
        """
        if what == "remove" and node == self.id and boot.status(self.turn)["role"] == "leader":
            leader = await self.transfer()
            raise UnavailableError(f"node {node} led and has handed over to node {leader}: nothing "
                                   f"else was changed; ask node {leader} to remove it")
        change.change(self.turn, what, node, address.encode(), promote)
        began = boot.status(self.turn)["term"]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CHANGE_S):
                while boot.status(self.turn)["role"] == "leader" and (
                        boot.status(self.turn)["term"] == began):
                    if change.settled(self.turn):
                        return
                    await asyncio.sleep(TICK_S)
        raise OutcomeUnknownError(
            f"node {self.id} began to {what} node {node}, and could not commit that: it may be "
            "done or undone; see `dengine member list`")

    # -------------------------------------------------------------------------------- snapshots
    async def take_snapshot(self) -> None:
        """Writes the state to disk now. Raises StorageError, UnavailableError."""
        if not boot.status(self.turn)["formed"]:
            raise UnavailableError("the cluster is not formed yet: there is nothing to save; start "
                                   "all nodes")
        ended: asyncio.Future[None] = self.loop.create_future()
        self._savings.append((Saving(self.turn), ended))
        await ended

    def _look_at_savings(self) -> None:
        for each in list(self._savings):
            saving, ended = each
            try:
                if not ended.done() and not saving.done():
                    continue
                if not ended.done():  # else nobody waits any more
                    ended.set_result(None)
            except StorageError as error:
                ended.set_exception(error)
            self._savings.remove(each)

    def newest_snapshot(self) -> str:
        """The path of its file; "": there is none."""
        return self.directory.newest_snapshot(self.turn)

    # ---------------------------------------------------------------------------------- status
    def is_primary(self) -> bool:
        """Does this node lead under a valid lease, the no-op of its term committed?"""
        return boot.is_primary(self.turn)

    def is_replica(self) -> bool:
        """Is this a voter that follows and hears its leader?"""
        return boot.is_replica(self.turn)

    def is_ready(self) -> bool:
        """Can this node serve its default read policy?"""
        if self.config.raft.read_consistency.default_policy == "EventualRead":
            return self.turn.failed is None
        return self.is_primary() or self.is_replica()

    def status(self) -> dict[str, Any]:
        """What /health shows."""
        return boot.status(self.turn) | {"ready": self.is_ready()}

    def overview(self) -> dict[str, Any]:
        """What /admin/status shows: the state, all members and what happened last."""
        status = self.status()
        return status | {"members": change.members(self.turn), "events": [
            {"at": at, "what": what} for at, what in self.events]}

