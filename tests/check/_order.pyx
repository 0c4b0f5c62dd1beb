"""Sorted places of operations, 16 bytes each, and a hash of values: what the replay counts with.

It decides how millions of operations are kept in an order. It does not know what they are.
"""
from heapq import heappop, heappush

cimport cython
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort, realloc


@cython.final
cdef class Order:
    def __dealloc__(self):
        free(self.at)

    cdef int add(self, uint32_t group, int64_t rank, uint32_t op) except -1:
        cdef Place *at
        if self.n == self.capacity:
            self.capacity = self.capacity + self.capacity // 4 + 16
            at = <Place *>realloc(self.at, self.capacity * sizeof(Place))
            if at == NULL:
                raise MemoryError
            self.at = at
        self.at[self.n] = Place(rank, group, op)
        self.n += 1
        return 0

    cdef Order sort(self):
        qsort(self.at, self.n, sizeof(Place), compare)
        return self

    cdef size_t after(self, uint32_t group, int64_t rank) noexcept:
        cdef size_t low = 0, high = self.n, middle
        while low < high:
            middle = (low + high) // 2
            if self.at[middle].group > group or (
                    self.at[middle].group == group and self.at[middle].rank > rank):
                high = middle
            else:
                low = middle + 1
        return low

    cdef bint has(self, int64_t rank) noexcept:
        cdef size_t k = self.after(0, rank)
        return k > 0 and self.at[k - 1].rank == rank


cdef int compare(const void *a, const void *b) noexcept nogil:
    cdef const Place *x = <const Place *>a
    cdef const Place *y = <const Place *>b
    if x.group != y.group:
        return 1 if x.group > y.group else -1
    if x.rank != y.rank:
        return 1 if x.rank > y.rank else -1
    return (x.op > y.op) - (x.op < y.op)


cdef int64_t unplaced(Order needs, list lasts, Order taken) except -2:
    """The next free rank goes to the need that must be met first."""
    cdef int64_t p = 0
    cdef size_t k
    cdef list waiting = []
    cdef Order by_first = Order()
    for k in range(needs.n):
        by_first.add(0, needs.at[k].rank, <uint32_t>k)
    by_first.sort()
    k = 0
    while waiting or k < by_first.n:
        if not waiting:
            p = max(p, by_first.at[k].rank + 1)
        while k < by_first.n and by_first.at[k].rank < p:
            heappush(waiting, (lasts[by_first.at[k].op], by_first.at[k].op))
            k += 1
        if not taken.has(p):
            last, which = heappop(waiting)
            if last < p:
                return which
        p += 1
    return -1


cdef uint64_t hash_of(str text) except? 0:
    """FNV-1a, then mixed."""
    cdef Py_ssize_t size, i
    cdef const char *p = PyUnicode_AsUTF8AndSize(text, &size)
    cdef uint64_t h = 0xCBF29CE484222325ULL
    for i in range(size):
        h = (h ^ <uint8_t>p[i]) * 0x100000001B3ULL
    h ^= h >> 32
    h *= 0xD6E8FEB86659FD93ULL
    return h ^ h >> 32
