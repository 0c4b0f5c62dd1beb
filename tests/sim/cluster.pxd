# The in-memory cluster as tests use it: clients that submit, and what the nodes show.
from libc.stdint cimport uint64_t

from dengine._core.turn cimport Turn
from dengine._core.types cimport Item, Waiter
from tests.sim.network cimport Network


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


cdef class Cluster(Network):
    cdef readonly list clients              # in the order of their starts
    cdef readonly uint64_t seen             # newest revision that any client saw
