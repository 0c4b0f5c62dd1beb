"""The term map: which term each index of the log belongs to.

It knows indexes and terms only. It is filled by recovery and changed by raft, in step with the log.
"""
from libc.stdlib cimport free

from dengine._core.memory cimport grown

from dengine.errors import InvariantError


cdef class Terms:
    def __cinit__(self, uint64_t base=0, uint64_t base_term=0):
        self.base = base
        self.base_term = base_term
        self.last = base
        self.start = NULL
        self.term = NULL
        self.count = 0
        self.capacity = 0

    def __dealloc__(self):
        free(self.start)
        free(self.term)

    cdef int append(self, uint64_t term, uint64_t n) except -1:
        cdef size_t wider
        if n == 0:
            return 0
        if term < self.last_term():
            raise InvariantError(f"term {term} after term {self.last_term()} in the log")
        if self.count == 0 or self.term[self.count - 1] != term:
            if self.count == self.capacity:
                wider = self.capacity
                self.start = <uint64_t *>grown(self.start, self.count + 1, &wider,
                                               sizeof(uint64_t), 8)
                self.term = <uint64_t *>grown(self.term, self.count + 1, &self.capacity,
                                              sizeof(uint64_t), 8)
            self.start[self.count] = self.last + 1
            self.term[self.count] = term
            self.count += 1
        self.last += n
        return 0

    cdef int cut(self, uint64_t to) except -1:
        if to < self.base:
            raise InvariantError(f"cut to {to}, below the start of the log at {self.base}")
        while self.count and self.start[self.count - 1] > to:
            self.count -= 1
        if to < self.last:
            self.last = to
        return 0

    cdef int forget(self, uint64_t to) except -1:
        cdef size_t run, i
        if to <= self.base:
            return 0
        if to > self.last:
            raise InvariantError(f"terms up to {to} forgotten of a log that ends at {self.last}")
        run = self.find(to)
        self.base_term = self.term[run]
        self.base = to
        if run + 1 == self.count or self.start[run + 1] > to + 1:       # its rest stays
            self.start[run] = to + 1
        else:
            run += 1
        if to == self.last:
            run = self.count
        self.count -= run
        for i in range(self.count):
            self.start[i] = self.start[i + run]
            self.term[i] = self.term[i + run]
        return 0

    cdef size_t find(self, uint64_t index) noexcept:
        """The run that holds `index`, which lies in (base, last]."""
        cdef size_t low = 0, high = self.count - 1, middle
        if self.start[high] <= index:
            return high
        while low < high:
            middle = (low + high + 1) >> 1
            if self.start[middle] <= index:
                low = middle
            else:
                high = middle - 1
        return low

    cdef uint64_t at(self, uint64_t index) noexcept:
        if index == self.base:
            return self.base_term
        if index < self.base or index > self.last:
            return 0
        return self.term[self.find(index)]

    cdef uint64_t last_term(self) noexcept:
        return self.term[self.count - 1] if self.count else self.base_term

    cdef uint64_t agree(self, uint64_t index, uint64_t term) noexcept:
        if index > self.last:
            index = self.last
        cdef size_t run
        while index > self.base:
            run = self.find(index)
            if self.term[run] <= term:
                return index
            index = self.start[run] - 1
        return self.base

    cdef uint64_t runs_end(self, uint64_t index, size_t runs) noexcept:
        cdef size_t next = self.find(index) + runs
        return self.start[next] - 1 if next < self.count else self.last
