# What the checks keep: words in arrays that grow, and in hash maps.
from libc.stdint cimport uint64_t

ctypedef struct Words:          # an array that grows
    uint64_t *at
    size_t count
    size_t room

ctypedef struct Pair:           # of a hash map; key 0: free
    uint64_t key
    uint64_t value

# Appends.
cdef int push(Words *w, uint64_t word) except -1


cdef class Map:
    cdef Pair *pairs
    cdef size_t mask, count
    # what it holds for the key; `value`, from now on, where it held nothing
    cdef uint64_t first(self, uint64_t key, uint64_t value) except? 0
    cdef uint64_t get(self, uint64_t key) noexcept
    cdef int put(self, uint64_t key, uint64_t value) except -1
    cdef Pair *place(self, uint64_t key) noexcept
    cdef int widen(self) except -1
