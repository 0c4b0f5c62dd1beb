"""The search for an order of one key's operations: Wing and Gong's, with Lowe's just-in-time rule.

It decides whether a register can have answered so: at each return, every configuration (state of
the register, which pending operations have taken effect) is extended until the returning operation
has. Equal configurations are kept once. It knows conditions and effects by numbers, no revisions.

Rules keep it small without losing an order. A pending operation that changes nothing takes effect
as soon as its condition holds. A write of unknown outcome whose value nobody saw takes effect only
directly before an operation whose condition fails without it: elsewhere it may as well not have
happened; one that waits for a value that cannot come back is forgotten, for values are unique. And
of two configurations that differ in what they used up, one that used no more stands for both.
"""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc

cdef enum:
    ALWAYS, IS, NOT         # condition on the state
    KEEP = 0xFFFFFFFF       # effect: none
    SLOTS = 64              # operations pending at once
    MISSING = 0             # states: no value
    UNSEEN = 1              # a value that nobody saw

cdef struct Op:
    uint8_t condition
    uint32_t operand        # of the condition
    uint32_t effect         # the next state, or KEEP

cdef struct Config:
    uint64_t done           # bit per slot: this pending operation has taken effect
    uint64_t used           # bit per conditional write of unknown outcome
    uint32_t state
    uint32_t deletes        # deletes of unknown outcome that were used
    uint32_t puts
    uint32_t at             # its slot in the table that holds it


@cython.final
cdef class Configs:
    """A set of configurations, in the order in which they came."""
    cdef Config *items
    cdef uint32_t *table        # index + 1
    cdef size_t n, size

    def __cinit__(self):
        self.resize(64)

    def __dealloc__(self):
        free(self.items)
        free(self.table)

    cdef int resize(self, size_t size) except -1:
        cdef Config *items = <Config *>realloc(self.items, size // 2 * sizeof(Config))
        cdef size_t i
        if items == NULL:
            raise MemoryError
        self.items = items
        free(self.table)
        self.table = <uint32_t *>calloc(size, sizeof(uint32_t))
        if self.table == NULL:
            raise MemoryError
        self.size = size
        for i in range(self.n):
            self.items[i].at = <uint32_t>self.free_slot(&self.items[i])
            self.table[self.items[i].at] = <uint32_t>i + 1
        return 0

    cdef size_t slot(self, const Config *c) noexcept:
        """That of one which stands for c, or the empty one where c would stand."""
        cdef uint64_t h = (c.done ^ <uint64_t>c.state << 40) * 0x9E3779B97F4A7C15ULL
        cdef size_t at = (h ^ h >> 29) & (self.size - 1)
        cdef const Config *d
        while self.table[at]:
            d = &self.items[self.table[at] - 1]
            if (d.done == c.done and d.state == c.state and d.used & ~c.used == 0
                    and d.deletes <= c.deletes and d.puts <= c.puts):
                break
            at = (at + 1) & (self.size - 1)
        return at

    cdef size_t free_slot(self, const Config *c) noexcept:
        cdef uint64_t h = (c.done ^ <uint64_t>c.state << 40) * 0x9E3779B97F4A7C15ULL
        cdef size_t at = (h ^ h >> 29) & (self.size - 1)
        while self.table[at]:
            at = (at + 1) & (self.size - 1)
        return at

    cdef int add(self, Config c) except -1:
        cdef size_t at = self.slot(&c)
        if self.table[at]:
            return 0
        if 2 * (self.n + 1) > self.size:
            self.resize(2 * self.size)
            at = self.free_slot(&c)
        c.at = <uint32_t>at
        self.items[self.n] = c
        self.n += 1
        self.table[at] = <uint32_t>self.n
        return 1

    cdef int clear(self) except -1:
        cdef size_t i
        for i in range(self.n):
            self.table[self.items[i].at] = 0
        self.n = 0
        return 0


@cython.final
cdef class Search:
    """Calls and returns in their order; each answers whether an order still exists."""
    cdef Op pending[SLOTS]
    cdef uint64_t open          # slots that are taken
    cdef Op spare[SLOTS]        # conditional writes of unknown outcome
    cdef uint64_t spares        # which of them are there
    cdef uint32_t deletes, puts
    cdef set called             # effects so far
    cdef Configs now, seen, next
    cdef readonly size_t steps
    cdef readonly size_t widest

    def __cinit__(self):
        self.now = Configs()
        self.seen = Configs()
        self.next = Configs()
        self.called = set()
        self.now.add(Config(0, 0, MISSING, 0, 0, 0))

    def call(self, uint8_t condition, uint32_t operand, uint32_t effect) -> int:
        """A slot for an operation that takes effect before its return; -1: too many are open."""
        cdef int slot
        for slot in range(<int>SLOTS):
            if not self.open >> slot & 1:
                self.open |= <uint64_t>1 << slot
                self.pending[slot] = Op(condition, operand, effect)
                self.called.add(effect)
                return slot
        return -1

    def maybe(self, uint8_t condition, uint32_t operand, uint32_t effect) -> bool:
        """A write of unknown outcome that nobody saw; False: too many."""
        if condition == ALWAYS:
            if effect == MISSING:
                self.deletes += 1
            else:
                self.puts += 1
            return True
        cdef int i
        for i in range(<int>SLOTS):
            if not self.spares >> i & 1:
                self.spares |= <uint64_t>1 << i
                self.spare[i] = Op(condition, operand, effect)
                return True
        return False

    def states(self) -> list:
        """In which the register may be, before what is pending."""
        return sorted({self.now.items[i].state for i in range(self.now.n)})

    def ret(self, int slot, size_t budget) -> int:
        """1: an order exists; 0: none does; -1: the budget of steps is exceeded."""
        cdef uint64_t bit = <uint64_t>1 << slot
        cdef size_t i
        cdef Config c
        self.seen.clear()
        self.next.clear()
        for i in range(self.now.n):
            self.seen.add(self.now.items[i])
        i = 0
        while i < self.seen.n:
            c = self.seen.items[i]
            i += 1
            self.steps += 1
            if self.steps > budget:
                return -1
            self.absorb(&c)
            if c.done & bit:
                c.done &= ~bit
                self.next.add(c)
            else:
                self.extend(c, bit)
        if self.next.n == 0:
            return 0
        self.open &= ~bit
        self.settle(self.next)
        self.widest = max(self.widest, self.now.n)
        return 1

    cdef int settle(self, Configs found) except -1:
        """Takes what was found as what is now, without what another one stands for."""
        cdef uint64_t forgotten = 0
        cdef size_t i
        cdef int k
        cdef Config c
        for k in range(<int>SLOTS):
            if self.spares >> k & 1 and not self.may_come(&self.spare[k], found):
                forgotten |= <uint64_t>1 << k
        self.spares &= ~forgotten
        self.now.clear()
        for i in range(found.n):
            c = found.items[found.n - 1 - i]
            c.used &= ~forgotten
            self.now.add(c)
        return 0

    cdef bint may_come(self, const Op *op, Configs found) except -1:
        """Whether its condition can still be met: now, by what is pending, by what is to come."""
        cdef size_t i
        cdef int slot
        if op.condition != IS or op.operand == MISSING or op.operand not in self.called:
            return True
        for slot in range(<int>SLOTS):
            if self.open >> slot & 1 and self.pending[slot].effect == op.operand:
                return True
        for i in range(found.n):
            if found.items[i].state == op.operand:
                return True
        return False

    cdef int absorb(self, Config *c) except -1:
        """What changes nothing takes effect now, if it may."""
        cdef uint64_t left = self.open & ~c.done
        cdef int slot = 0
        while left:
            if left & 1 and self.pending[slot].effect == KEEP and holds(
                    &self.pending[slot], c.state):
                c.done |= <uint64_t>1 << slot
            left >>= 1
            slot += 1
        return 0

    cdef int extend(self, Config c, uint64_t bit) except -1:
        """Every next step: an operation that may take effect, or does after an unknown write."""
        cdef uint64_t left = self.open & ~c.done
        cdef int slot = 0
        cdef int i
        cdef Config d
        while left:
            if left & 1:
                if holds(&self.pending[slot], c.state):
                    self.take(c, slot, bit)
                elif c.state != MISSING and self.deletes > c.deletes and holds(
                        &self.pending[slot], MISSING):
                    d = c
                    d.deletes += 1
                    d.state = MISSING
                    self.take(d, slot, bit)
                if not holds(&self.pending[slot], c.state):
                    if self.puts > c.puts and holds(&self.pending[slot], UNSEEN):
                        d = c
                        d.puts += 1
                        d.state = UNSEEN
                        self.take(d, slot, bit)
                    for i in range(<int>SLOTS):
                        if self.spares & ~c.used & <uint64_t>1 << i and holds(
                                &self.spare[i], c.state) and holds(
                                &self.pending[slot], self.spare[i].effect):
                            d = c
                            d.used |= <uint64_t>1 << i
                            d.state = self.spare[i].effect
                            self.take(d, slot, bit)
            left >>= 1
            slot += 1
        return 0

    cdef int take(self, Config c, int slot, uint64_t bit) except -1:
        cdef uint64_t own = <uint64_t>1 << slot
        if self.pending[slot].effect != KEEP:
            c.state = self.pending[slot].effect
        if own == bit:
            return self.next.add(c)
        c.done |= own
        return self.seen.add(c)


cdef inline bint holds(const Op *op, uint32_t state) noexcept:
    if op.condition == ALWAYS:
        return True
    return (op.operand == state) == (op.condition == IS)
