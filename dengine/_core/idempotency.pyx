"""Results by Idempotency-Key. See idempotency.pxd. It knows no log, no clock and no HTTP."""
import os

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from dengine._core.fault cimport MUTANT
from dengine._core.types cimport IDEMPOTENCY_MAX

cdef extern from "native.h" nogil:
    int32_t add_relaxed(int32_t *at, int32_t x)
    int32_t add_acq_rel(int32_t *at, int32_t x)

cdef enum:
    PLACES = CHUNK * CHUNKS
    FIRST = 8                   # places of a new table of the index
    AT_ONCE = 2                 # results that go for one that comes: the queue gets shorter


cdef void drop_chunk(Chunk *c) noexcept nogil:
    if c != NULL and add_acq_rel(&c.refs, -1) == 0:
        free(c)


cdef class Answers:
    def __dealloc__(self):
        cdef uint64_t i
        for i in range(<uint64_t>CHUNKS):
            drop_chunk(self.chunks[i])

    cdef uint64_t take(self, uint64_t limit, const Kept **out) noexcept:
        cdef uint64_t n = min(min(self.next - self.at, CHUNK - self.at % CHUNK), limit)
        if n:
            out[0] = &self.chunks[self.at // CHUNK % CHUNKS].kept[self.at % CHUNK]
            self.at += n
        return n


cdef class Idempotency:
    def __cinit__(self):
        cdef bytes seed = os.urandom(sizeof(self.seed))
        memcpy(self.seed, PyBytes_AS_STRING(seed), sizeof(self.seed))
        self.first = self.next = 0
        self.horizon_ms = 0
        memset(self.chunks, 0, sizeof(self.chunks))
        memset(self.tables, 0, sizeof(self.tables))

    def __dealloc__(self):
        cdef int i
        for i in range(CHUNKS):
            drop_chunk(self.chunks[i])
        for i in range(TABLES):
            free(self.tables[i].place)

    cdef uint64_t count(self) noexcept:
        return self.next - self.first

    cdef inline Kept *kept(self, uint64_t number) noexcept:
        return &self.chunks[number // CHUNK % CHUNKS].kept[number % CHUNK]

    cdef inline uint64_t hash(self, const uint64_t *key) noexcept:
        return (key[0] * (self.seed[0] | 1) + key[1] * (self.seed[1] | 1)) >> 32

    cdef const Kept *find(self, const Command *c) noexcept:
        cdef uint64_t h = self.hash(c.idempotency)
        cdef Table *t = &self.tables[h % TABLES]
        cdef uint32_t i
        cdef Kept *k
        if t.count == 0:
            return NULL
        i = <uint32_t>(h // TABLES) & t.mask
        while t.place[i]:
            k = self.kept(t.place[i] - 1)
            if k.key[0] == c.idempotency[0] and k.key[1] == c.idempotency[1]:
                return k
            i = (i + 1) & t.mask
        return NULL

    cdef bint has_room(self) except -1:
        self.drop(AT_ONCE)
        return self.next - self.first < IDEMPOTENCY_MAX

    cdef int add(self, const Kept *k) except -1:
        cdef uint64_t h = self.hash(k.key)
        cdef Table *t = &self.tables[h % TABLES]
        cdef Chunk **chunk = &self.chunks[self.next // CHUNK % CHUNKS]
        cdef uint32_t i
        if chunk[0] == NULL:
            chunk[0] = <Chunk *>malloc(sizeof(Chunk))
            if chunk[0] == NULL:
                raise MemoryError
            chunk[0].refs = 1
        if t.place == NULL or 4 * (t.count + 1) > 3 * (t.mask + 1):
            self.grow(t)
        self.kept(self.next)[0] = k[0]
        i = <uint32_t>(h // TABLES) & t.mask
        while t.place[i]:
            i = (i + 1) & t.mask
        t.place[i] = <uint32_t>(self.next % PLACES) + 1
        t.count += 1
        self.next += 1
        return 0

    cdef int grow(self, Table *t) except -1:
        cdef uint32_t size = FIRST if t.place == NULL else 2 * (t.mask + 1)
        cdef uint32_t *place = <uint32_t *>calloc(size, sizeof(uint32_t))
        cdef uint32_t i, j
        if place == NULL:
            raise MemoryError
        for i in range(0 if t.place == NULL else t.mask + 1):
            if t.place[i]:
                j = <uint32_t>(self.hash(self.kept(t.place[i] - 1).key) // TABLES) & (size - 1)
                while place[j]:
                    j = (j + 1) & (size - 1)
                place[j] = t.place[i]
        free(t.place)
        t.place = place
        t.mask = size - 1
        return 0

    cdef int drop(self, uint64_t limit) noexcept:
        while (limit and self.first < self.next
               and (self.kept(self.first).clock_ms < self.horizon_ms or MUTANT(153))):
            self.forget(self.kept(self.first))
            self.first += 1
            if self.first % CHUNK == 0:
                drop_chunk(self.chunks[(self.first - 1) // CHUNK % CHUNKS])
                self.chunks[(self.first - 1) // CHUNK % CHUNKS] = NULL
            limit -= 1
        return 0

    cdef int forget(self, const Kept *k) noexcept:
        """Out of the index; what stands behind it closes the gap."""
        cdef uint64_t h = self.hash(k.key)
        cdef Table *t = &self.tables[h % TABLES]
        cdef uint32_t i = <uint32_t>(h // TABLES) & t.mask, j, home
        while t.place[i] != <uint32_t>(self.first % PLACES) + 1:
            i = (i + 1) & t.mask
        j = i
        while True:
            j = (j + 1) & t.mask
            if t.place[j] == 0:
                break
            home = <uint32_t>(self.hash(self.kept(t.place[j] - 1).key) // TABLES) & t.mask
            if (j - home) & t.mask >= (j - i) & t.mask:
                t.place[i] = t.place[j]
                i = j
        t.place[i] = 0
        t.count -= 1
        return 0

    cdef Answers pin(self):
        cdef Answers out = Answers()
        cdef uint64_t i
        out.at = self.first
        out.next = self.next
        for i in range(self.first // CHUNK, (self.next + CHUNK - 1) // CHUNK):
            add_relaxed(&self.chunks[i % CHUNKS].refs, 1)
            out.chunks[i % CHUNKS] = self.chunks[i % CHUNKS]
        return out
