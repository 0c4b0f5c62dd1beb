"""Nodes of a cluster whose files go bad while they are down: they get back what they lost.

"repairs": any node, any damage that a start mends or a leader makes good. "only holder": the
damaged node is the only one beside the leader that held the newest writes, and the leader is down:
the two others must wait for it rather than go on without them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

from dengine.examine import examine
from tests.chaos.nodes import Node
from tests.torture.run import LateError, Run

BETWEEN = 300               # writes acknowledged between two repairs
BETWEEN_S = 20.0
ALONE_S = 2.5               # more than two of the longest election time-outs
BLOCK = 512
PAGE = 4096
REPAIRED = "comes from the leader again"


def flip(data: bytearray, at: int, rng: Random) -> None:
    data[at] ^= 1 << rng.randrange(8)


def zero(data: bytearray, at: int, _: Random) -> None:
    start = at // BLOCK * BLOCK
    data[start:start + BLOCK] = bytes(len(data[start:start + BLOCK]))


def cut(data: bytearray, at: int, _: Random) -> None:
    del data[at:]


def noise(data: bytearray, at: int, rng: Random) -> None:
    data[at:at + 64] = rng.randbytes(len(data[at:at + 64]))


HOW: tuple[Callable[[bytearray, int, Random], None], ...] = (flip, zero, cut, noise)


def harm(file: Path, at: int, how: Callable[[bytearray, int, Random], None], rng: Random) -> None:
    data = bytearray(file.read_bytes())
    how(data, at, rng)
    file.write_bytes(data)


class Repairs(Run):
    async def blow(self) -> None:
        await self.write_more()
        node = self.rng.choice(list(self.nodes.values()))
        if self.rng.random() < 0.5:
            node.kill()
        elif status := await asyncio.to_thread(node.stop):
            raise LateError(f"node {node.id}: exit status {status} after SIGTERM")
        self.damage(node, 0)
        node.start()
        await self.back()
        self.must_hold(await self.look())

    async def write_more(self) -> None:
        if not await self.load.more(BETWEEN, BETWEEN_S):
            raise LateError(f"no {BETWEEN} writes were acknowledged within {BETWEEN_S:g} s")

    # ------------------------------------------------------------------------------- damaging
    def damage(self, node: Node, above: int) -> None:
        """Harms a file: a record that is proven and needed, above this entry; or, where any will
        do, now and then another part that a start mends."""
        root, rng = Path(self.data(node)), self.rng
        if not above and rng.random() < 0.3 and self.damage_other(root):
            return
        found = examine(str(root))
        first, last = max(found.base[0], above) + 1, found.mark["index"]
        segments = [s for s in found.live
                    if max(s.first, first) <= min(s.kept, last)]
        if not segments:
            self.verdict.void += 1
            return
        s = rng.choice(segments)
        index = rng.randint(max(first, s.first), min(last, s.kept))
        record = next(r for r in found.records(s, index, index) if r["type"] == "record")
        how = rng.choice(HOW)
        offset = record["offset"] + rng.randrange(32)
        harm(root / s.name, offset, how, rng)
        self.count(f"{how.__name__} in a record")

    def damage_other(self, root: Path) -> bool:
        rng = self.rng
        snapshots = sorted((root / "snapshot").glob("*.snap"))
        what = rng.choice(["snapshot", "header", "meta", "mark"])
        if what == "snapshot" and snapshots:
            file = rng.choice(snapshots)
            harm(file, rng.randrange(file.stat().st_size), rng.choice(HOW), rng)
        elif what == "meta":
            harm(root / "meta", rng.randrange(2) * PAGE + rng.randrange(64), flip, rng)
        elif what in ("header", "mark"):
            file = rng.choice(sorted((root / "log").glob("*.seg")))
            at = rng.randrange(64) + (0 if what == "header" else rng.choice((1, 2)) * PAGE)
            harm(file, at, rng.choice((flip, zero)), rng)
        else:
            return False
        self.count(f"in a {what}")
        return True

    def count(self, what: str) -> None:
        self.verdict.blows += 1
        self.verdict.by[what] = self.verdict.by.get(what, 0) + 1


class OnlyHolder(Repairs):
    async def blow(self) -> None:
        """Leader and one follower acknowledge; then that follower, damaged, and the third live."""
        await self.write_more()
        first = await self.leader() or self.rng.choice(list(self.nodes))
        holder, third = self.rng.sample([i for i in self.nodes if i != first], 2)
        had = (await self.health(self.nodes[third]))["last"]
        self.nodes[third].kill()
        await self.write_more()
        await self.load.stop()
        if await self.leader() == holder:   # they changed places
            first, holder = holder, first
        await self.until("both hold all", BETWEEN_S, self.both_hold(first, holder))
        await asyncio.to_thread(self.nodes[holder].stop)
        self.nodes[first].kill()
        self.damage(self.nodes[holder], had)
        for i in (holder, third):
            self.nodes[i].start()
        deadline = time.monotonic() + ALONE_S
        while time.monotonic() < deadline:
            if leader := await self.leader():
                self.verdict.violations.append(
                    f"node {leader} leads, though what node {holder} lost is on node {first} only")
                break
            await asyncio.sleep(0.05)
        self.nodes[first].start()
        await self.back()
        self.must_hold(await self.look())
        self.load.start()

    def both_hold(self, first: int, holder: int) -> Callable[[], Awaitable[bool]]:
        async def probe() -> bool:
            a, b = [await self.health(self.nodes[i]) for i in (first, holder)]
            return bool(a and b and a["last"] == a["commit"] == b["last"])

        return probe
