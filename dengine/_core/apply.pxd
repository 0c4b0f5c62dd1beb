# The committed range becomes state: decode, execute, find who waits.
from libc.stdint cimport uint64_t

from dengine._core.codec cimport Command
from dengine._core.idempotency cimport Idempotency
from dengine._core.kv cimport KV
from dengine._core.session cimport Results, Session


cdef class Machine:
    cdef KV kv
    cdef Session session
    cdef uint64_t applied                   # index

    # One record, index applied + 1. Raises InvariantError or FormatError: the node stops.
    cdef int apply(self, const char *record, Results to) except -1
    # Both return a Status.
    cdef int execute(self, const Command *c, uint64_t *revision) except -1
    cdef int execute_once(self, const Command *c, uint64_t *revision) except -1
    cdef int tick(self, const char *payload, size_t n, uint64_t index) except -1
