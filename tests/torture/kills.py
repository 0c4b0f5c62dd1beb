"""kill -9 under load, at each failpoint of the core and between them: nothing acknowledged is lost.

A failpoint kills its process the nth time it is passed, before or after a step that matters:
`DENGINE_FAILPOINT` in the modules of `make mutants`. One that is not passed in time is void; its
node is killed at that moment instead, which counts as a random one.
"""

import asyncio
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.net import Network
from tests.chaos.nodes import Node
from tests.torture.run import LateError, Run
from tests.trees import ROOT

TREE = ROOT / "build" / "faults" / "tree"
BETWEEN = 60                # writes acknowledged between two kills
BETWEEN_S = 20.0
STRIKES_S = 15.0            # until the point was passed so often
AWAY_S = 40.0               # until the log that a node needs is gone
ALL = 0.25                  # of the kills at a random moment strike all three at once
RANDOM = "at a random moment"


@dataclass(frozen=True)
class Point:
    """`most`: the nth passage is drawn from 1 to this."""

    most: int
    strategies: tuple[str, ...] = ("DiskFirst", "MemFirst")
    needs: str = ""         # what makes a node pass there: "an election", "a snapshot"


POINTS = {
    "log.write": Point(300, ("MemFirst",)),
    "flush.write": Point(150, ("DiskFirst",)),
    "flush.sync": Point(100),
    "flush.synced": Point(100),
    "meta.slot": Point(2, needs="an election"),
    "prepare.write": Point(40),
    "prepare.renamed": Point(2),
    "log.remove": Point(2),
    "turn.send": Point(300),
    "turn.apply": Point(800),
    "turn.tell": Point(300),
    "recovery.tidy": Point(1),
    "snapshot.create": Point(2),
    "snapshot.write": Point(5),
    "snapshot.sync": Point(2),
    "snapshot.read": Point(5),
    "snapshot.rename": Point(2),
    "snapshot.renamed": Point(2),
    "snapshot.named": Point(2),
    "transfer.write": Point(2, needs="a snapshot"),
    "transfer.rename": Point(1, needs="a snapshot"),
    "transfer.renamed": Point(1, needs="a snapshot"),
    "install.log": Point(1, needs="a snapshot"),
    "install.done": Point(1, needs="a snapshot"),
}


class Kills(Run):
    def __init__(self, kind: str, seed: int, strategy: str, root: Path,
                 network: Network | None) -> None:
        super().__init__(kind, seed, strategy, root, network)
        self.waiting = [name for name, p in POINTS.items() if strategy in p.strategies]
        self.rng.shuffle(self.waiting)
        for node in self.nodes.values():
            node.tree = TREE

    async def blow(self) -> None:
        if not await self.load.more(BETWEEN, BETWEEN_S):
            raise LateError(f"no {BETWEEN} writes were acknowledged within {BETWEEN_S:g} s")
        name = self.waiting.pop()
        self.waiting.insert(0, name)
        point, node = POINTS[name], self.rng.choice(list(self.nodes.values()))
        every = point.needs != "a snapshot" and self.rng.random() < ALL
        for other in [n for n in self.nodes.values() if every or n is node]:
            other.kill()
            self.struck(RANDOM)
        for other in [n for n in self.nodes.values() if every and n is not node]:
            other.start()
        if point.needs == "a snapshot":
            await self.outlive(node)
        node.start(DENGINE_FAILPOINT=f"{name}:{self.rng.randint(1, point.most)}:kill")
        led = await self.elect(node) if point.needs == "an election" else None
        if await self.ends(node):
            self.struck(name)
        else:
            node.kill()
            self.struck(RANDOM)
            self.verdict.void += 1
        node.start()
        if led:
            led.start()
        await self.back()
        self.must_hold(await self.look())

    def struck(self, name: str) -> None:
        self.verdict.blows += 1
        self.verdict.by[name] = self.verdict.by.get(name, 0) + 1

    async def outlive(self, node: Node) -> None:
        """The others write until the log that this node has is gone everywhere."""
        had = (await self.health(self.nodes[await self.await_leader()]))["last"]

        async def gone() -> bool:
            states = [await self.health(n) for n in self.nodes.values() if n is not node]
            return all(s and s["first"] > had for s in states)

        await self.until(f"the log goes behind entry {had}", AWAY_S, gone)

    async def elect(self, node: Node) -> Node | None:
        """Kills whoever leads, once this node follows: it must vote. Returns who was killed."""
        deadline = time.monotonic() + STRIKES_S
        while node.ended() is None and time.monotonic() < deadline:
            if await self.is_back() and (leader := await self.leader()) != node.id:
                self.nodes[leader].kill()
                self.struck(RANDOM)
                return self.nodes[leader]
            await asyncio.sleep(0.02)
        return None

    async def await_leader(self) -> int:
        async def leads() -> bool:
            return bool(await self.leader())

        await self.until("a leader", BETWEEN_S, leads)
        return await self.leader()

    async def ends(self, node: Node) -> bool:
        """Waits until the failpoint has killed it."""
        assert node.process is not None
        try:
            status = await asyncio.to_thread(node.process.wait, STRIKES_S)
        except subprocess.TimeoutExpired:
            return False
        node.process = None
        node.note("stop")
        if status != -signal.SIGKILL:
            raise LateError(f"node {node.id} ended by itself, status {status}:\n{node.tail()}")
        return True
