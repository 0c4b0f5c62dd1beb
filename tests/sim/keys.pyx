"""The table of results by Idempotency-Key, for tests that go key by key."""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from dengine._core.codec cimport Command
from dengine._core.idempotency cimport CHUNK, Answers, Idempotency, Kept
from dengine._core.types cimport IDEMPOTENCY_MAX


cdef class Keys:
    """Keys are numbers. `close`: they have eight places in one table, side by side."""
    cdef Idempotency table

    def __init__(self, bint close=False):
        self.table = Idempotency()
        if close:
            self.table.seed[0] = self.table.seed[1] = 0

    def __len__(self):
        return self.table.count()

    def find(self, uint64_t key):
        """(revision, time) or None."""
        cdef Command c
        cdef const Kept *k
        memset(&c, 0, sizeof(c))
        c.idempotency[0] = (key % 8) << 42
        c.idempotency[1] = key
        k = self.table.find(&c)
        return None if k == NULL else (k.revision, k.clock_ms)

    def add(self, uint64_t key, uint64_t revision, uint64_t clock):
        cdef Kept k
        memset(&k, 0, sizeof(k))
        k.key[0] = (key % 8) << 42
        k.key[1] = key
        k.revision = revision
        k.clock_ms = clock
        self.table.add(&k)

    def fill(self, uint64_t clock):
        """As many as there may be."""
        cdef uint64_t i
        for i in range(<uint64_t>IDEMPOTENCY_MAX):
            self.add(i, i, clock)

    def has_room(self, uint64_t horizon):
        self.table.horizon_ms = horizon
        return self.table.has_room()

    def drop(self, uint64_t horizon, uint64_t limit):
        self.table.horizon_ms = horizon
        self.table.drop(limit)

    def pin(self):
        return self.table.pin()

    def revisions(self, Answers pin not None):
        """Of all that a pin holds."""
        cdef const Kept *k
        cdef uint64_t n = pin.take(CHUNK, &k), i
        out = []
        while n:
            for i in range(n):
                out.append(k[i].revision)
            n = pin.take(1000, &k)
        return out
