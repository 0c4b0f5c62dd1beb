"""A cluster without chance that a script leads: it holds frames back, lets time-outs end, looks.

It decides nothing about what is played: see tests/scenarios.
"""
from collections import deque

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint64_t

from dengine._core.codec cimport Record, padded
from dengine._core.wire cimport Frame, frame_check
from tests.sim.cluster cimport Cluster
from tests.sim.network cimport MemLink
from tests.sim.nodes cimport SimNode
from tests.sim.story cimport describe

from dengine._core import boot


cdef class Stage(Cluster):
    """Frames take 1 ms, syncs 2 ms, a timer goes off each 10 ms."""

    def __init__(self, nodes=3, strategy=0, **options):
        """`options` override fields of storage.Setup."""
        super().__init__(1, nodes, strategy, **options)
        self.be_steady()
        self.delay_us, self.sync_us, self.tick_us = 1_000, 2_000, 10_000
        self.strict = False
        self.story = []

    def tell(self, text):
        self.story.append(text)

    # ------------------------------------------------------------------------------------ frames
    def hold(self, int a, int b):
        """What a sends to b is kept back, and the connection kept, until `heal`."""
        if not 0 <= a < len(self.nodes) or not 0 <= b < len(self.nodes):
            raise IndexError(f"no link from {a} to {b}")
        self.cuts[a][b] = True

    def held(self, int a, int b):
        """(words, bytes) of each frame under way from a to b, oldest first."""
        cdef MemLink link = self.nodes[a].alive and (<SimNode>self.nodes[a]).links[b] or None
        cdef bytes data = b"" if link is None else b"".join(link.queue)
        cdef Frame f
        cdef size_t used, at = 0
        cdef const char *p = data
        out = []
        while at < <size_t>len(data):
            frame_check(p + at, len(data) - at, &f, &used)
            out.append((describe(&f), data[at:at + used]))
            at += used
        return out

    def keep(self, int a, int b, list frames not None):
        """Of what is under way from a to b, only these: bytes of one frame each."""
        cdef MemLink link = (<SimNode>self.nodes[a]).links[b]
        link.queue = deque(frames)
        link.stuck = len(frames)

    def hand(self, int a, int b, bytes frame not None):
        """This frame reaches b, as from a, now: None, or why it is refused."""
        why = self.receive(b, a, frame)
        self.look(<SimNode>self.nodes[b])
        return why

    def stands_in(self, int i, uint64_t term):
        """Node i is taken for the leader of this term, though nobody elected it; -1: nobody is."""
        self.checks.leaders.put(term, i + 1)

    # -------------------------------------------------------------------------------------- time
    def primary(self, int i):
        """Does a living node lead under a valid lease?"""
        return boot.is_primary((<SimNode>self.nodes[i]).turn)

    def time_out(self, int i):
        """The election time-out of a node ends now, or, if it made a promise, with that."""
        cdef SimNode node = <SimNode>self.nodes[i]
        node.turn.raft.election_due_us = max(self.clock(i), node.turn.raft.promise_until_us)

    def jump(self, int i, int64_t us):
        """The clock of a node jumps, as that of a machine that slept."""
        (<SimNode>self.nodes[i]).disk.state.clock.offset_us += us

    # -------------------------------------------------------------------------------------- logs
    def record(self, int i, uint64_t index):
        """One entry of node i, as it lies in its file."""
        cdef const Record *r = <const Record *>(<SimNode>self.nodes[i]).turn.log.record(index)
        return PyBytes_FromStringAndSize(<const char *>r, padded(r.length))
