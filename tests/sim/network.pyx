"""Links between nodes: see network.pxd. It moves bytes; it judges nothing."""
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcpy

from dengine._core cimport frames
from dengine._core.wire cimport (FRAME_BYE, FRAME_HELLO, FRAME_OK, FRAME_PART, Hello, Outbox,
                                 REMOVED, frame_check, hello_decode)
from tests.sim.events cimport Event, EV_CLIENT, EV_DATA, EV_DIAL, EV_DOWN, EV_RESUME, EV_SILENT
from tests.sim.story cimport describe

from tests.sim.checks import Violation
from tests.sim.nodes import ROLES

CONNECT_US = 50_000             # mean time until a lost connection is tried again
STRANGER_US = 500_000           # likewise, one that was refused
STRAGGLER = 400                 # one message in so many takes fifty times as long
KINDS = ("", "hello", "vote", "voted", "append", "heard", "durable", "forward", "refused", "read",
         "granted", "ping", "bye", "offer", "fetch", "piece", "timeout now",
         "named")


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
        self.network.checks.sends(self.owner, node.turn, self.peer, data, total)
        return self.network.give(self, data)

    cdef int close(self) except -1:
        return self.network.give_up(self)


cdef MemLink new_link(Network network, int owner, int peer):
    cdef MemLink link = MemLink()
    link.network = network
    link.owner = owner
    link.peer = peer
    link.open = True
    link.slot = -1
    link.queue = deque()
    link.rest = b""
    link.arrives_us = network.now_us
    return link


cdef class Network(Nodes):
    def __init__(self, seed, nodes=3, strategy=0, **options):
        """`options` override fields of storage.Setup."""
        super().__init__(seed, nodes, strategy, **options)
        nodes = len(self.nodes)
        self.faults = []
        self.strict = True
        self.numbers = {}
        self.delay_us = 60 + self.draw(500)
        for node in self.nodes:
            (<SimNode>node).links = [None] * nodes

    cdef int client_next(self, object what) except -1:
        raise NotImplementedError

    # ------------------------------------------------------------------------------------- events
    cdef int handle(self, Event *e, object what) except -1:
        cdef SimNode node
        cdef MemLink link = None
        cdef int kind = e.kind
        if kind == EV_DIAL or kind == EV_SILENT:
            self.note(e)
            return (self.dial(e.node, <int>e.more) if kind == EV_DIAL
                    else self.silent(e.node // 16, e.node % 16, e.more))
        if kind == EV_CLIENT:
            self.note(e)
            return self.client_next(what)
        node = <SimNode>self.nodes[e.node]
        if kind == EV_DATA or kind == EV_DOWN:
            link = <MemLink>what
            if kind == EV_DATA and self.cuts[link.owner][link.peer] and not link.broken:
                link.stuck += 1                 # sent again when the cut is healed
                return 0
        elif node.life != e.more:
            return 0                            # of an earlier process
        if not node.alive:
            return 0
        if kind == EV_RESUME:
            return self.go_on(node)
        if node.paused:
            node.deferred.append((kind, e.more, what))
            return 0
        self.note(e)
        if kind == EV_DATA:
            self.arrive(link)
        elif kind == EV_DOWN:
            self.down(link)
        else:
            self.node_event(node, kind, what)
        return self.look(node)

    # -------------------------------------------------------------------------------- connections
    cdef int connect(self, int i) except -1:
        cdef int j
        for j in range(len(self.nodes)):
            if j != i:
                self.push(self.now_us + self.about(CONNECT_US), EV_DIAL, min(i, j), max(i, j), None)
        return 0

    cdef int hang_up(self, SimNode node, bint sent) except -1:
        """Its connections break; what it sent may still arrive."""
        cdef MemLink link
        cdef int i = node.index
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
                          link.other.owner, 0, link.other)
            elif link.other.open:
                self.push(self.now_us + 300_000 + self.vary(2_000_000), EV_DOWN, link.other.owner,
                          0, link.other)
        node.links = [None] * len(self.nodes)
        return 0

    # ------------------------------------------------------------------------------------ network
    cdef int give(self, MemLink link, bytes data) except -1:
        """On its way, unless the connection broke."""
        self.frames += 1
        if self.spy is not None:
            self.spy(link.owner, link.peer, data)
        if not link.open or link.broken:
            return 0
        if link.up and self.lose + self.repeat + self.reorder + self.corrupt > 0:
            data = self.mangle(link, data)
            if not data:
                return 0
        link.queue.append(data)
        return self.schedule_arrival(link)

    cdef bytes mangle(self, MemLink link, bytes data):
        """Its frames, less those lost, and those repeated, damaged or out of order."""
        cdef const char *at = data
        cdef size_t n = len(data), used = 0, i
        cdef Frame f
        cdef bytes one
        out = []
        while n:
            frame_check(at, n, &f, &used)
            one = at[:used]
            at += used
            n -= used
            if self.chance(self.lose):
                self.count("frame lost")
                continue
            if self.chance(self.reorder) and link.late is None:
                self.count("frame overtaken")
                link.late = one
                continue
            if self.chance(self.corrupt):
                self.count("frame damaged")
                i = 4 + self.draw(used - 4)     # a longer length only waits for bytes
                one = one[:i] + bytes([one[i] ^ 1 << self.draw(8)]) + one[i + 1:]
            out.append(one)
            if self.chance(self.repeat):
                self.count("frame repeated")
                out.append(one)
            if link.late is not None and self.draw(2):
                out.append(link.late)
                link.late = None
        return b"".join(out)

    cdef int schedule_arrival(self, MemLink link) except -1:
        cdef uint64_t delay = self.about(self.delay_us)
        if self.vary(STRAGGLER) == 0:
            delay *= 50
        link.arrives_us = max(link.arrives_us, self.now_us + delay)
        return self.push(link.arrives_us, EV_DATA, link.peer, 0, link)

    cdef int arrive(self, MemLink link) except -1:
        """The oldest bytes in flight reach the other side, sometimes in two parts."""
        cdef bytes data
        if not link.queue:
            return 0
        data = link.queue.popleft()
        if len(data) > 1 and self.vary(6) == 0:
            n = 1 + self.draw(len(data) - 1)
            link.queue.appendleft(data[n:])
            self.push(self.now_us + self.draw(100), EV_DATA, link.peer, 0, link)
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
            self.count("frame refused")
            self.tell(f"node {link.owner + 1} refuses node {link.peer + 1}: {why}")
            if self.strict and (<SimNode>self.nodes[link.owner]).turn.failed is None:
                raise Violation(f"node {link.owner + 1} refuses node {link.peer + 1}: {why}")
            self.give_up(link)
            self.down(link)
        return 0

    cdef object frame(self, MemLink link, const Frame *f):
        cdef SimNode node = <SimNode>self.nodes[link.owner]
        cdef Hello h
        self.heard[f.kind % FRAMES] += 1
        if self.story is not None:
            self.tell(f"{link.peer + 1} -> {link.owner + 1}: {describe(f)}")
        if link.late_dial:
            return None                         # it was refused: nothing that it says is heard
        if f.kind == FRAME_BYE:
            return self.hears_bye(link, f)
        if link.up:
            return frames.receive(node.turn, link.slot, f)
        if f.kind != FRAME_HELLO or hello_decode(f, &h):
            return "no handshake"
        slot = frames.seat_of(node.turn, &h)
        if frames.removed(node.turn, slot, &h) or slot < 0:
            return self.say_bye(link, slot >= 0 or frames.removed(node.turn, slot, &h))
        link.slot = slot
        if not link.dialled:
            self.say_hello(link)
        if frames.outdated(node.turn, link.slot, &h):
            raise Violation(f"node {link.owner + 1} takes the directory of node {link.peer + 1} "
                            "for an older copy")
        link.up = True
        frames.link_up(node.turn, link.slot, link, &h)
        frames.bulk_up(node.turn, link.slot, link)
        return None

    def say_bye(self, MemLink link not None, bint removed):
        """It is no member: it hears so and hangs up."""
        cdef SimNode node = <SimNode>self.nodes[link.owner]
        cdef Outbox box = Outbox()
        self.count("removed node refused" if removed else "stranger refused")
        box.begin(FRAME_BYE, REMOVED if removed else 0, 0)
        if removed:
            box.put_u64(node.turn.raft.config_index)
        box.end()
        self.give(link, PyBytes_FromStringAndSize(box.data, box.size))
        link.late_dial = True

    cdef object hears_bye(self, MemLink link, const Frame *f):
        cdef SimNode node = <SimNode>self.nodes[link.owner]
        frames.farewell(node.turn, link.slot, f)
        link.late_dial = True
        self.give_up(link)
        self.down(link)
        return None

    def say_hello(self, MemLink link not None):
        """The first frame of each side."""
        cdef Hello h
        cdef Outbox box = Outbox()
        frames.hello((<SimNode>self.nodes[link.owner]).turn, link.peer + 1, &h)
        box.hello(&h)
        self.give(link, PyBytes_FromStringAndSize(box.data, box.size))

    cdef int dial(self, int a, int b) except -1:
        """Node a connects to b; a newer connection replaces one that is broken on one side only."""
        cdef SimNode x = <SimNode>self.nodes[a]
        cdef SimNode y = <SimNode>self.nodes[b]
        cdef MemLink there, back
        if not x.alive or not y.alive:
            return 0                            # its start tries again
        if x.turn.slot_by_id(b + 1) < 0:        # it does not know of it; the other may
            a, b, x, y = b, a, y, x
        if x.turn.slot_by_id(b + 1) < 0:
            return self.push(self.now_us + self.about(STRANGER_US), EV_DIAL, a, b, None)
        if x.paused or y.paused or self.cuts[a][b] or self.cuts[b][a]:
            return self.push(self.now_us + self.about(CONNECT_US), EV_DIAL, a, b, None)
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
        there.dialled = True
        there.slot = x.turn.slot_by_id(b + 1)
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
                self.push(self.now_us + self.about(2000), EV_DOWN, side.owner, 0, side)
        return 0

    cdef int down(self, MemLink link) except -1:
        cdef SimNode node = <SimNode>self.nodes[link.owner]
        if not link.open:
            return 0
        link.open = False
        if node.links[link.peer] is link:
            node.links[link.peer] = None
        if link.up:
            frames.bulk_down(node.turn, link.slot, link)
            frames.link_down(node.turn, link.slot, link)
        if link.late_dial and not link.dialled:
            return 0                            # the other side tries again
        a, b = min(link.owner, link.peer), max(link.owner, link.peer)
        return self.push(self.now_us + self.about(STRANGER_US if link.late_dial else CONNECT_US),
                         EV_DIAL, a, b, None)

    def silent(self, int i, int j, uint64_t number):
        """What a cut stopped for long is given up."""
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
            self.push(self.now_us + 200_000 + self.vary(2_000_000), EV_SILENT, i * 16 + j,
                      self.cut_number, None)

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

    def cover(self):
        """How often what happened: frames by kind, changes of role, and all that was counted."""
        cdef int i, j
        table = dict(self.counts)
        for i in range(1, FRAMES):
            table["frame: " + KINDS[i]] = self.heard[i]
        for i in range(4):
            for j in range(4):
                if i != j:
                    table[f"role: {ROLES[i]} -> {ROLES[j]}"] = self.roles[i][j]
        table["log cut"] = self.checks.cuts
        table["log compacted"] = self.compacted
        table["segment recycled"] = self.recycled
        table["election by all, marked"] = self.checks.by_all
        table["committed entries that no disk had"] = self.checks.lost_writes
        return table

    def close(self):
        """Ends what lives."""
        for i in range(len(self.nodes)):
            if self.nodes[i].alive:
                self.kill(i)
        self.clear()
