# The one Ready loop: all inputs in, one batch out. (Grows with turn.pyx; what http needs stands here first.)
from libc.stdint cimport uint8_t, uint64_t

from dengine._core.kv cimport KV
from dengine._core.types cimport Waiter


cdef class Turn:
    cdef readonly KV kv

    # Takes one request, from any thread under the GIL, and schedules a turn. `waiter.done` is called later,
    # exactly once, never inside submit.
    cdef int submit(self, Waiter waiter) except -1
    # May a value that was just copied from kv be given out under this policy? EVENTUAL: always. LEASE: this node
    # leads, its no-op is committed, all that is committed is applied and the lease holds now. LINEARIZABLE: only
    # with one voter. False: submit the read.
    cdef bint may_read(self, uint8_t policy) noexcept
