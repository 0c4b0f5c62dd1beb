"""What every run of the torture does: three nodes under load, and what must hold after each blow.

It decides when a cluster is back and what is judged then: every acknowledged write is there, the
nodes agree byte for byte, they stop cleanly and leave whole directories. Which blow is struck, and
what it may cost, is the business of `cuts` and `kills`.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from dengine.examine import examine
from tests.chaos.net import Network
from tests.chaos.nodes import Node, build
from tests.chaos.plan import Plan
from tests.chaos.run import AGREED, SETTLED_S
from tests.chaos.watch import ask
from tests.torture.load import Load, Loss

NODES = 3
FORM_S = 30.0
BACK_S = 30.0           # after a blow: all answer, one leads, nobody is in doubt or behind
LOOK_S = 60.0           # to read back what was acknowledged
AGREE_S = 30.0
SMALL = {               # so that segments roll, snapshots are taken and the log goes all the time
    "raft.snapshot.entries": 500, "raft.snapshot.keep_bytes": 0, "log.segment_bytes": 1 << 20,
}


class LateError(Exception):
    """Something that must happen within a time did not."""


@dataclass
class Verdict:
    """One run. Blows that did not strike as they should are void."""

    kind: str
    seed: int
    directory: str
    blows: int = 0
    void: int = 0
    acknowledged: int = 0
    looked: int = 0             # keys that were read back
    lost: int = 0               # acknowledged, not there, and may not be missing
    given_up: int = 0           # of power cuts that may lose something: keys that did
    reported: int = 0           # such cuts that the nodes told of
    diverged: int = 0
    longest_loss_ms: int = 0    # from the first lost acknowledgement to the last one of all
    longest_back_ms: int = 0
    by: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Run:
    """`blow` strikes, `regain` starts again what it took down."""

    def __init__(self, kind: str, seed: int, strategy: str, root: Path,
                 network: Network | None) -> None:
        self.verdict = Verdict(kind, seed, str(root))
        self.rng = Random(f"torture {kind} {seed}")
        self.nodes = build(Plan(seed, NODES, strategy, 0, dict(SMALL)), root, network)
        self.load = Load({i: (n.host, n.http) for i, n in self.nodes.items()}, seed)

    async def blow(self) -> None:
        """One blow, and the start of what it took down. Counts it, or counts it void."""
        raise NotImplementedError

    async def go(self, blows: int) -> Verdict:
        begun = time.monotonic()
        try:
            for node in self.nodes.values():
                node.start()
            await self.until("the cluster forms", FORM_S, self.is_back)
            self.load.start()
            for _ in range(blows):
                await self.blow()
                if self.verdict.violations:
                    break
            await self.end()
        except (LateError, ValueError) as error:
            self.verdict.violations.append(str(error))
        self.verdict.acknowledged = self.load.acknowledged
        self.verdict.seconds = round(time.monotonic() - begun, 1)
        return self.verdict

    async def end(self) -> None:
        """All agree, hold everything, stop, and leave directories that are whole."""
        await self.load.stop()
        await self.until("all nodes agree", AGREE_S, self.agree)
        self.must_hold(await self.losses(list(self.load.keys)))
        digests = {i: await self.load.digest(i, LOOK_S) for i in self.nodes}
        if len(set(digests.values())) > 1:
            self.verdict.diverged += 1
            self.verdict.violations.append(f"the nodes hold different states: {digests}")
        for node in self.nodes.values():
            if status := await asyncio.to_thread(node.stop):
                self.verdict.violations.append(f"node {node.id}: exit status {status} after "
                                               f"SIGTERM:\n{node.tail()}")
            found = examine(self.data(node))
            self.verdict.violations += [f"node {node.id}: {f.file}: {f.means}"
                                        for f in found.ordered() if f.severity]

    def data(self, node: Node) -> str:
        return f"{node.disk.seen}/db" if node.disk else str(node.directory / "db")

    def close(self) -> None:
        for node in self.nodes.values():
            if node.process is not None:
                node.kill()

    # ------------------------------------------------------------------------------- waiting
    async def until(self, what: str, seconds: float, probe: Callable[[], Awaitable[bool]]) -> int:
        """Returns how long it took, in ms."""
        begun = time.monotonic()
        while not await probe():
            if time.monotonic() - begun > seconds:
                states = {n.id: await self.health(n) or n.tail() for n in self.nodes.values()}
                raise LateError(f"{what}: not within {seconds:g} s: {json.dumps(states)}")
            await asyncio.sleep(0.02)
        return int((time.monotonic() - begun) * 1000)

    async def health(self, node: Node) -> dict:
        return (await ask(node.host, node.health, "/health"))[1]

    async def leader(self) -> int:
        """0: none."""
        for node in self.nodes.values():
            if (await ask(node.host, node.health, "/primary"))[0] == 200:
                return node.id
        return 0

    async def is_back(self) -> bool:
        """One leads, and all have what it had committed, without doubt."""
        leader = await self.leader()
        if not leader:
            return False
        committed = (await self.health(self.nodes[leader])).get("commit", 1 << 63)
        states = [await self.health(n) for n in self.nodes.values()]
        return all(s and not s["recovering"] and s["applied"] >= committed for s in states)

    async def agree(self) -> bool:
        """Are all in one state, for a while, with nothing under way?"""
        views = []
        for _ in range(2):
            states = [await self.health(n) for n in self.nodes.values()]
            views += [tuple(state.get(name) for name in AGREED) for state in states]
            if len(set(views)) > 1 or None in views[0] or len(set(views[0][:3])) > 1:
                return False
            await asyncio.sleep(SETTLED_S)
        return True

    async def back(self) -> None:
        took = await self.until("the cluster is back", BACK_S, self.is_back)
        self.verdict.longest_back_ms = max(self.verdict.longest_back_ms, took)

    # ------------------------------------------------------------------------------- judging
    async def losses(self, names: list[str]) -> list[Loss]:
        self.verdict.looked += len(names)
        try:
            return await self.load.losses(names, LOOK_S)
        except TimeoutError:
            raise LateError(f"{len(names)} keys could not be read within {LOOK_S:g} s") from None

    async def look(self) -> list[Loss]:
        """What is lost of all that was written since the last look."""
        names, self.load.fresh = sorted(self.load.fresh), set()
        return await self.losses(names)

    def must_hold(self, losses: list[Loss]) -> None:
        self.verdict.lost += len(losses)
        self.verdict.violations += [str(loss) for loss in losses[:5]]
