"""Simulated time: a heap of events and one seed. It knows no nodes."""
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.math cimport log as ln
from libc.stdlib cimport free
from libc.string cimport memset

from dengine._core.memory cimport grown

NAMES = ("", "tick", "turn", "data", "down", "dial", "sync", "prepare", "late", "resume", "silent",
         "client", "call")

cdef uint64_t GOLDEN = 0x9E3779B97F4A7C15       # splitmix64
cdef uint64_t MIX_1 = 0xBF58476D1CE4E5B9
cdef uint64_t MIX_2 = 0x94D049BB133111EB
cdef uint64_t FNV = 0x100000001B3


cdef inline bint before(const Event *a, const Event *b) noexcept nogil:
    return a.at_us < b.at_us or (a.at_us == b.at_us and a.sequence < b.sequence)


cdef class Events:
    def __init__(self, seed):
        self.seed = seed
        self.random = seed
        self.now_us = 1
        memset(self.past, 0, sizeof(self.past))

    def __dealloc__(self):
        self.clear()
        free(self.heap)

    cdef void clear(self) noexcept:
        """Nothing is pending any more. What events refer to, the collector does not see."""
        while self.pending:
            self.pending -= 1
            if self.heap[self.pending].what != NULL:
                Py_DECREF(<object>self.heap[self.pending].what)

    # ----------------------------------------------------------------------------------- chance
    cdef uint64_t draw(self, uint64_t below) noexcept:
        self.random += GOLDEN
        cdef uint64_t x = self.random
        x = (x ^ (x >> 30)) * MIX_1
        x = (x ^ (x >> 27)) * MIX_2
        x ^= x >> 31
        return x % below

    cdef uint64_t vary(self, uint64_t below) noexcept:
        """A draw for what may be steady."""
        return below // 2 if self.steady else self.draw(below)

    cdef uint64_t about(self, uint64_t mean) noexcept:
        """Exponential around `mean`."""
        if self.steady:
            return mean
        return <uint64_t>(-ln((1 + self.draw(1000000)) / 1000001.0) * mean) + 1

    cdef bint chance(self, double p) noexcept:
        return p > 0 and self.draw(1000000) < p * 1000000

    def pick(self, uint64_t below):
        """A number below `below`, from the seed."""
        return self.draw(below)

    # ------------------------------------------------------------------------------------- heap
    cdef int push(self, uint64_t at_us, int kind, int node, uint64_t more, object what) except -1:
        cdef Event e
        cdef size_t i = self.pending, parent
        self.heap = <Event *>grown(self.heap, self.pending + 1, &self.capacity, sizeof(Event),
                                   64)
        self.sequence += 1
        e.at_us, e.sequence, e.kind, e.node, e.more = at_us, self.sequence, kind, node, more
        e.what = NULL
        if what is not None:
            Py_INCREF(what)
            e.what = <void *>what
        self.pending += 1
        while i:
            parent = (i - 1) // 2
            if before(&self.heap[parent], &e):
                break
            self.heap[i] = self.heap[parent]
            i = parent
        self.heap[i] = e
        return 0

    cdef void pop(self, Event *out) noexcept:
        cdef Event last
        cdef size_t i = 0, child
        out[0] = self.heap[0]
        self.pending -= 1
        last = self.heap[self.pending]
        while True:
            child = 2 * i + 1
            if child >= self.pending:
                break
            if child + 1 < self.pending and before(&self.heap[child + 1], &self.heap[child]):
                child += 1
            if before(&last, &self.heap[child]):
                break
            self.heap[i] = self.heap[child]
            i = child
        self.heap[i] = last

    def at(self, uint64_t after_us, call):
        """Calls `call()` after so many microseconds."""
        self.push(self.now_us + after_us, EV_CALL, 0, 0, call)

    cdef int one(self) except -1:
        cdef Event e
        cdef object what = None
        self.pop(&e)
        self.now_us = e.at_us
        if e.what != NULL:
            what = <object>e.what
            Py_DECREF(what)
        if e.kind == EV_CALL:
            what()
        else:
            self.handle(&e, what)
        return self.checked()

    def step(self):
        """The next event, and all checks after it."""
        self.one()

    def run_until(self, predicate, uint64_t limit_us):
        """Steps until predicate() holds: True; or for limit_us: False."""
        cdef uint64_t until = self.now_us + limit_us
        while not predicate():
            if self.pending == 0 or self.heap[0].at_us > until:
                self.now_us = until
                return False
            self.one()
        return True

    def run_for(self, uint64_t us):
        """Steps through so many microseconds."""
        cdef uint64_t until = self.now_us + us
        while self.pending and self.heap[0].at_us <= until:
            self.one()
        self.now_us = until

    cdef int handle(self, Event *e, object what) except -1:
        raise NotImplementedError

    cdef int checked(self) except -1:
        raise NotImplementedError

    # ------------------------------------------------------------------------------------ trace
    cdef void note(self, const Event *e) noexcept:
        """Into the trace and the digest of events."""
        cdef Past *p = &self.past[self.passed % TRACE]
        self.passed += 1
        p.at_us, p.kind, p.node, p.more = self.now_us, e.kind, e.node, e.more
        self.digest = (self.digest * FNV) ^ (
            self.now_us << 12 ^ e.more << 8 ^ <uint64_t>e.node << 4 ^ <uint64_t>e.kind)

    def trace(self):
        """(time in us, kind, node, more) of the newest events, oldest first."""
        cdef uint64_t i, first = self.passed - TRACE if self.passed > TRACE else 0
        return [(self.past[i % TRACE].at_us, NAMES[self.past[i % TRACE].kind],
                 self.past[i % TRACE].node, self.past[i % TRACE].more)
                for i in range(first, self.passed)]

    def tell(self, text):
        """What happens now, in words, for whoever asked for a story."""
        if self.story is not None:
            self.story.append(f"{self.now_us / 1e6:10.6f} s  {text}")
