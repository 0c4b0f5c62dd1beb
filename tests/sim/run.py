"""Runs a plan: load and faults, then a fault that stays while service is owed, then peace and a
reckoning. It decides what is done and what is owed when; what must hold after each step is in
checks.pyx, what the answers must be in history.py.

    run(plan)           raises what is wrong, with the plan as a note
    replay(plan)        the same, and tells the newest events
"""
from __future__ import annotations

import errno
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from dengine._core import change
from tests.sim import history
from tests.sim.checks import Violation
from tests.sim.cluster import Cluster
from tests.sim.plan import MS, Fault, Plan, plan

SECOND = 1_000_000
PAGE, SLOT = 4096, 96       # bytes: of meta's two blocks, and used in each
HEADER = 32                 # bytes before the payload of a record
MILD = {"kill", "stop", "pause", "stall", "cut", "cut one way", "isolate leader", "partition",
        "ring", "disconnect", "transfer", "add", "promote"}
RETRY_MS = 50               # until the others answer one that lost its vote
SERVICE_US = 10 * SECOND    # within which a cluster with a connected majority serves
PEACE_US = 15 * SECOND      # within which a healed one serves and agrees


class Run:
    def __init__(self, p: Plan) -> None:
        self.plan = p
        self.cluster = c = Cluster(p.seed, nodes=p.nodes, strategy=p.strategy, spare=p.spare,
                                   **p.options)
        self.all = range(p.nodes + p.spare)
        c.think_us, c.keys, c.large = p.think_us, p.keys, p.large
        c.write_percent, c.keyed_percent = p.write_percent, p.keyed_percent
        c.delay_us = p.delay_us or c.delay_us
        c.on_stop = self._stopped
        c.until_us = p.load_ms * MS
        for node in self.all:
            if p.drift_ppm:
                c.set_clock(node, c.pick(1 << 40), c.pick(2 * p.drift_ppm + 1) - p.drift_ppm)
        self.healed = False
        self.voters: list[int] = []             # while a fault stands
        self.apart = (-1, -1)                   # two nodes of which one does not hear the other
        self.down = -1                          # the node that stays dead, whoever would start it
        self.slow = -1                          # the node whose disk finishes nothing
        self.voteless = -1                      # the node that lost its hard state
        self.wiped = -1                         # the node whose empty directory has no place yet
        self.joined = set(range(p.nodes))       # nodes that were members, or are to be

    def __call__(self) -> Run:
        c, p = self.cluster, self.plan
        c.start()
        c.load(p.sessions)
        c.lose, c.repeat, c.reorder, c.corrupt = p.mangle
        c.strict = not any(p.mangle)
        for fault in p.faults:
            c.at(fault.at_ms * MS, lambda fault=fault: self._strike(fault))
        c.run_for(p.load_ms * MS)
        self._heal()
        if p.standing != "none":
            self._stand(p.standing)
        self._peace()
        return self

    # ----------------------------------------------------------------------------------- faults
    def _strike(self, fault: Fault) -> None:
        if self.wiped >= 0 and fault.kind not in MILD:
            return                              # one directory less is what the others can bear
        if not self.healed:
            self.cluster.tell(f"fault: {fault.kind}")
            node = fault.target if fault.target >= 0 else self.cluster.leader()
            getattr(self, "_" + fault.kind.replace(" ", "_"))(max(node, 0), fault)

    def _alive(self, node: int) -> bool:
        return bool(self.cluster.nodes[node].alive)

    def _is_well(self, node: int) -> bool:
        """Does it live, and do all members, and has nobody forgotten anything?"""
        return self._alive(node) and self.cluster.well() and node not in self.cluster.broken

    def _stopped(self, node: int) -> None:
        """By its disk; or a learner that holds what all voters forgot: it begins anew."""
        c = self.cluster
        if c.nodes[node].ahead:
            c.wipe(node)
            self._begin_anew(node)
        elif c.is_forgotten(node):
            c.at(RETRY_MS * MS, lambda: self._come_again(node))
            return
        self._boot_in(node, 5 + self.plan.seed % 500)

    def _come_again(self, node: int) -> None:
        """It was told that its directory counts nowhere; the cluster waits for it all the same."""
        if not self._alive(node) and node in self._members() and node != self.wiped:
            self.cluster.wipe(node)
            self._boot(node)
            self._begin_anew(node)

    def _begin_anew(self, node: int) -> None:
        """Its directory is empty: again and again, until the leader takes it in."""
        c = self.cluster
        if not c.seats(node) and not (c.leader() >= 0 and c.change(c.leader(), "replace", node)):
            c.at(RETRY_MS * MS, lambda: self._begin_anew(node))

    def _all_are_formed(self) -> bool:
        """Else nobody can say which terms there were."""
        return all(s["formed"] for s in self.cluster.states() if s is not None)

    def _boot_in(self, node: int, ms: int) -> None:
        self.cluster.at(max(ms, 1) * MS, lambda: self._boot(node))

    def _boot(self, node: int) -> None:
        c = self.cluster
        if self._alive(node) or node == self.down:
            return
        c.mend(node)
        if node == self.voteless:
            c.free(node)                        # whoever puts this right makes room too
            if not c.rejoin(node):
                self._boot_in(node, RETRY_MS)
                return
            self.voteless = -1
        c.boot(node)

    def _kill(self, node: int, fault: Fault, power: bool = False) -> None:
        if self._alive(node):               # who lost all cannot say which terms there were
            power = power and (self.voteless < 0 or self.cluster.synced(node) > 0)
            self.cluster.kill(node, power)
            self._boot_in(node, fault.for_ms)

    def _power(self, node: int, fault: Fault) -> None:
        if self._alive(node):
            self._kill(node, fault, power=True)
        else:                                   # killed before: what it left unsynced is lost
            self.cluster.count("power cut after a kill")
            self.cluster.cut_power(node)

    def _kill_all(self, _: int, fault: Fault, power: bool = False) -> None:
        for node in self.all:
            self._kill(node, fault, power)

    def _power_all(self, _: int, fault: Fault) -> None:
        self._kill_all(0, fault, power=True)

    def _stop(self, node: int, fault: Fault) -> None:
        if self._alive(node):
            self.cluster.stop(node)
            self._boot_in(node, fault.for_ms)

    def _pause(self, node: int, fault: Fault) -> None:
        if self._alive(node):
            self.cluster.count("pause")
            self.cluster.pause(node, fault.for_ms * MS)

    def _suspend(self, node: int, fault: Fault) -> None:
        if self._alive(node):
            self.cluster.count("suspend")
            self.cluster.pause(node, (2000 + fault.for_ms) * MS)

    def _stall(self, node: int, fault: Fault) -> None:
        self.cluster.count("stall")
        self.cluster.stall(node, fault.for_ms * MS)

    def _separate(self, pairs: list[tuple[int, int]], ms: int, both: bool = True) -> None:
        for a, b in pairs:
            self.cluster.cut(a, b, both=both)
        self.cluster.at(ms * MS, lambda: [self.cluster.heal(a, b) for a, b in pairs])

    def _other(self, node: int, fault: Fault) -> int:
        return (node + 1 + fault.other % (len(self.all) - 1)) % len(self.all)

    def _cut(self, node: int, fault: Fault) -> None:
        self.cluster.count("cut")
        self._separate([(node, self._other(node, fault))], fault.for_ms)

    def _cut_one_way(self, node: int, fault: Fault) -> None:
        self.cluster.count("cut one way")
        pair = (node, self._other(node, fault))
        self._separate([pair if fault.other & 1 << 19 else pair[::-1]], fault.for_ms, both=False)

    def _isolate_leader(self, node: int, fault: Fault) -> None:
        self.cluster.count("one isolated")
        self._separate([(node, n) for n in self.all if n != node], fault.for_ms)

    def _partition(self, node: int, fault: Fault) -> None:
        side = {n for n in self.all if fault.other >> n & 1} | {node}
        self.cluster.count("partition")
        self._separate([(a, b) for a in side for b in self.all if b not in side],
                       fault.for_ms)

    def _ring(self, node: int, fault: Fault) -> None:
        """Each node reaches only its neighbours."""
        n = len(self.all)
        self.cluster.count("ring")
        self._separate([(a, b) for a in range(n) for b in range(a)
                        if (a - b) % n not in (1, n - 1)], fault.for_ms)

    def _disconnect(self, node: int, fault: Fault) -> None:
        if self._alive(node):
            self.cluster.count("disconnect")
            self.cluster.disconnect(node, self._other(node, fault))

    def _bad_sync(self, node: int, fault: Fault) -> None:
        if self._alive(node):
            self.cluster.count("sync error")
            self.cluster.fail(node, "sync", 1 + fault.other % 3, errno.EIO)

    def _bad_write(self, node: int, fault: Fault) -> None:
        if self._alive(node):
            self.cluster.count("write error")
            self.cluster.fail(node, "write", 1 + fault.other % 3, errno.EIO)

    def _torn_write(self, node: int, fault: Fault) -> None:
        if self._alive(node):
            self.cluster.count("torn write")
            self.cluster.tear(node, fault.other % 600)

    def _full(self, node: int, fault: Fault) -> None:
        if self._alive(node):
            self.cluster.count("full disk")
            self.cluster.fill(node, fault.other % 20_000)
            self.cluster.at(10 * fault.for_ms * MS, lambda: self.cluster.free(node))
            if fault.other & 1 and self.plan.nodes > 1:     # started again, with nothing in reserve
                self.cluster.stop(node)
                self.cluster.lose_reserve(node)
                self._boot_in(node, fault.for_ms)

    def _flip_meta(self, node: int, fault: Fault) -> None:
        """One copy of the hard state goes bad while the node is dead: the other covers it."""
        if self._alive(node):
            self.cluster.stop(node)
            self._boot_in(node, fault.for_ms)
            disk = self.cluster.nodes[node].disk
            good = [page[:SLOT] == page[PAGE:PAGE + SLOT]
                    for page in (disk.durable("/node/meta"), disk.read("/node/meta"))]
            if all(good):                                   # never the last good copy
                self.cluster.count("bit flip in one copy of meta")
                bit = fault.other // 2 % (8 * SLOT)
                disk.flip("/node/meta", 8 * PAGE * (fault.other & 1) + bit)

    def _flip_log(self, node: int, fault: Fault) -> None:
        """A proven record goes bad while the node is dead: the others have it."""
        c = self.cluster
        last = c.synced(node) if self._is_well(node) else 0
        first = c.first(node) if last else 1
        if first <= last:
            index = first + fault.other % (last + 1 - first)
            epoch, offset = c.place(node, index)
            c.stop(node)                        # its mark proves all that is synced
            self._boot_in(node, fault.for_ms)
            c.damage(node, index, epoch, 8 * offset + fault.other % (8 * HEADER))

    def _flip_snapshot(self, node: int, fault: Fault) -> None:
        """The newest goes bad: the one before it and the log make the same state, or the others
        have it."""
        c = self.cluster
        names = c.snapshots(node) if self._is_well(node) else []
        if not names or int(names[-1][:16], 16) > c.synced(node):
            return                              # the log may end before what only the newest holds
        whole = c.first(node) == 1
        c.stop(node)
        self._boot_in(node, fault.for_ms)
        names = c.snapshots(node)
        only = len(names) == 1 and not whole
        if not only or self.plan.nodes > 1:
            size = len(c.nodes[node].disk.read(f"/node/snapshot/{names[-1]}"))
            c.damage_snapshot(node, names[-1], fault.other % (8 * size), only)

    def _lose_meta(self, node: int, fault: Fault) -> None:
        """Its log stays; the others say in which term it may go on."""
        c = self.cluster
        if self.voteless < 0 and self._is_well(node) and c.synced(node) and self._all_are_formed():
            c.kill(node) if fault.other & 1 else c.stop(node)
            c.lose_meta(node, fault.other // 4 % (8 * SLOT), bool(fault.other & 2))
            self.voteless = node
            self._boot_in(node, fault.for_ms)

    def _transfer(self, node: int, fault: Fault) -> None:
        """The lead is handed over: to the one ahead, or to whomever, up to date or not."""
        self.cluster.transfer(node, 1 + self._other(node, fault) if fault.other & 1 << 19 else 0)

    # ------------------------------------------------------------------ changes of the membership
    def _members(self) -> dict[int, str]:
        """By node: its role, as the leader knows it; {}: nobody leads."""
        leader = self.cluster.leader()
        return {} if leader < 0 else self.cluster.members(leader)

    def _add(self, _: int, fault: Fault) -> None:
        """A node that is no member, with an empty directory, is started and taken in."""
        c, members = self.cluster, self._members()
        new = [n for n in self.all if n not in members and (not self._alive(n) or n not in
                                                             self.joined)]
        if not members or not new:
            return
        node = new[fault.other % len(new)]
        if node in self.joined and not c.is_forgotten(node):
            return                              # it may still count somewhere
        if node in self.joined:
            c.wipe(node)
        self.joined.add(node)
        self._boot(node)
        c.change(c.leader(), "add", node, bool(fault.other & 1 << 19))

    def _promote(self, _: int, fault: Fault) -> None:
        learners = [n for n, role in self._members().items() if role == "learner"]
        if learners:
            self.cluster.change(self.cluster.leader(), "promote",
                                learners[fault.other % len(learners)])

    def _remove(self, _: int, fault: Fault) -> None:
        """Two voters stay; whoever leads hands over, and stays for now."""
        c, members = self.cluster, self._members()
        voters = [n for n, role in members.items() if role == "voter"]
        gone = sorted(members)[fault.other % len(members)] if members else -1
        if gone == c.leader() and gone >= 0:
            c.transfer(gone)
        elif gone >= 0 and (gone not in voters or len(voters) > 2):
            c.change(c.leader(), "remove", gone)

    def _replace(self, node: int, fault: Fault) -> None:
        """A voter loses its directory and comes back with an empty one."""
        c, members = self.cluster, self._members()
        voters = [n for n, role in members.items() if role == "voter"]
        if node == c.leader() or node not in voters or len(voters) < 3 or (
                not c.well() or c.broken or c.anything_lost()
                or not change.settled(c.nodes[c.leader()].turn)):   # a half may have only two
            return
        c.kill(node)
        c.wipe(node)
        self.wiped = node
        self._boot_in(node, fault.for_ms)
        c.at((fault.for_ms + 1) * MS, self._take_in)

    def _take_in(self) -> None:
        """Again and again, until the leader begins it."""
        c, members = self.cluster, self._members()
        if members.get(self.wiped) == "voter" and c.seats(self.wiped):
            self.wiped = -1                     # now another may lose its directory
        elif self.wiped >= 0:                   # a change that was begun may be cut
            if members.get(self.wiped) == "voter":
                c.change(c.leader(), "replace", self.wiped)
            c.at(RETRY_MS * MS, self._take_in)

    # ------------------------------------------------------------------------------ what is owed
    def _heal(self) -> None:
        c = self.cluster
        self.healed = True
        self.down = self.slow = -1
        c.lose = c.repeat = c.reorder = c.corrupt = 0
        c.heal()
        for node in self.all:
            c.stall(node, 0)
            c.go_on(c.nodes[node])
            c.mend(node)
            c.free(node)
        for node in sorted(self.joined, key=lambda n: n == self.voteless):
            self._boot(node)

    def _serve(self, nodes: list[int], what: str) -> None:
        """Each of these nodes takes a write, again and again until it is acknowledged. Time without
        a way to whoever leads is not counted."""
        c = self.cluster
        for node in nodes:
            n, late_us, apart_us = 0, 0, 0
            while True:
                n += 1
                if not self._alive(node):       # a fault of before struck it only now
                    self._boot(node)
                begun, led = c.now_us, c.leader()
                client = c.put(node, b"owed", b"%s %d.%d" % (what.encode(), node, n), 2 * SECOND)
                c.run_until(lambda client=client: client.status >= 0, 3 * SECOND)
                if client.status == history.OK:
                    break
                if set(self.apart) in ({node, led}, {node, c.leader()}):
                    apart_us += c.now_us - begun
                else:
                    late_us += c.now_us - begun
                if apart_us > SERVICE_US:
                    break
                if late_us > SERVICE_US:
                    if 2 * sum(s is not None and not s["recovering"] and i != self.slow
                               for i, s in enumerate(c.states()) if i in self.voters) <= len(
                                   self.voters):
                        break                   # no majority that forgot nothing and can vote
                    raise Violation(f"no service at node {node + 1} with {what}: {c.states()}")
                if client.status != history.UNKNOWN:
                    c.run_for(50 * MS)

    def _stand(self, what: str) -> None:
        """A fault that stays: a majority is connected, so writes go on at every node of it."""
        c = self.cluster
        self._settle()
        self.voters = [n for n, role in self._members().items() if role == "voter"]
        serving, n = list(self.voters), len(self.voters)
        if n < 3:
            return
        c.count("standing: " + what)
        leader = c.leader()
        other = self.voters[(self.voters.index(leader) + 1 + self.plan.seed % (n - 1)) % n]
        if what == "one down":
            node = leader if self.plan.seed & 1 else other
            self.down = node
            c.kill(node)
            serving.remove(node)
        elif what == "leader cut from one":
            c.cut(leader, other)
            self.apart = leader, other
            serving.remove(other)               # it may have no way to whoever leads
        elif what == "one way to leader":
            c.cut(other, leader, both=False)
            self.apart = leader, other
            serving.remove(other)
        elif what == "slow disk":
            c.stall(other, 2 * SERVICE_US)
            self.slow = other                   # it saves no vote either
            serving.remove(other)
        self._serve(serving, what)
        self._heal()

    def _settle(self) -> None:
        c = self.cluster
        if not c.run_until(lambda: c.settled() and all(map(c.seats, self._members())), PEACE_US):
            raise Violation(f"a healed cluster does not settle: leader {c.leader()}, "
                            f"{[(x.index + 1, x.alive) for x in c.nodes]}, {c.states()}")

    def _peace(self) -> None:
        c = self.cluster
        for again in range(2):                  # what failed before may be noticed only now
            self._settle()
            nodes = sorted(self._members())
            last = [c.put(i, b"last%d" % i, b"last%d.%d" % (i, again)) for i in nodes]
            if c.run_until(c.settled, PEACE_US) and all(x.status == history.OK for x in last):
                break
        else:
            raise Violation(f"no service after peace: {last}, {c.states()}")
        replay = history.check(c.commands(), c.clients, c.configs())
        nodes = sorted(self._members())         # one that was to go may be gone by now
        for i in nodes:
            if c.items(i) != replay.state:
                raise Violation(f"node {i + 1} has another state than the log")
            if not c.same_results(i, nodes[0]):
                raise Violation(f"node {i + 1} has other results than node {nodes[0] + 1}")
        c.counts["write sent again"] = replay.copies
        c.counts["Idempotency-Key again"] = replay.again
        c.counts["Idempotency-Key forgotten"] = replay.forgotten


def run(p: Plan | int, **fixed: Any) -> Run:
    """Runs a plan or a seed. Raises what is wrong."""
    current = Run(p if isinstance(p, Plan) else plan(p, **fixed))
    try:
        return current()
    except BaseException as error:
        error.run = current  # type: ignore[attr-defined]
        raise
    finally:
        current.cluster.close()


def replay(p: Plan, tell: Callable[[str], None] = print) -> BaseException | None:
    """Runs a plan once more, then tells it and the newest events. What was wrong, or None."""
    current = Run(p)
    current.cluster.story = deque(maxlen=200)
    wrong = None
    try:
        current()
    except Exception as error:
        wrong = error
    tell(str(p))
    for line in current.cluster.story:
        tell(line)
    tell(f"digest {current.cluster.digest:016x} after {current.cluster.steps} steps")
    if wrong is not None:
        tell(f"{type(wrong).__name__}: {wrong}")
    current.cluster.close()
    return wrong


def totals(current: Run) -> Counter[str]:
    """What happened how often."""
    return Counter({k: v for k, v in current.cluster.cover().items() if v})
