"""Disks that fail, hang or are full under load, by a library that is preloaded into each node.

"failed sync": the node stops by itself and is in doubt at its next start, whether it could still
save that or not. "stalled disk": a leader whose syncs hang makes room for another one; a follower's
slow nobody down. "full disk": one that is full costs no write; where a majority is full writes are
refused, and taken again by themselves when there is room. None of it loses anything. It shows how a
node takes the error, not what a kernel does to dirty pages then: that is the simulator's.
"""

import asyncio
import json
import shutil
import struct
import subprocess
from enum import IntEnum
from pathlib import Path

from tests.chaos.http import Connection
from tests.chaos.net import Network, sh
from tests.chaos.nodes import Node
from tests.torture.cuts import TOLD
from tests.torture.run import BACK_S, LateError, Run

BETWEEN = 60                # writes acknowledged between two blows, and while one lasts
BETWEEN_S = 20.0
ENDS_S = 20.0               # a node that noticed, with all who wait for it told
AWAY_S = 10.0               # until another one leads
FULL_S = 30.0               # until a full disk is noticed: half a segment is written
FREE_S = 10.0               # until room is noticed
ASK_S = 6.0                 # more than the nodes' own deadline
STATUS = 1                  # of a node that stops on an error of its disk


class Mode(IntEnum):
    """As in disk.c."""

    FINE = 0
    SEGMENTS_FAIL = 1
    ALL_FAIL = 2
    ALL_HANG = 3
    FULL = 4


def library(root: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise OSError("no C compiler")
    target = root / "disk.so"
    sh(compiler, "-shared", "-fPIC", "-O1", "-o", str(target),
       str(Path(__file__).with_name("disk.c")))
    return target


class Disks(Run):
    def __init__(self, kind: str, seed: int, strategy: str, root: Path,
                 network: Network | None) -> None:
        super().__init__(kind, seed, strategy, root, network)
        preload = str(library(root))
        for node in self.nodes.values():
            self.set(node, Mode.FINE)
            node.environment = {"LD_PRELOAD": preload, "TORTURE_DISK": str(self.switch(node))}

    def switch(self, node: Node) -> Path:
        return node.directory / "disk-mode"

    def set(self, node: Node, mode: Mode) -> None:
        file = self.switch(node)
        with file.open("r+b" if file.exists() else "w+b") as opened:
            opened.write(struct.pack("i", mode))

    async def some(self, what: str) -> None:
        if not await self.load.more(BETWEEN, BETWEEN_S):
            raise LateError(f"no {BETWEEN} writes were acknowledged within {BETWEEN_S:g} s {what}")

    async def victim(self) -> Node:
        """Every other time the leader."""
        leader = await self.leader()
        if leader and self.rng.random() < 0.5:
            return self.nodes[leader]
        return self.rng.choice(list(self.nodes.values()))

    def count(self, what: str) -> None:
        self.verdict.blows += 1
        self.verdict.by[what] = self.verdict.by.get(what, 0) + 1


class FailedSync(Disks):
    async def blow(self) -> None:
        await self.some("before the sync failed")
        node, mode = await self.victim(), self.rng.choice((Mode.SEGMENTS_FAIL, Mode.ALL_FAIL))
        told = node.log.read_text().count(TOLD)
        assert node.process is not None
        self.set(node, mode)
        try:
            status = await asyncio.to_thread(node.process.wait, ENDS_S)
        except subprocess.TimeoutExpired:
            raise LateError(f"node {node.id} goes on though its syncs fail") from None
        node.process = None
        node.note("stop")
        if status != STATUS:
            self.verdict.violations.append(f"node {node.id}: exit status {status}:\n{node.tail()}")
        self.count(mode.name.lower().replace("_", " "))
        await self.some("after the sync failed")
        self.set(node, Mode.FINE)
        node.start()
        await self.back()
        if node.log.read_text().count(TOLD) == told:
            self.verdict.violations.append(f"node {node.id} has no doubt after a failed sync")
        self.must_hold(await self.look())


class StalledDisk(Disks):
    async def blow(self) -> None:
        await self.some("before the stall")
        node = await self.victim()
        led = await self.leader() == node.id
        term = (await self.health(node))["term"]
        self.set(node, Mode.ALL_HANG)
        if led:
            async def other_leads() -> bool:
                return await self.leader() not in (0, node.id)

            took = await self.until("another node leads", AWAY_S, other_leads)
            self.verdict.longest_back_ms = max(self.verdict.longest_back_ms, took)
        await self.some("while the disk hangs")         # clients that ask that node wait in vain
        if not led:
            states = [await self.health(n) for n in self.nodes.values() if n is not node]
            if any(s.get("term") != term for s in states):
                self.verdict.violations.append(f"a stalled follower, node {node.id}, cost a leader")
        self.count("of the leader" if led else "of a follower")
        self.set(node, Mode.FINE)
        await self.until("the cluster is back", BACK_S, self.is_back)
        self.must_hold(await self.look())


class FullDisk(Disks):
    async def blow(self) -> None:
        await self.some("before a disk was full")
        n = self.rng.choice((1, 2, 3))
        full = [await self.victim()]
        full += [node for node in self.nodes.values() if node is not full[0]][:n - 1]
        for node in full:
            self.set(node, Mode.FULL)
        if n == 1:
            await self.until("the full disk is noticed", FULL_S, lambda: self.all_say(full, True))
            await self.some("while one disk is full")
            if await self.leader() == full[0].id:
                self.verdict.violations.append(f"node {full[0].id} leads with a full disk")
        else:                               # the third may never hear that it is full itself
            await self.until("writes are refused", FULL_S, self.refuses)
            await self.look_around()
        self.count(f"{n} of {len(self.nodes)}")
        for node in full:
            self.set(node, Mode.FINE)
        await self.until("room is noticed", FREE_S, lambda: self.all_say(full, False))
        await self.some("after there was room")
        await self.until("the cluster is back", BACK_S, self.is_back)
        self.must_hold(await self.look())

    async def all_say(self, nodes: list[Node], full: bool) -> bool:
        states = [await self.health(node) for node in nodes]
        return all(s.get("disk_full") is full for s in states)

    async def refuses(self) -> bool:
        """Does every node answer a write with 507?"""
        for node in self.nodes.values():
            status, body = await self.ask(node, "PUT", b"x")
            if status != 507:
                return False
            if json.loads(body)["code"] != "no_space":
                self.verdict.violations.append(f"node {node.id}: {body!r}")
        return True

    async def look_around(self) -> None:
        """Reads go on at every node."""
        for node in self.nodes.values():
            status, body = await self.ask(node, "GET")
            if status not in (200, 404):
                self.verdict.violations.append(
                    f"node {node.id}, while disks are full: a read gave {status} {body!r}")

    async def ask(self, node: Node, method: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status 0: no answer."""
        connection = Connection(node.host, node.http)
        try:
            answer = await connection.ask(method, "/kv/refused", body, within_s=ASK_S)
            return answer.status, answer.body
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return 0, b""
        finally:
            connection.close()
