# Reads that wait: for a leader, for a read index, for the state to reach it. Those of one turn and
# policy share one ticket, so their cost does not grow with their number.
from libc.stdint cimport uint8_t, uint64_t

from cpython.ref cimport PyObject

from dengine._core.kv cimport KV
from dengine._core.session cimport Results
from dengine._core.types cimport Waiter

ctypedef struct Batch:
    uint64_t ticket
    uint64_t index              # must be applied before they are answered; 0: not granted yet
    uint64_t asked_term         # whom it was asked of; 0: nobody
    uint64_t asked_leader
    uint64_t asked_link         # the connection's number then: another one means ask again
    uint8_t policy
    PyObject **waiters          # one reference each
    size_t count
    size_t capacity


cdef class Reads:
    cdef Batch **batches        # oldest first
    cdef size_t count
    cdef size_t capacity
    cdef size_t waiting                     # reads in all batches
    cdef uint64_t ticket
    cdef Batch *open_batch[2]   # of this turn, by policy LINEARIZABLE, LEASE

    cdef int add(self, Waiter waiter) except -1
    cdef void close_batches(self) noexcept                      # the next add starts new ones
    cdef void granted(self, uint64_t ticket, uint64_t index) noexcept
    cdef void refused(self, uint64_t ticket) noexcept           # ask again
    cdef int answer(self, uint64_t applied, KV kv, Results to) except -1
    cdef int expire(self, uint64_t now_us, int status, Results to) except -1
    cdef Batch *new_batch(self) except NULL
    cdef Batch *find(self, uint64_t ticket) noexcept
