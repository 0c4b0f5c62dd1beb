"""Power cuts under load: what was acknowledged is there afterwards, as the durability table says.

In DiskFirst any cut may come, and nothing is lost. In MemFirst one node at a time loses nothing;
all at once may lose what was acknowledged in the last `max_unflushed_ms`, and the nodes say so.
"""

import asyncio
import time

from tests.torture.load import Loss
from tests.torture.run import LateError, Run

KINDS = {"DiskFirst, one": 20, "DiskFirst, all": 20, "MemFirst, one": 20, "MemFirst, all": 10}
BETWEEN = 60                # writes acknowledged between two cuts
BETWEEN_S = 20.0
MOMENT_S = 0.25
UNFLUSHED_MS = 200          # 10 intervals of 20 ms, as shipped
ARRIVES_MS = 150            # an acknowledgement, at a client of a busy machine
TOLD = "may have forgotten"


class Cuts(Run):
    async def blow(self) -> None:
        if not await self.load.more(BETWEEN, BETWEEN_S):
            raise LateError(f"no {BETWEEN} writes were acknowledged within {BETWEEN_S:g} s")
        await asyncio.sleep(self.rng.uniform(0.0, MOMENT_S))
        every = self.verdict.kind.endswith("all")
        victims = list(self.nodes) if every else [self.rng.choice(list(self.nodes))]
        if not every and self.rng.random() < 0.4:
            victims = [await self.leader() or victims[0]]
        told = {i: self.nodes[i].log.read_text().count(TOLD) for i in victims}
        for i in victims:
            await asyncio.to_thread(self.nodes[i].pause)
        frozen_ns = time.monotonic_ns()
        struck = [await asyncio.to_thread(self.nodes[i].lose_power) for i in victims]
        if every:
            await asyncio.sleep(0.05)       # what was on its way to a client has arrived
        last_ns = self.load.last_ns
        for i in victims:
            await asyncio.to_thread(self.nodes[i].regain_power, self.rng)
            self.nodes[i].start()
        self.count(all(struck))
        await self.back()
        losses = await self.look()
        if self.verdict.kind == "MemFirst, all":
            self.may_lose(losses, min(last_ns, frozen_ns), sum(
                self.nodes[i].log.read_text().count(TOLD) > told[i] for i in victims))
        else:
            self.must_hold(losses)

    def count(self, struck: bool) -> None:
        self.verdict.blows += struck
        self.verdict.void += not struck

    def may_lose(self, losses: list[Loss], last_ns: int, told: int) -> None:
        """Nothing but the newest, and not without a word."""
        self.load.forget(losses)
        self.verdict.given_up += len(losses)
        self.verdict.reported += told == len(self.nodes)
        if told < len(self.nodes):
            self.verdict.violations.append(f"{told} nodes told that they may have forgotten")
        if losses:
            lasted = (last_ns - min(loss.first_ns for loss in losses)) // 1_000_000
            self.verdict.longest_loss_ms = max(self.verdict.longest_loss_ms, lasted)
            if lasted > UNFLUSHED_MS + ARRIVES_MS:
                self.must_hold(losses)
