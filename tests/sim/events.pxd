# Simulated time: one heap of events, ordered by (time in us, sequence), and one seed.
from libc.stdint cimport uint64_t

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


cdef class Events:
    cdef readonly object seed
    cdef uint64_t random
    cdef readonly uint64_t now_us
    cdef uint64_t sequence
    cdef readonly uint64_t steps
    cdef readonly uint64_t digest           # of all events: equal for equal seeds
    cdef list heap
    cdef readonly object trace              # newest events

    cdef uint64_t draw(self, uint64_t below) noexcept
    cdef uint64_t about(self, uint64_t mean) noexcept
    cdef int push(self, uint64_t at_us, int kind, object what, object more) except -1
    cdef int handle(self, int kind, object what, object more) except -1     # one event
    cdef int checked(self) except -1                                        # after each
