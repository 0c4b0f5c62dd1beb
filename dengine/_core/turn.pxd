# The one Ready loop: all inputs in, one batch out.
#
# The turn owns the core of one node and drives it: inputs (requests, frames, finished jobs, time)
# are stepped, Ready is taken, frames are sent with one write per peer, the log is written, what is
# committed is applied, results are told. It decides order; raft decides what, log decides where.
# Everything here runs under the GIL.
from libc.stdint cimport uint8_t, uint64_t

from dengine._core.consensus cimport Message
from dengine._core.types cimport Job, Waiter
from dengine._core.upkeep cimport Upkeep
from dengine._core.watch cimport Watch

cdef struct Fetch:              # entries that are being read from disk for a peer
    int slot
    uint64_t number             # of the connection
    uint64_t term
    uint64_t prev
    uint64_t count
    char bytes[0]


cdef class Turn(Upkeep):
    cdef uint64_t last_us                   # when the previous turn ran
    cdef bint in_turn
    cdef bint scheduled
    cdef int skip_ticks                     # after a pause: turns until the inputs were read
    cdef public object loop                 # asyncio loop that runs the turn; None: the caller does
    cdef unsigned long thread               # of that loop
    cdef public object on_results           # called once after each batch of results; or None
    # called with the exception that stopped the node; or None
    cdef public object on_fatal
    cdef public object on_role              # called when role, term or leader changed; or None
    cdef readonly object failed             # that exception
    cdef readonly list notes                # what recovery cut and why
    cdef uint64_t seen_term, seen_leader
    cdef uint8_t seen_role
    cdef readonly uint64_t turns            # counters
    cdef Watch watch

    # Takes one request, from any thread under the GIL, and schedules a turn. `waiter.done` is
    # called later, exactly once, never inside submit.
    cdef int submit(self, Waiter waiter) except -1

    # The loop
    cpdef int run(self) except -1
    cpdef int wake(self) except -1          # what schedule put into the loop
    cdef int schedule(self) except -1
    cdef int reap(self, uint64_t now_us) except -1
    cdef int persisted(self, uint64_t now_us) except -1
    cdef int tick(self, uint64_t now_us) except -1
    cdef int look_at_room(self) except -1
    cdef int stop(self, object error) except -1
    cdef int notice_role(self) except -1
    cdef bint ready(self, uint64_t now_us) except -1
    cdef int begin_term(self) except -1
    cdef int save(self) except -1
    cdef uint64_t known(self) noexcept      # committed and on this disk up to here
    cdef int serve(self, int slot) except -1
    cdef int fetch(self, int slot, const Message *m) except -1
    cdef int fetched(self, const Job *job) except -1
    cdef int flush_links(self) except -1
    cdef bint apply(self) except -1
