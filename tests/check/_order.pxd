from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef struct Place:      # what is sorted: by group, then by rank, then by op
    int64_t rank
    uint32_t group
    uint32_t op


cdef class Order:
    """Operations in an order: those that were added, after `sort`."""
    cdef Place *at
    cdef size_t n, capacity

    cdef int add(self, uint32_t group, int64_t rank, uint32_t op) except -1
    cdef Order sort(self)
    cdef size_t after(self, uint32_t group, int64_t rank) noexcept  # the first place behind
    cdef bint has(self, int64_t rank) noexcept                      # in group 0


# Each need i takes a rank of its own that is not in `taken`, of needs.at[i].rank + 1 .. lasts[i].
# The first one for which none is left, or -1.
cdef int64_t unplaced(Order needs, list lasts, Order taken) except -2

cdef uint64_t hash_of(str text) except? 0       # 64 bits stand for a value
