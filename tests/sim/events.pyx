"""Simulated time: a heap of events and one seed. It knows no nodes."""
import heapq
from collections import deque

from libc.math cimport log as ln

KINDS = ("", "tick", "turn", "data", "down", "dial", "sync", "prepare", "late", "resume", "silent",
         "call")

cdef uint64_t GOLDEN = 0x9E3779B97F4A7C15       # splitmix64
cdef uint64_t MIX_1 = 0xBF58476D1CE4E5B9
cdef uint64_t MIX_2 = 0x94D049BB133111EB
cdef uint64_t FNV = 0x100000001B3


cdef class Events:
    def __init__(self, seed):
        self.seed = seed
        self.random = seed
        self.heap = []
        self.trace = deque(maxlen=200)
        self.now_us = 1

    cdef uint64_t draw(self, uint64_t below) noexcept:
        self.random += GOLDEN
        cdef uint64_t x = self.random
        x = (x ^ (x >> 30)) * MIX_1
        x = (x ^ (x >> 27)) * MIX_2
        x ^= x >> 31
        return x % below

    cdef uint64_t about(self, uint64_t mean) noexcept:
        """Exponential around `mean`."""
        return <uint64_t>(-ln((1 + self.draw(1000000)) / 1000001.0) * mean) + 1

    def pick(self, uint64_t below):
        """A number below `below`, from the seed."""
        return self.draw(below)

    cdef int push(self, uint64_t at_us, int kind, object what, object more) except -1:
        self.sequence += 1
        heapq.heappush(self.heap, (at_us, self.sequence, kind, what, more))
        return 0

    def at(self, uint64_t after_us, call):
        """Calls `call()` after so many microseconds."""
        self.push(self.now_us + after_us, EV_CALL, None, call)

    def step(self):
        """The next event, and all checks after it."""
        time, _, kind, what, more = heapq.heappop(self.heap)
        self.now_us = time
        self.steps += 1
        self.handle(kind, what, more)
        self.checked()

    def run_until(self, predicate, uint64_t limit_us):
        """Steps until predicate() holds: True; or for limit_us: False."""
        cdef uint64_t until = self.now_us + limit_us
        while not predicate():
            if self.heap[0][0] > until:
                self.now_us = until
                return False
            self.step()
        return True

    def run_for(self, uint64_t us):
        """Steps through so many microseconds."""
        cdef uint64_t until = self.now_us + us
        while self.heap and self.heap[0][0] <= until:
            self.step()
        self.now_us = until

    cdef int handle(self, int kind, object what, object more) except -1:
        raise NotImplementedError

    cdef int checked(self) except -1:
        raise NotImplementedError

    def note(self, int kind, what):
        """Into the trace and the digest of events."""
        cdef uint64_t x = <uint64_t>(what if isinstance(what, int) else what[0])
        self.digest = (self.digest * FNV) ^ (self.now_us << 8 | x << 4 | <uint64_t>kind)
        self.trace.append((self.now_us, KINDS[kind], what))
