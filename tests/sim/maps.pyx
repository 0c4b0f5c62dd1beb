"""Arrays that grow and hash maps of words, in C. See maps.pxd."""
from libc.stdlib cimport calloc, free

from dengine._core.memory cimport grown


cdef int push(Words *w, uint64_t word) except -1:
    w.at = <uint64_t *>grown(w.at, w.count + 1, &w.room, sizeof(uint64_t), 256)
    w.at[w.count] = word
    w.count += 1
    return 0


cdef class Map:
    def __cinit__(self):
        self.mask = 255
        self.pairs = <Pair *>calloc(256, sizeof(Pair))

    def __dealloc__(self):
        free(self.pairs)

    cdef Pair *place(self, uint64_t key) noexcept:
        cdef size_t i = (key * 0x9E3779B97F4A7C15ULL) >> 20 & self.mask
        while self.pairs[i].key and self.pairs[i].key != key:
            i = (i + 1) & self.mask
        return &self.pairs[i]

    cdef int widen(self) except -1:
        cdef Pair *old = self.pairs
        cdef size_t i, n = self.mask + 1
        if self.count * 2 < n:
            return 0
        self.pairs = <Pair *>calloc(2 * n, sizeof(Pair))
        self.mask = 2 * n - 1
        for i in range(n):
            if old[i].key:
                self.place(old[i].key)[0] = old[i]
        free(old)
        return 0

    cdef uint64_t get(self, uint64_t key) noexcept:
        return self.place(key).value

    cdef int put(self, uint64_t key, uint64_t value) except -1:
        cdef Pair *p
        self.widen()
        p = self.place(key)
        self.count += p.key == 0
        p.key = key
        p.value = value
        return 0

    cdef uint64_t first(self, uint64_t key, uint64_t value) except? 0:
        cdef Pair *p = self.place(key)
        if p.value == 0:
            self.put(key, value)
            return value
        return p.value
