# A cluster of real cores in one process: virtual clocks, links in memory, workers run by hand, one seed.
#
# Each node is a Turn opened by boot.boot. Time stands still inside an event; the events lie in one heap, ordered by
# (time in us, sequence). A connection is ordered and reliable until it breaks; then what is in flight is lost, both
# sides hear of it at their own time, and it is made anew with a handshake.
from libc.stdint cimport int64_t, uint8_t, uint64_t

from dengine._core.turn cimport Turn
from dengine._core.types cimport MAX_MEMBERS, Io, Item, Link, Waiter, iovec
from dengine._core.wire cimport Frame
from tests.sim.checks cimport Checks

cdef enum Event:
    EV_TICK = 1                 # a node's timer
    EV_TURN = 2                 # what a node scheduled
    EV_DATA = 3                 # bytes arrive over a link
    EV_DOWN = 4                 # one side hears that its connection broke
    EV_DIAL = 5                 # a pair of nodes tries to connect
    EV_SYNC = 6                 # a job of the flusher is finished
    EV_PREPARE = 7              # the preparer gets to its next job
    EV_LATE = 8                 # a sync that was put off may be due
    EV_RESUME = 9               # a paused node goes on
    EV_SILENT = 10              # what a cut stopped is given up, if it still does
    EV_CALL = 11                # a function of the test

ctypedef struct Clock:
    const uint64_t *now_us      # of the simulation
    uint64_t offset_us
    int64_t drift_ppm


cdef class Client(Waiter):
    # One request and what became of it.
    cdef readonly int node
    cdef readonly object key_text           # bytes
    cdef readonly object value              # bytes that it writes, or that it read
    cdef readonly int kind                  # codec.Op
    cdef readonly int rule                  # Policy of a read
    cdef readonly int status                # -1: still open
    cdef readonly uint64_t revision
    cdef readonly uint64_t floor            # newest revision that anybody had seen before it began
    cdef readonly uint64_t began_us
    cdef readonly uint64_t ended_us
    cdef Cluster cluster


cdef class MemLink(Link):
    # One side of a connection: what its owner sends, on the way to `other`.
    cdef Cluster cluster
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


cdef class Cluster:
    cdef readonly object seed
    cdef uint64_t random
    cdef readonly uint64_t now_us
    cdef uint64_t sequence
    cdef readonly uint64_t steps
    cdef readonly uint64_t digest           # of all events: equal for equal seeds
    cdef list heap
    cdef readonly list nodes
    cdef readonly Checks checks
    cdef readonly list clients              # in the order of their starts
    cdef readonly list faults               # (time, node, peer, why): connections closed for what they said
    cdef readonly object trace              # newest events
    cdef readonly uint64_t seen             # newest revision that any client saw
    cdef public uint64_t delay_us           # mean of a link
    cdef public uint64_t sync_us            # mean of a sync
    cdef public uint64_t tick_us
    cdef public bint strict                 # a stopped node or a refused frame is a violation
    cdef readonly uint64_t frames           # sent
    cdef bint cuts[MAX_MEMBERS][MAX_MEMBERS]
    cdef uint64_t cut_number
    cdef dict numbers                       # of the newest cut, by direction

    cdef uint64_t draw(self, uint64_t below) noexcept
    cdef uint64_t about(self, uint64_t mean) noexcept
    cdef int push(self, uint64_t at_us, int kind, object what, object more) except -1
    cdef int handle(self, int kind, object what, object more) except -1
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
    cdef int primaries(self) except -1
