# The term of every index of the log, as runs: terms never fall, so a log of millions needs a
# handful.
from libc.stdint cimport uint64_t


cdef class Terms:
    cdef readonly uint64_t base         # index before the first entry (0, or the last compacted)
    cdef readonly uint64_t base_term
    cdef readonly uint64_t last         # last index; base when empty
    cdef uint64_t *start                # first index of each run, ascending
    cdef uint64_t *term                 # ascending
    cdef size_t count
    cdef size_t capacity

    cdef int append(self, uint64_t term, uint64_t n) except -1      # n entries of `term` after last
    # Entries up to `to` are compacted.
    cdef int forget(self, uint64_t to) except -1
    cdef int cut(self, uint64_t to) except -1                       # forgets every index above `to`
    # 0: not in the log (base has its term)
    cdef uint64_t at(self, uint64_t index) noexcept
    cdef uint64_t last_term(self) noexcept
    # The largest index <= `index` whose term is <= `term`: where two logs can still agree.
    cdef uint64_t agree(self, uint64_t index, uint64_t term) noexcept
    # The last index of `runs` runs, the first of which holds `index`.
    cdef uint64_t runs_end(self, uint64_t index, size_t runs) noexcept
    cdef size_t find(self, uint64_t index) noexcept
