"""Nodes, their disks and workers: see nodes.pxd. It runs jobs and ends processes; no judge."""
from libc.errno cimport EIO
from libc.stdint cimport int64_t, uint64_t

from dengine._core.boot cimport boot
from dengine._core.consensus cimport LEADER
from dengine._core.flush cimport refresh
from dengine._core.types cimport JOB_META, JOBS, UNKNOWN, Job, Waiter
from dengine._core.worker cimport Ring
from tests.sim.disk cimport Disk
from tests.sim.events cimport (EV_LATE, EV_PREPARE, EV_RESUME, EV_SYNC, EV_TICK, EV_TURN,
                               EV_WORK)
from tests.sim.platter cimport (CALL_SYNC, CALL_WRITE, arm, clock_us, cut_power, forget_life,
                                land)

from dengine._core import boot as core
from dengine.errors import CorruptionError, Error, RemovedError, StorageError
from dengine.storage import Setup
from tests.sim.checks import Violation

CAPACITY = 4 << 20              # bytes of a file
STALL_US = 50_000               # a stall that is lifted is noticed within
PATH = "/node"                  # of a data directory, on a disk of its own
ROLES = ("follower", "precandidate", "candidate", "leader")


cdef class Loop:
    """What a Turn takes for its event loop."""
    cdef Nodes nodes
    cdef SimNode node
    cdef uint64_t life

    def __init__(self, Nodes nodes not None, SimNode node not None):
        self.nodes = nodes
        self.node = node
        self.life = node.life

    def call_soon(self, callback):
        if self.life == self.node.life:
            self.nodes.push(self.nodes.now_us + 5 + self.nodes.vary(60), EV_TURN,
                            self.node.index, self.life, None)

    call_soon_threadsafe = call_soon


cdef class SimNode:
    def __repr__(self):
        return f"node {self.index + 1}"


cdef class Nodes(Events):
    def __init__(self, seed, nodes=3, strategy=0, spare=0, **options):
        """`options` override fields of storage.Setup. `spare` nodes are not started."""
        super().__init__(seed)
        self.first = nodes
        nodes += spare
        self.counts = {}
        self.broken = set()
        self.lying = set()
        self.sync_us = 100 + self.draw(6000)
        self.tick_us = 20_000
        self.checks = Checks(nodes, strategy)
        self.checks.now_us = &self.now_us
        self.checks.meta_paths = [PATH.encode() + b"/meta"] * nodes
        self.nodes = []
        fields = dict(
            members=[(i + 1, b"node:%d" % (i + 1)) for i in range(self.first)], cluster=7 + seed,
            cluster_named=True, strategy=strategy, threshold=100, interval_us=20_000,
            max_unflushed_us=200_000, segment_bytes=1 << 20, promise_ms=600, timeout_ms=1200,
            heartbeat_ms=100, lease_ms=500, waiting_writes=10_000,
            waiting_reads=10_000, waiting_bytes=1 << 30, idempotency_retention_ms=20_000,
            boot_id=bytes(16),
            snapshot_entries=1 << 40, snapshot_bytes=1 << 40, snapshot_keep_bytes=1 << 40)
        fields.update(options)
        self.checks.max_unflushed_us = fields["max_unflushed_us"]
        for i in range(nodes):
            self.nodes.append(self.new_node(i, fields))

    def new_node(self, int index, dict fields):
        cdef SimNode node = SimNode()
        node.index = index
        if index >= self.first:
            fields = fields | {"joins": True, "members": [
                *fields["members"], (index + 1, b"node:%d" % (index + 1))]}
        node.setup = Setup(node=index + 1, incarnation=self.draw(1 << 60) + 1, **fields)
        self.checks.owns(index, node.setup.incarnation)
        self.format(node)
        node.disk.state.clock.offset_us = 1_000_000 + self.draw(1 << 40)
        node.disk.state.clock.drift_ppm = <int64_t>self.draw(20_001) - 10_000
        node.deferred = []
        node.open = {}
        return node

    def format(self, SimNode node not None):
        """An empty disk, with the same clock."""
        cdef Disk old = node.disk
        node.disk = Disk(self.draw(1 << 60), CAPACITY)
        if old is not None:
            node.disk.state.clock = old.state.clock
        node.disk.state.clock.base_us = &self.now_us
        node.disk.state.forgets = self.steady
        node.ahead = False
        self.checks.disks[node.index] = node.disk.state

    def be_steady(self):
        """No chance from now on; no clock runs wrong; what is not synced is lost with power."""
        cdef SimNode node
        self.steady = True
        for node in self.nodes:
            node.disk.state.forgets = True
            node.disk.state.clock.offset_us = 1_000_000
            node.disk.state.clock.drift_ppm = 0

    cpdef int count(self, str what) except -1:
        self.counts[what] = self.counts.get(what, 0) + 1
        return 0

    # ------------------------------------------------------------------------------------- events
    cdef int node_event(self, SimNode node, int kind, object what) except -1:
        """What comes from the node itself: its timer, its loop, its workers."""
        if kind == EV_TICK:
            self.push(self.now_us + self.tick_us - 1000 + self.vary(2000), EV_TICK, node.index,
                      node.life, None)
            self.run_node(node)
        elif kind == EV_TURN:
            node.turn.wake()
        elif kind == EV_SYNC:
            self.sync_done(node)
        elif kind == EV_PREPARE:
            node.preparing = False
            node.turn.preparer.run_one()
            self.run_node(node)
        elif kind == EV_LATE:
            node.late_us = 0
        elif kind == EV_WORK:
            self.work(node, <Work>what)
        return 0

    cdef int connect(self, int i) except -1:
        raise NotImplementedError

    cdef int hang_up(self, SimNode node, bint sent) except -1:
        raise NotImplementedError

    # -------------------------------------------------------------------------------------- nodes
    def start(self, nodes=None):
        """Starts every node, or those named, and lets them connect."""
        for i in range(self.first) if nodes is None else nodes:
            self.boot(i)

    def boot(self, int i):
        """Starts a dead node from its disk."""
        cdef SimNode node = <SimNode>self.nodes[i]
        names = [n for n in node.disk.names(PATH + "/log")]
        has_meta = "meta" in node.disk.names(PATH)
        node.setup.seed = self.draw(1 << 60) + 1
        node.setup.nonce = self.draw(1 << 60) + 1
        node.life += 1
        self.broken.discard(i)
        self.lying.discard(i)
        node.works = []
        node.installed = 0
        node.turn = boot(&node.disk.io, PATH.encode(), has_meta, names,
                         node.disk.names(PATH + "/snapshot"), node.setup)
        node.turn.on_snapshot = lambda work: self.begin_work(node, work)
        node.alive = True
        node.paused = node.syncing = node.preparing = False
        node.late_us = node.role = node.turns = 0
        node.full = node.packed = False
        node.recycled = 0
        node.first = node.turn.log.first()
        node.deferred = []
        core.attach(node.turn, Loop(self, node))
        if node.turn.checkpoint.base.index:
            self.count("start: from a snapshot")
        self.count("start: " + ("an empty directory" if not has_meta else
                                "in doubt" if node.turn.raft.doubt else
                                "nothing to repair" if not node.turn.notes else
                                "a torn tail cut"))
        if self.story is not None:
            told = (f"node {i + 1} starts in term {node.turn.meta.state.term}, its log ends at "
                    f"{node.turn.log.last}")
            self.tell("; ".join([told, *node.turn.notes]))
        self.checks.booted(i, node.turn)
        self.push(self.now_us + 1 + self.vary(self.tick_us), EV_TICK, i, node.life, None)
        self.connect(i)
        self.look(node)

    def kill(self, int i, power=False):
        """Memory is lost, the page cache is kept, or lost too; what it sent may still arrive."""
        cdef SimNode node = <SimNode>self.nodes[i]
        self.count("power cut" if power else "kill")
        if power and node.syncing:
            self.count("power cut in a sync")
        if node.preparing and self.draw(2):     # it dies at some call of the preparer
            arm(node.disk.state, self.draw(2) * CALL_WRITE or CALL_SYNC, 1 + self.draw(2), EIO, 0)
            node.turn.preparer.run_one()
        self.checks.dies(i, node.turn, power or i in self.lying)
        if power:
            self.lose_cache(node)
        else:
            forget_life(node.disk.state)
        self.bury(node)

    def cut_power(self, int i):
        """The machine of a dead node loses power: what its page cache still held is lost."""
        self.checks.loses_cache(i)
        self.lose_cache(<SimNode>self.nodes[i])

    def lose_cache(self, SimNode node not None):
        """And the kernel with it: the next one has another boot id."""
        cdef uint64_t number = int.from_bytes(node.setup.boot_id, "little") + 1
        node.setup.boot_id = number.to_bytes(16, "little")
        cut_power(node.disk.state)

    def stop(self, int i):
        """The node is closed: what it wrote is synced first."""
        cdef SimNode node = <SimNode>self.nodes[i]
        self.count("clean stop")
        if node.syncing:
            self.finish(node)
        node.turn.flusher.run_inline()          # as its thread does before it ends
        self.checks.meta_synced(i)
        self.checks.at_rest(i, i in self.broken)
        for work in node.works:
            work.close()
        try:
            core.close(node.turn)
        except StorageError:
            if i not in self.broken:
                raise
        self.checks.dies(i, node.turn, i in self.lying)
        forget_life(node.disk.state)
        self.bury(node)

    def bury(self, SimNode node not None):
        """The process is gone: its connections break, its clients are told."""
        cdef int i = node.index
        cdef bint sent = self.vary(2) != 0
        if self.story is not None:
            self.tell(f"node {i + 1} is gone")
        node.alive = False
        node.life += 1
        for client in list(node.open.values()):
            (<Waiter>client).done(UNKNOWN, 0, NULL)
        self.hang_up(node, sent)
        node.turn.loop = None
        node.turn.log.close()
        node.turn.meta.close()
        node.turn.transfer.close()
        node.turn.on_snapshot = None
        node.works = []
        node.turn = None

    def pause(self, int i, uint64_t us):
        """The process stands still, its clock goes on."""
        cdef SimNode node = <SimNode>self.nodes[i]
        if node.alive and not node.paused:
            node.paused = True
            self.push(self.now_us + us, EV_RESUME, i, node.life, None)
            if self.story is not None:
                self.tell(f"node {i + 1} stands still for {us} us")

    def go_on(self, SimNode node not None):
        """The worst order: its timer first, then what had arrived."""
        if not node.paused:
            return 0
        node.paused = False
        deferred = node.deferred
        node.deferred = []
        for kind, more, what in sorted(deferred, key=lambda e: e[0] != EV_TICK):
            self.push(self.now_us, kind, node.index, more, what)
        return 0

    def stall(self, int i, uint64_t us):
        """The disk of a node finishes no sync for so long."""
        (<SimNode>self.nodes[i]).stalled_us = self.now_us + us

    def fail(self, int i, str call, uint64_t nth=1, int error=EIO, uint64_t keep=0):
        """The nth call of this kind on the disk of a node fails; the node then stops."""
        self.broken.add(i)
        if call == "sync":
            self.lying.add(i)                   # what it had not synced is lost, cached or not
        (<SimNode>self.nodes[i]).disk.fail(call, nth, error, keep)

    def tear(self, int i, uint64_t keep):
        """Of the next write of a node only so many bytes arrive, then it dies."""
        cdef SimNode node = <SimNode>self.nodes[i]
        self.broken.add(i)
        node.disk.shorten(1, keep)
        arm(node.disk.state, CALL_WRITE, 2, EIO, 0)

    def fill(self, int i, uint64_t left):
        """The disk of a node has room for so many bytes more. That stops no node."""
        (<SimNode>self.nodes[i]).disk.fill(left)

    def free(self, int i):
        """The disk of a node has as much room as anybody wants."""
        (<SimNode>self.nodes[i]).disk.free()

    def lose_reserve(self, int i):
        """Somebody removes the reserve of a dead node, and its disk is full again at once."""
        cdef Disk disk = (<SimNode>self.nodes[i]).disk
        disk.remove(f"{PATH}/log/reserve")
        disk.fill(0)

    def mend(self, int i):
        """The disk of a node is well again; of what failed before it may hear still."""
        (<SimNode>self.nodes[i]).disk.mend()

    cdef int run_node(self, SimNode node) except -1:
        node.turn.run()
        return 0

    cdef int look(self, SimNode node) except -1:
        """After each step: the workers' next jobs, and every check."""
        cdef Turn turn = node.turn
        self.pump(node)
        self.steps += turn.turns != node.turns
        node.turns = turn.turns
        self.compacted += turn.log.first() > node.first
        self.recycled += turn.log.recycled - node.recycled
        node.recycled = turn.log.recycled
        if turn.transfer.installed != node.installed:
            node.installed = turn.transfer.installed
            self.count("snapshot installed")
        node.first = turn.log.first()
        if turn.log.full != node.full:
            node.full = turn.log.full
            self.count("full disk noticed" if node.full else "full disk has room again")
        if turn.raft.packed != node.packed:
            node.packed = turn.raft.packed
            if node.packed:
                self.count("full disk: entries left out")
        if turn.failed is not None:
            self.stopped(node)
            return 0
        if turn.raft.role != node.role:
            self.roles[node.role][turn.raft.role] += 1
            if self.story is not None:
                self.tell(f"node {node.index + 1} becomes {ROLES[turn.raft.role]} in term "
                          f"{turn.raft.term}")
            node.role = turn.raft.role
        self.digest ^= turn.raft.term << 40 ^ turn.raft.commit << 20 ^ turn.raft.last
        return self.checks.after(node.index, turn)

    def stopped(self, SimNode node not None):
        """A node that meets an error of its disk ends; any other end is a violation."""
        why = node.turn.failed
        self.tell(f"node {node.index + 1} stops: {why}")
        if isinstance(why, RemovedError) and not self.checks.is_member(node.setup.incarnation):
            self.count("removed node stopped")
            self.checks.dies(node.index, node.turn, node.index in self.lying)
            forget_life(node.disk.state)
            self.bury(node)
            if self.on_stop is not None:
                self.on_stop(node.index)
            return 0
        full = node.turn.alone and node.disk.state.space != <uint64_t>-1 and (
            node.turn.raft.noop == 0)           # nothing in reserve, and no room to begin a term
        if isinstance(why, CorruptionError) and self.checks.by_all and not self.votes(node):
            self.count("learner ahead of all voters")
            node.ahead = True
        elif not (node.index in self.broken or full) or not isinstance(why, StorageError):
            if isinstance(why.__cause__, Violation):
                raise why.__cause__
            raise Violation(f"node {node.index + 1} stopped: {why!r}")
        self.count("no room to begin a term" if full else "stopped by its disk")
        self.checks.dies(node.index, node.turn, node.index in self.lying)
        forget_life(node.disk.state)
        self.bury(node)
        if self.on_stop is not None:
            self.on_stop(node.index)

    def votes(self, SimNode node not None):
        """Is it a voter, as it surely knows?"""
        return node.turn.raft.surely_votes()

    cdef int checked(self) except -1:
        """At most one node says that it is primary."""
        cdef SimNode node
        cdef int n = 0
        for node in self.nodes:
            if node.alive and not node.paused and node.turn.raft.role == LEADER and (
                    node.turn.failed is None
                    and node.turn.raft.leads(clock_us(&node.disk.state.clock))):
                n += 1
        if n > 1:
            raise Violation("two nodes are primary at once")
        return 0

    # ------------------------------------------------------------------------------------ workers
    cdef int pump(self, SimNode node) except -1:
        """A job's calls are made when it begins or when it ends; its syncs are complete, and the
        turn hears of it, when it ends."""
        cdef Ring *r = node.turn.flusher.ring
        cdef Ring *p = node.turn.preparer.ring
        cdef Job *job
        cdef uint64_t now = clock_us(&node.disk.state.clock)
        if not node.preparing and p.head > p.done:
            node.preparing = True
            self.push(self.now_us + self.about(5000), EV_PREPARE, node.index, node.life, None)
        if node.syncing or r.head == r.done:
            return 0
        job = &r.jobs[r.done % JOBS]
        if job.late:
            if now < job.not_before_us and not r.hurry and r.head == r.done + 1:
                if node.late_us == 0:
                    node.late_us = self.now_us + job.not_before_us - now
                    self.push(node.late_us, EV_LATE, node.index, node.life, None)
                return 0
            r.hurry = 0
        node.syncing = True
        node.begun = self.vary(4) != 0
        if node.begun:
            node.disk.state.hold = True
            node.turn.flusher.run_one()
            node.disk.state.hold = False
            r.done -= 1                         # not told before EV_SYNC
        node.waits += self.now_us < node.stalled_us
        return self.push(self.now_us + self.about(self.sync_us), EV_SYNC, node.index, node.life,
                         None)

    def finish(self, SimNode node not None):
        """The job under way ends."""
        cdef Ring *r = node.turn.flusher.ring
        node.syncing = False
        if node.begun:
            r.done += 1
            land(node.disk.state)
        else:
            node.turn.flusher.run_one()
        if r.jobs[(r.done - 1) % JOBS].kind & JOB_META:
            self.checks.meta_synced(node.index)

    def begin_work(self, SimNode node not None, Work work not None):
        """A thread of its own does it, step by step."""
        node.works.append(work)
        self.push(self.now_us + self.about(3000), EV_WORK, node.index, node.life, work)

    cdef int work(self, SimNode node, Work work) except -1:
        cdef bint more
        try:
            more = work.step()
        except Error as error:
            self.tell(f"node {node.index + 1}: {error}")
            if not isinstance(error, StorageError):
                raise
            more = False
        if more:
            return self.push(self.now_us + self.about(self.sync_us), EV_WORK, node.index,
                             node.life, work)
        self.count("snapshot taken" if work.complete else "snapshot failed")
        if self.story is not None:
            self.tell(f"node {node.index + 1} has a snapshot of entry {work.index}")
        work.close()
        node.works.remove(work)
        node.turn.snapshot_ended(work)
        return self.run_node(node)

    cdef int sync_done(self, SimNode node) except -1:
        cdef Ring *r = node.turn.flusher.ring
        if self.now_us < node.stalled_us:
            return self.push(min(node.stalled_us, self.now_us + STALL_US), EV_SYNC, node.index,
                             node.life, None)
        self.finish(node)
        if r.head == r.done and (self.steady or self.draw(4) == 0):
            refresh(r.marks, r.io)
        return self.run_node(node)
