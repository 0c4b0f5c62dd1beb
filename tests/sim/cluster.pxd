# The in-memory cluster as tests use it: clients that submit, and what the nodes show.
from libc.stdint cimport uint64_t

from dengine._core.turn cimport Turn
from dengine._core.types cimport Item, Waiter
from tests.sim.operated cimport Operated


cdef class Client(Waiter):
    # One request and what became of it.
    cdef readonly int node
    cdef readonly object key_text           # bytes
    cdef readonly object value              # bytes that it writes, or that it read
    cdef readonly int compare               # codec.Compare of a conditional write
    cdef readonly uint64_t against          # the revision that it names
    cdef readonly bint repeated             # not proposed, and asked again elsewhere
    cdef readonly int kind                  # codec.Op
    cdef readonly bint keyed                # under an Idempotency-Key
    cdef readonly int rule                  # Policy of a read
    cdef readonly int status                # -1: still open
    cdef readonly uint64_t revision
    cdef readonly uint64_t floor            # newest revision that anybody had seen before it began
    cdef readonly uint64_t began_us
    cdef readonly uint64_t ended_us
    cdef Cluster cluster
    cdef Session session                    # whose it is; None: of a test


cdef class Session:
    # A closed loop: one request after another, at one node or the next.
    cdef Cluster cluster
    cdef int number
    cdef int node
    cdef Client current

    cdef int ask(self) except -1
    cdef int ask_again(self, Client x) except -1
    cdef Client copy(self, Client x, int node)
    cdef int told(self, Client c) except -1


cdef class Cluster(Operated):
    cdef readonly list clients              # in the order of their starts
    cdef readonly uint64_t seen             # newest revision that any client saw
    cdef public uint64_t until_us           # sessions ask nothing after
    cdef public uint64_t think_us           # mean time between answer and next request
    cdef public int keys
    cdef public int write_percent           # of requests
    cdef public int keyed_percent           # of writes: under an Idempotency-Key
    cdef public bint large                  # some values of hundreds of KiB
    cdef uint64_t writes
    cdef uint64_t keys_used
    cdef dict revisions                     # of keys, as somebody saw them last
    cdef list sessions
    cdef uint64_t told[11]                  # answers, by Status

    cdef Client new_client(self, int node, bytes key, int op, int policy, uint64_t timeout_us)
    cdef Client submit(self, Client c)
    cdef bint is_member(self, Turn top, int i) except -1
    cdef bint up_to_date(self, Turn turn, Turn top) except -1
