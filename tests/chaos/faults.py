"""Carries out the faults of a plan on the nodes of a run, and says which of them took place.

It decides what each kind of fault does and by what evidence it counts as triggered: packets met a
rule, all threads had stopped, the process died of SIGKILL, the disk refused everything. Faults
overlap: a node that one of them has down is not a victim of another.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

from tests.chaos import plan as plans
from tests.chaos.http import Connection
from tests.chaos.load import HOT_KEYS, new, perform
from tests.chaos.members import Members
from tests.chaos.net import Network
from tests.chaos.nodes import Node
from tests.chaos.plan import Fault, Plan
from tests.check.history import Operation

WALL_US = (-3_600_000_000, -1_000_000, 1_000_000, 86_400_000_000)   # also a day ahead
WALL_STEP_S = 0.3
ANSWER_S = 15.0             # of a restarted node, before the next storm
LOSS_PERCENT = (3, 40)
QUEUED = 6                  # reads that wait in the sockets of a paused node when it goes on
QUEUED_S = 0.04             # so long before that they are sent: what others wrote is older
PATIENCE_S = 2.0            # until such a read is answered
OURS = 2_000_000            # process numbers of these reads, upwards
Ask = Callable[[Node, str], Awaitable[tuple[int, dict]]]


@dataclass
class Done:
    """What became of a fault: when it held, on whom, and whether it really did."""

    fault: Fault
    begin_ns: int = 0
    end_ns: int = 0
    on: str = ""
    triggered: bool = False


@dataclass
class Faults:
    plan: Plan
    nodes: dict[int, Node]
    network: Network | None
    ask: Ask
    done: list[Done] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)    # of the runner: the run is void
    forgetful: set[int] = field(default_factory=set)    # MemFirst: cut, and not known to be well
    members: Members = field(init=False)
    late: list[str] = field(default_factory=list)       # what was not healed in time
    struck: int | None = None       # the node that a fault of this storm singles out
    queued: list[Operation] = field(default_factory=list)       # part of the history

    def __post_init__(self) -> None:
        self.members = Members(self.nodes, self.leader)

    async def run(self, origin_ns: int) -> None:
        """All faults of the plan, storm by storm; a storm that lasts longer than planned, until its
        victims answer again, shifts the later ones, so that the calm between two remains."""
        for storm in self.plan.storms:
            faults = [self.plan.faults[n] for n in storm]
            async with asyncio.TaskGroup() as group:
                for fault in faults:
                    group.create_task(self.one(fault, origin_ns))
            planned = origin_ns + int(max(f.at_s + f.lasts_s for f in faults) * 1e9)
            self.struck = None
            self.late += [f"node {i} is no voter again" for i in await self.members.restore()]
            await self.all_answer()
            origin_ns += max(0, time.monotonic_ns() - planned)

    async def one(self, fault: Fault, origin_ns: int) -> None:
        done = Done(fault)
        self.done.append(done)
        await self.until(origin_ns + int(fault.at_s * 1e9))
        until = origin_ns + int((fault.at_s + fault.lasts_s) * 1e9)
        rng = Random(fault.seed)
        leader = await self.leader()
        if leader and fault.kind in plans.SINGLE_OUT:
            self.struck = leader
        done.begin_ns = time.monotonic_ns()
        try:
            if fault.kind in plans.LINK_KINDS:
                await self.links(done, leader, rng, until)
            elif fault.kind == "wall":
                await self.wall(done, rng, until)
            elif fault.kind in plans.MEMBER_KINDS:
                await self.change(done, leader, rng, until)
            else:
                await self.strike(done, leader, rng, until)
        except OSError as error:
            self.trouble.append(f"{fault.kind}: {error}")
        done.end_ns = time.monotonic_ns()

    async def all_answer(self) -> None:
        """A fault of a node that is still starting would be none."""
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            answers = [await self.ask(node, "/health") for node in self.nodes.values()]
            if all(status for status, _ in answers):
                return
            await asyncio.sleep(0.02)

    async def until(self, ns: int) -> None:
        await asyncio.sleep(max(0.0, (ns - time.monotonic_ns()) / 1e9))

    async def leader(self) -> int | None:
        up = [n for n in self.nodes.values() if n.up]
        answers = await asyncio.gather(*(self.ask(n, "/primary") for n in up))
        return next((n.id for n, a in zip(up, answers, strict=True) if a[0] == 200), None)

    # -------------------------------------------------------------------------------- kinds
    async def links(self, done: Done, leader: int | None, rng: Random, until: int) -> None:
        assert self.network is not None
        fault = done.fault
        chosen = plans.links(fault.kind, sorted(self.nodes), leader, rng)
        action = {
            "loss": f"numgen random mod 100 < {rng.randint(*LOSS_PERCENT)} drop",
            "reset": "reject with tcp reset",
        }.get(fault.kind, "drop")
        done.on = " ".join(f"{a}>{b}" for a, b in sorted(chosen))
        self.network.begin(fault.number, chosen, action)
        await self.until(until)
        done.triggered = self.network.end(fault.number) > 0

    async def wall(self, done: Done, rng: Random, until: int) -> None:
        done.on = "each node by its own"
        while time.monotonic_ns() < until:
            node = rng.choice(list(self.nodes.values()))
            if node.wall_library:
                node.shift_wall(rng.choice(WALL_US))
                done.triggered = True
            await asyncio.sleep(WALL_STEP_S)

    async def change(self, done: Done, leader: int | None, rng: Random, until: int) -> None:
        """A change of the membership, or of who leads; the other faults may stop it half-way."""
        if done.fault.kind == "transfer":
            done.on = str(leader)
            done.triggered = await self.members.hand_over()
            return
        up = [i for i in sorted(self.nodes) if self.strikes(i, False) and i != leader]
        chosen = await self.may_forget([rng.choice(up)]) if up else []
        done.on = " ".join(map(str, chosen))
        act = {"replace": self.members.replace, "move": self.members.move}[done.fault.kind]
        for i in [i for i in chosen if self.strikes(i, False)]:         # time has passed
            self.nodes[i].busy = True
            try:
                done.triggered = await act(i, until)
            finally:
                self.nodes[i].busy = False

    async def strike(self, done: Done, leader: int | None, rng: Random, until: int) -> None:
        """Pauses, kills or cuts; whoever another fault has down by now is left alone."""
        kind = done.fault.kind
        every = kind.endswith("-all")           # also those that are paused
        up = [i for i in sorted(self.nodes) if self.strikes(i, every)]
        chosen = plans.victims(kind, up, len(self.nodes), leader, self.struck, rng)
        what = kind.partition("-")[0]
        if what == "cut" and self.plan.strategy == "MemFirst":
            chosen = await self.may_forget(chosen)
        act = {"pause": self.pause, "kill": self.kill, "cut": self.cut}[what]
        waiting: list[tuple[Connection, Operation]] = []
        if what == "pause":
            for i in chosen:
                waiting += await self.connect(self.nodes[i])
            chosen = [i for i in chosen if self.strikes(i, every)]      # time has passed
        done.on = " ".join(map(str, chosen))
        held = [act(self.nodes[i]) for i in chosen]
        await self.until(until - int(QUEUED_S * 1e9))
        reads = [asyncio.create_task(self.read(c, op)) for c, op in waiting]
        await self.until(until)
        for i, process in zip(chosen, held, strict=True):
            node = self.nodes[i]
            if what == "pause":     # a kill of the same node may have come between
                same = node.process is process and node.paused
                done.triggered |= not same or node.go_on()
            else:
                done.triggered |= bool(process)
                if what == "cut":
                    node.regain_power(rng)
                node.start()
        await asyncio.gather(*reads)

    async def connect(self, node: Node) -> list[tuple[Connection, Operation]]:
        """Connections that the node has accepted, for reads that it shall find when it goes on:
        what it then believes of its lease and its leadership is old."""
        found = []
        for n in range(QUEUED):
            connection = Connection(node.host, node.http)
            warm = new(0, "get", "k0", node.id, policy="eventual")
            await perform(connection, warm, PATIENCE_S)
            read = new(OURS + len(self.queued) + n, "get", f"k{n % HOT_KEYS}", node.id,
                       policy=("lease", "lease", "linearizable")[n % 3])
            found.append((connection, read))
        self.queued += [op for _, op in found]
        return found

    async def read(self, connection: Connection, op: Operation) -> None:
        await perform(connection, op, PATIENCE_S)
        connection.close()

    def strikes(self, i: int, paused_too: bool) -> bool:
        node = self.nodes[i]
        return node.runs and (paused_too or not node.paused) and not node.busy

    def pause(self, node: Node) -> object:
        node.pause()
        return node.process

    def kill(self, node: Node) -> object:
        return node.kill()

    def cut(self, node: Node) -> object:
        return node.lose_power()

    async def may_forget(self, chosen: list[int]) -> list[int]:
        """MemFirst keeps its word while fewer than a majority may have forgotten at one moment; so
        does any cluster while fewer have lost their directories."""
        for i in list(self.forgetful):
            _, state = await self.ask(self.nodes[i], "/health")
            if state.get("recovering") is False:
                self.forgetful.discard(i)
        room = (len(self.nodes) - 1) // 2 - len((self.forgetful | self.members.away) - set(chosen))
        chosen = chosen[:max(0, room)]
        if self.plan.strategy == "MemFirst":
            self.forgetful |= set(chosen)
        return chosen
