"""Nodes, links and workers: see network.pxd. It moves bytes and jobs; it judges nothing."""
import os
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcpy

from dengine._core cimport frames
from dengine._core.boot cimport boot
from dengine._core.flush cimport Ring, refresh
from dengine._core.kernel cimport kernel
from dengine._core.consensus cimport LEADER
from dengine._core.types cimport JOB_META, JOBS, UNKNOWN, Job
from dengine._core.wire cimport (FRAME_HELLO, FRAME_OK, FRAME_PART, Hello, Outbox, frame_check,
                                 hello_decode)
from tests.sim.events cimport (EV_CALL, EV_DATA, EV_DIAL, EV_DOWN, EV_LATE, EV_PREPARE, EV_RESUME,
                               EV_SILENT, EV_SYNC, EV_TICK, EV_TURN)

from dengine._core.boot import attach
from dengine.storage import Setup
from tests.sim.checks import Violation

CONNECT_US = 50_000             # mean time until a lost connection is tried again
STRAGGLER = 400                 # one message in so many takes fifty times as long


# ------------------------------------------------------------------------------------ the kernel
cdef uint64_t virtual_now(void *ctx) noexcept nogil:
    cdef Clock *c = <Clock *>ctx
    cdef int64_t now = <int64_t>c.now_us[0]
    return c.offset_us + <uint64_t>(now + now // 1000000 * c.drift_ppm
                                    + now % 1000000 * c.drift_ppm // 1000000)


cdef int no_sync(void *ctx, int fd) noexcept nogil:
    return 0                    # a kill keeps the page cache: the files need no disk


cdef int no_sync_dir(void *ctx, const char *path) noexcept nogil:
    return 0


cdef class Loop:
    """What a Turn takes for its event loop."""
    cdef Network network
    cdef SimNode node
    cdef uint64_t life

    def __init__(self, Network network not None, SimNode node not None):
        self.network = network
        self.node = node
        self.life = node.life

    def call_soon(self, callback):
        if self.life == self.node.life:
            self.network.push(self.network.now_us + 5 + self.network.draw(60), EV_TURN, self.node,
                              self.life)

    call_soon_threadsafe = call_soon


cdef class MemLink(Link):
    cdef int send(self, const iovec *parts, int n) except -1:
        cdef size_t total = 0
        cdef int i
        for i in range(n):
            total += parts[i].iov_len
        cdef bytes data = PyBytes_FromStringAndSize(NULL, total)
        cdef char *at = PyBytes_AS_STRING(data)
        for i in range(n):
            memcpy(at, parts[i].iov_base, parts[i].iov_len)
            at += parts[i].iov_len
        cdef SimNode node = <SimNode>self.network.nodes[self.owner]
        self.network.checks.sends(self.owner, node.turn, self.peer, data)
        return self.give(data)

    def give(self, bytes data not None):
        """On its way, unless the connection broke."""
        self.network.frames += 1
        if self.network.spy is not None:
            self.network.spy(self.owner, self.peer, data)
        if self.open and not self.broken:
            self.queue.append(data)
            self.network.schedule_arrival(self)
        return 0

    cdef int close(self) except -1:
        return self.network.give_up(self)


cdef MemLink new_link(Network network, int owner, int peer):
    cdef MemLink link = MemLink()
    link.network = network
    link.owner = owner
    link.peer = peer
    link.open = True
    link.queue = deque()
    link.rest = b""
    link.arrives_us = network.now_us
    return link


cdef class SimNode:
    def __repr__(self):
        return f"node {self.index + 1}"


cdef class Network(Events):
    def __init__(self, seed, path, nodes=3, strategy=0, **options):
        """`options` override fields of storage.Setup."""
        super().__init__(seed)
        self.faults = []
        self.strict = True
        self.numbers = {}
        self.delay_us = 60 + self.draw(500)
        self.sync_us = 100 + self.draw(6000)
        self.tick_us = 20_000
        self.checks = Checks(nodes, strategy)
        self.nodes = []
        fields = dict(
            members=[(i + 1, b"node:%d" % (i + 1)) for i in range(nodes)], cluster=7 + seed,
            cluster_named=True, strategy=strategy, threshold=100, interval_us=20_000,
            max_unflushed_us=200_000, segment_bytes=64 << 20, promise_ms=600, timeout_ms=1200,
            heartbeat_ms=100, lease_ms=500, waiting_writes=10_000,
            waiting_reads=10_000, waiting_bytes=1 << 30)
        fields.update(options)
        for i in range(nodes):
            self.nodes.append(self.new_node(i, str(path), fields))

    def new_node(self, int index, str path, dict fields):
        cdef SimNode node = SimNode()
        node.index = index
        node.path = f"{path}/n{index + 1}"
        node.setup = Setup(node=index + 1, incarnation=self.draw(1 << 60) + 1, **fields)
        node.clock.now_us = &self.now_us
        node.clock.offset_us = 1_000_000 + self.draw(1 << 40)
        node.clock.drift_ppm = <int64_t>self.draw(20_001) - 10_000
        node.io = kernel()[0]
        node.io.ctx = &node.clock
        node.io.now_us = virtual_now
        node.io.cpu_us = node.io.coarse_us = NULL
        node.io.fdatasync = no_sync
        node.io.sync_dir = no_sync_dir
        node.deferred = []
        node.open = {}
        os.makedirs(f"{node.path}/log", exist_ok=True)
        return node

    # ------------------------------------------------------------------------------------- events
    cdef int handle(self, int kind, object what, object more) except -1:
        cdef SimNode node = None
        cdef MemLink link
        if kind == EV_CALL:
            more()
            return 0
        if kind == EV_DIAL or kind == EV_SILENT:
            self.note(kind, what)
            return self.dial(what, more) if kind == EV_DIAL else self.silent(what, more)
        if kind == EV_DATA or kind == EV_DOWN:
            link = <MemLink>what
            node = <SimNode>self.nodes[link.peer if kind == EV_DATA else link.owner]
            if kind == EV_DATA and self.cuts[link.owner][link.peer] and not link.broken:
                link.stuck += 1                 # sent again when the cut is healed
                return 0
        else:
            node = <SimNode>what
            if node.life != <uint64_t>more:
                return 0                        # of an earlier process
        if not node.alive:
            return 0
        if kind == EV_RESUME:
            return self.go_on(node)
        if node.paused:
            node.deferred.append((kind, what, more))
            return 0
        self.note(kind, node.index)
        if kind == EV_DATA:
            self.arrive(link)
        elif kind == EV_DOWN:
            self.down(link)
        elif kind == EV_TICK:
            self.push(self.now_us + self.tick_us - 1000 + self.draw(2000), EV_TICK, node, node.life)
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
        return self.look(node)

    # -------------------------------------------------------------------------------------- nodes
    def start(self, nodes=None):
        """Starts every node, or those named, and lets them connect."""
        for i in range(len(self.nodes)) if nodes is None else nodes:
            self.boot(i)

    def boot(self, int i):
        """Starts a dead node from its files."""
        cdef SimNode node = <SimNode>self.nodes[i]
        names = sorted(os.listdir(f"{node.path}/log"))
        has_meta = os.path.lexists(f"{node.path}/meta")
        node.setup.seed = self.draw(1 << 60) + 1
        node.setup.nonce = self.draw(1 << 60) + 1
        node.life += 1
        node.turn = boot(&node.io, os.fsencode(node.path), has_meta, names, node.setup)
        node.alive = True
        node.paused = node.syncing = node.preparing = False
        node.late_us = 0
        node.deferred = []
        node.links = [None] * len(self.nodes)
        attach(node.turn, Loop(self, node))
        self.checks.booted(i, node.turn)
        self.push(self.now_us + 1 + self.draw(self.tick_us), EV_TICK, node, node.life)
        for j in range(len(self.nodes)):
            if j != i:
                self.push(self.now_us + self.about(CONNECT_US), EV_DIAL, min(i, j), max(i, j))
        self.look(node)

    def kill(self, int i):
        """Memory is lost, files are kept; what it sent may still arrive."""
        cdef SimNode node = <SimNode>self.nodes[i]
        cdef MemLink link
        cdef bint sent = self.draw(2) != 0
        node.alive = False
        node.life += 1
        for client in list(node.open.values()):
            (<Waiter>client).done(UNKNOWN, 0, NULL)
        for link in node.links:
            if link is None:
                continue
            link.open = False
            if not sent:
                link.queue.clear()
            link.other.broken = True            # nobody reads any more
            link.other.queue.clear()
            if link.other.open and not self.cuts[i][link.peer]:
                self.push(max(self.now_us, link.arrives_us) + 1 + self.about(1000), EV_DOWN,
                          link.other, None)
            elif link.other.open:
                self.push(self.now_us + 300_000 + self.draw(2_000_000), EV_DOWN, link.other, None)
        node.links = [None] * len(self.nodes)
        node.turn.loop = None
        node.turn.log.close()
        node.turn.meta.close()
        node.turn = None

    def pause(self, int i, uint64_t us):
        """The process stands still, its clock goes on."""
        cdef SimNode node = <SimNode>self.nodes[i]
        if node.alive and not node.paused:
            node.paused = True
            self.push(self.now_us + us, EV_RESUME, node, node.life)

    def go_on(self, SimNode node not None):
        """The worst order: its timer first, then what had arrived."""
        if not node.paused:
            return 0
        node.paused = False
        deferred = node.deferred
        node.deferred = []
        for kind, what, more in sorted(deferred, key=lambda e: e[0] != EV_TICK):
            self.push(self.now_us, kind, what, more)
        return 0

    def stall(self, int i, uint64_t us):
        """The disk of a node finishes no sync for so long."""
        (<SimNode>self.nodes[i]).stalled_us = self.now_us + us

    cdef int run_node(self, SimNode node) except -1:
        node.turn.run()
        return 0

    cdef int look(self, SimNode node) except -1:
        """After each step: the workers' next jobs, and every check."""
        self.pump(node)
        if node.turn.failed is not None and self.strict:
            raise Violation(f"node {node.index + 1} stopped: {node.turn.failed!r}")
        self.digest ^= node.turn.raft.term << 40 ^ node.turn.raft.commit << 20 ^ node.turn.raft.last
        return self.checks.after(node.index, node.turn)

    cdef int checked(self) except -1:
        """At most one node says that it is primary."""
        cdef SimNode node
        cdef int n = 0
        for node in self.nodes:
            if node.alive and not node.paused and node.turn.raft.role == LEADER and (
                    node.turn.raft.leads(virtual_now(&node.clock))):
                n += 1
        if n > 1:
            raise Violation("two nodes are primary at once")
        return 0

    # ------------------------------------------------------------------------------------ workers
    cdef int pump(self, SimNode node) except -1:
        """A job takes effect in the files when it begins; the turn hears of it when it ends."""
        cdef Ring *r = node.turn.flusher.ring
        cdef Ring *p = node.turn.preparer.ring
        cdef Job *job
        cdef uint64_t now = virtual_now(&node.clock), took
        if not node.preparing and p.head > p.done:
            node.preparing = True
            self.push(self.now_us + self.about(5000), EV_PREPARE, node, node.life)
        if node.syncing or r.head == r.done:
            return 0
        job = &r.jobs[r.done % JOBS]
        if job.late:
            if now < job.not_before_us and not r.hurry and r.head == r.done + 1:
                if node.late_us == 0:
                    node.late_us = self.now_us + job.not_before_us - now
                    self.push(node.late_us, EV_LATE, node, node.life)
                return 0
            r.hurry = 0
        node.syncing = True
        node.turn.flusher.run_one()
        r.done -= 1                             # not told before EV_SYNC
        if job.kind & JOB_META:
            self.checks.saved(node.index, job)
        took = self.about(self.sync_us)
        if self.now_us + took < node.stalled_us:
            took = node.stalled_us - self.now_us
            node.waits += 1
        return self.push(self.now_us + took, EV_SYNC, node, node.life)

    cdef int sync_done(self, SimNode node) except -1:
        cdef Ring *r = node.turn.flusher.ring
        if self.now_us < node.stalled_us:
            return self.push(node.stalled_us, EV_SYNC, node, node.life)
        node.syncing = False
        r.done += 1
        if r.head == r.done and self.draw(4) == 0:
            refresh(r.marks, r.io)
        return self.run_node(node)

    # ------------------------------------------------------------------------------------ network
    cdef int schedule_arrival(self, MemLink link) except -1:
        cdef uint64_t delay = self.about(self.delay_us)
        if self.draw(STRAGGLER) == 0:
            delay *= 50
        link.arrives_us = max(link.arrives_us, self.now_us + delay)
        return self.push(link.arrives_us, EV_DATA, link, None)

    cdef int arrive(self, MemLink link) except -1:
        """The oldest bytes in flight reach the other side, sometimes in two parts."""
        cdef bytes data
        if not link.queue:
            return 0
        data = link.queue.popleft()
        if len(data) > 1 and self.draw(6) == 0:
            n = 1 + self.draw(len(data) - 1)
            link.queue.appendleft(data[n:])
            self.push(self.now_us + self.draw(100), EV_DATA, link, None)
            data = data[:n]
        return self.feed(link.other, data) if link.other.open else 0

    cdef int feed(self, MemLink link, bytes data) except -1:
        """As the peer layer does it: every whole frame, the rest is kept."""
        cdef Frame f
        cdef size_t at = 0, used, n
        cdef int fault
        cdef object why = None
        cdef const char *p
        data = link.rest + data
        n = len(data)
        p = data
        while at < n and why is None and link.open:
            fault = frame_check(p + at, n - at, &f, &used)
            if fault == FRAME_PART:
                break
            why = f"frame fault {fault}" if fault != FRAME_OK else self.frame(link, &f)
            at += used
        link.rest = data[at:]
        if why is not None and link.open:
            self.faults.append((self.now_us, link.owner, link.peer, why))
            if self.strict:
                raise Violation(f"node {link.owner + 1} refuses node {link.peer + 1}: {why}")
            self.give_up(link)
            self.down(link)
        return 0

    cdef object frame(self, MemLink link, const Frame *f):
        cdef SimNode node = <SimNode>self.nodes[link.owner]
        cdef Hello h
        if link.up:
            return frames.receive(node.turn, link.peer, f)
        if f.kind != FRAME_HELLO or hello_decode(f, &h):
            return "no handshake"
        if link.owner > link.peer:              # it was dialled
            self.say_hello(link)
        link.up = True
        frames.link_up(node.turn, link.peer, link, &h)
        return None

    def say_hello(self, MemLink link not None):
        """The first frame of each side."""
        cdef Hello h
        cdef Outbox box = Outbox()
        frames.hello((<SimNode>self.nodes[link.owner]).turn, link.peer, &h)
        box.hello(&h)
        link.give(PyBytes_FromStringAndSize(box.data, box.size))

    cdef int dial(self, int a, int b) except -1:
        """Node a connects to b; a newer connection replaces one that is broken on one side only."""
        cdef SimNode x = <SimNode>self.nodes[a]
        cdef SimNode y = <SimNode>self.nodes[b]
        cdef MemLink there, back
        if not x.alive or not y.alive:
            return 0                            # its start tries again
        if x.paused or y.paused or self.cuts[a][b] or self.cuts[b][a]:
            return self.push(self.now_us + self.about(CONNECT_US), EV_DIAL, a, b)
        there = x.links[b]
        back = y.links[a]
        if there is not None and there.open and there.other is back and not there.broken:
            return 0
        for link in (there, back):
            if link is not None:
                self.give_up(link)
                self.down(link)
        there = new_link(self, a, b)
        back = new_link(self, b, a)
        there.other = back
        back.other = there
        x.links[b] = there
        y.links[a] = back
        self.say_hello(there)
        self.look(x)
        return self.look(y)

    cdef int give_up(self, MemLink link) except -1:
        """The connection breaks; what is in flight is lost, both sides hear of it."""
        cdef MemLink side
        if link.broken and link.other.broken:
            return 0
        for side in (link, link.other):
            side.broken = True
            side.queue.clear()
            if side.open:
                self.push(self.now_us + self.about(2000), EV_DOWN, side, None)
        return 0

    cdef int down(self, MemLink link) except -1:
        cdef SimNode node = <SimNode>self.nodes[link.owner]
        if not link.open:
            return 0
        link.open = False
        if node.links[link.peer] is link:
            node.links[link.peer] = None
        if link.up:
            frames.link_down(node.turn, link.peer, link)
        a, b = min(link.owner, link.peer), max(link.owner, link.peer)
        return self.push(self.now_us + self.about(CONNECT_US), EV_DIAL, a, b)

    def silent(self, int a, int number):
        """What a cut stopped for long is given up. `a` packs the pair."""
        cdef int i = a // MAX_MEMBERS, j = a % MAX_MEMBERS
        cdef MemLink link = (<SimNode>self.nodes[i]).links[j] if self.nodes[i].alive else None
        if link is not None and self.cuts[i][j] and number == self.numbers[i, j]:
            self.give_up(link)
        return 0

    # ------------------------------------------------------------------------------ what tests call
    def cut(self, int a, int b, both=True):
        """Nothing from a reaches b any more; after a while the connection breaks."""
        for i, j in [(a, b), (b, a)][:2 if both else 1]:
            self.cuts[i][j] = True
            self.cut_number += 1
            self.numbers[i, j] = self.cut_number
            self.push(self.now_us + 200_000 + self.draw(2_000_000), EV_SILENT, i * MAX_MEMBERS + j,
                      self.cut_number)

    def heal(self, a=None, b=None):
        """All is connected again (or a and b are): what a cut held back arrives now."""
        cdef MemLink link
        for i in range(len(self.nodes)):
            for j in range(len(self.nodes)):
                if a is not None and {i, j} != {a, b}:
                    continue
                self.cuts[i][j] = False
                link = (<SimNode>self.nodes[i]).links[j] if self.nodes[i].alive else None
                if link is not None:
                    for _ in range(link.stuck):
                        self.schedule_arrival(link)
                    link.stuck = 0

    def disconnect(self, int a, int b):
        """The connection between two nodes breaks."""
        cdef MemLink link = (<SimNode>self.nodes[a]).links[b]
        if link is not None:
            self.give_up(link)

    def close(self):
        """Kills what lives: no file stays open."""
        for i in range(len(self.nodes)):
            if self.nodes[i].alive:
                self.kill(i)
