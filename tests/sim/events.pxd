# Simulated time: one heap of events, ordered by (time in us, sequence), and one seed.
from libc.stdint cimport uint64_t

cdef enum Kind:
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
    EV_CLIENT = 11              # a client does what is next
    EV_CALL = 12                # a function of the test
    EV_WORK = 13                # a thread beside the node does its next step
    KINDS = 14

cdef enum:
    TRACE = 200                 # newest events that are kept

ctypedef struct Event:
    uint64_t at_us
    uint64_t sequence
    int kind
    int node                    # or the first of a pair
    uint64_t more               # the node's life, the second of a pair, or a number
    void *what                  # owned reference; or NULL

ctypedef struct Past:
    uint64_t at_us
    int kind, node
    uint64_t more


cdef class Events:
    cdef readonly object seed
    cdef uint64_t random
    cdef readonly bint steady               # what varies by chance takes its middle instead
    cdef readonly uint64_t now_us
    cdef uint64_t sequence
    cdef readonly uint64_t steps            # events that were a turn of a node, all checks after it
    cdef readonly uint64_t digest           # of all events: equal for equal seeds
    cdef Event *heap
    cdef size_t pending, capacity
    cdef Past past[TRACE]
    cdef uint64_t passed                    # events so far
    cdef public object story                # a list: what happened, in words; None: not told

    cdef uint64_t draw(self, uint64_t below) noexcept
    cdef uint64_t vary(self, uint64_t below) noexcept
    cdef uint64_t about(self, uint64_t mean) noexcept
    cdef bint chance(self, double p) noexcept
    cdef int push(self, uint64_t at_us, int kind, int node, uint64_t more, object what) except -1
    cdef void pop(self, Event *out) noexcept
    cdef void clear(self) noexcept
    cdef int handle(self, Event *e, object what) except -1          # one event
    cdef int checked(self) except -1                                # after each
    cdef int one(self) except -1
    cdef void note(self, const Event *e) noexcept
