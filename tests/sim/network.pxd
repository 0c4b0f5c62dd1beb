# Real cores in one process: virtual clocks, links in memory, workers run by hand, one seed.
#
# Each node is a Turn opened by boot.boot. Time stands still inside an event. A connection is
# ordered and reliable until it breaks; then what is in flight is lost, both sides hear of it at
# their own time, and it is made anew with a handshake.
from libc.stdint cimport int64_t, uint8_t, uint64_t

from dengine._core.turn cimport Turn
from dengine._core.types cimport MAX_MEMBERS, Io, Item, Link, Waiter, iovec
from dengine._core.wire cimport Frame
from tests.sim.checks cimport Checks
from tests.sim.events cimport Events

ctypedef struct Clock:
    const uint64_t *now_us      # of the simulation
    uint64_t offset_us
    int64_t drift_ppm


cdef class MemLink(Link):
    # One side of a connection: what its owner sends, on the way to `other`.
    cdef Network network
    cdef int owner
    cdef int peer
    cdef bint open                          # the owner has not heard that it is down
    cdef bint up                            # the handshake succeeded on this side
    cdef bint broken                        # nothing that is sent from now on arrives
    cdef MemLink other
    cdef object queue                       # of bytes in flight
    cdef uint64_t arrives_us                # of the newest
    cdef int stuck                          # arrivals that a cut holds back
    cdef bytes rest                         # of a frame, received by the owner


cdef class SimNode:
    cdef readonly int index
    cdef readonly Turn turn                 # None: dead
    cdef readonly object setup
    cdef Clock clock
    cdef Io io
    cdef readonly str path
    cdef readonly uint64_t life             # grows with each start
    cdef readonly bint alive
    cdef bint paused
    cdef list deferred                      # events while paused
    cdef list links                         # MemLink or None, by peer
    cdef dict open                          # clients not answered
    cdef bint syncing                       # a job of the flusher is under way
    cdef bint preparing
    cdef uint64_t late_us                   # when EV_LATE is due; 0
    cdef uint64_t stalled_us                # the disk finishes nothing before
    cdef readonly uint64_t waits            # jobs that a stall held back


cdef class Network(Events):
    cdef readonly list nodes
    cdef readonly Checks checks
    cdef readonly list faults               # (time, node, peer, why): what was refused
    cdef public uint64_t delay_us           # mean of a link
    cdef public uint64_t sync_us            # mean of a sync
    cdef public uint64_t tick_us
    cdef public object spy                  # called with (sender, receiver, bytes); or None
    cdef public bint strict                 # a stopped node or a refused frame is a violation
    cdef readonly uint64_t frames           # sent
    cdef bint cuts[MAX_MEMBERS][MAX_MEMBERS]
    cdef uint64_t cut_number
    cdef dict numbers                       # of the newest cut, by direction

    cdef int run_node(self, SimNode node) except -1
    cdef int look(self, SimNode node) except -1
    cdef int pump(self, SimNode node) except -1
    cdef int sync_done(self, SimNode node) except -1
    cdef int arrive(self, MemLink link) except -1
    cdef int feed(self, MemLink link, bytes data) except -1
    cdef object frame(self, MemLink link, const Frame *f)
    cdef int dial(self, int a, int b) except -1
    cdef int give_up(self, MemLink link) except -1
    cdef int down(self, MemLink link) except -1
    cdef int schedule_arrival(self, MemLink link) except -1

cdef uint64_t virtual_now(void *ctx) noexcept nogil         # of a Clock
