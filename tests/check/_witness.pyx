"""The replay behind `witness`: which revisions explain all answers, or what contradicts.

It decides by the revisions that the answers carry: replay per key in their order, real time in one
sweep. Writes of unknown outcome are placed where a read shows their value; others are only counted:
there must be enough of them, begun early enough, for each effect that nothing else explains.
It does not know files or sentences for people beyond one line; `witness` tells the story.
"""
cimport cython
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset

from tests.check._order cimport Order, Place, hash_of, unplaced

cdef enum:
    GET, PUT, DELETE, CAS                           # kind
    OK = 0, CONFLICT, MISSING, REFUSED, UNKNOWN     # outcome
    ANY = -1                                        # expect: it must exist
    NO_CONDITION = -2                               # expect: none
    NOBODY = 0xFFFFFFFF                             # no operation

KINDS = {"get": GET, "put": PUT, "delete": DELETE, "cas": CAS}
OUTCOMES = {"ok": OK, "conflict": CONFLICT, "missing": MISSING, "refused": REFUSED,
            "unknown": UNKNOWN}

cdef struct Op:
    int64_t start
    int64_t end
    int64_t revision    # 0: not known; of a conflict, from the sweep on, the least possible one
    int64_t mod         # of a write of unknown outcome, from the sweep on: its revision is greater
    int64_t expect
    int64_t offset      # the caller's
    uint64_t value      # hash
    uint32_t key
    uint32_t life
    uint8_t kind
    uint8_t outcome
    bint eventual


class Found(Exception):  # noqa: N818
    """The first contradiction: a sentence and the operations it is about."""


cdef class Replay:
    """All operations of a history, then `check`, once."""
    cdef Op *ops
    cdef size_t n, capacity
    cdef int64_t base                   # -1: not known
    cdef dict keys, lives
    cdef Order changes                  # with a known revision, by revision
    cdef Order of_key                   # the same by (key, revision)
    cdef Order claims                   # revisions that conditions name and nobody acknowledged
    cdef Order spare                    # unplaced unknown writes by (2 * key + writes, floor)
    cdef Order needs                    # (lowest revision - 1, op) of effects to be explained
    cdef list needs_last                # of each its highest revision
    cdef int64_t *deleted               # of each key: when an unplaced unknown delete began

    def __cinit__(self, base=None):
        self.base = -1 if base is None else base
        self.keys = {}
        self.lives = {}
        self.changes = Order()
        self.of_key = Order()
        self.claims = Order()
        self.spare = Order()
        self.needs = Order()
        self.needs_last = []

    def __dealloc__(self):
        free(self.ops)
        free(self.deleted)

    def __len__(self):
        return self.n

    def offset(self, size_t i):
        return self.ops[i].offset

    def add(self, op not None, int64_t offset):
        cdef Op *to
        cdef Op *ops
        if self.n == self.capacity:
            self.capacity = self.capacity + self.capacity // 4 + 16
            ops = <Op *>realloc(self.ops, self.capacity * sizeof(Op))
            if ops == NULL:
                raise MemoryError
            self.ops = ops
        to = &self.ops[self.n]
        to.kind = KINDS[op.kind]
        to.outcome = OUTCOMES[op.outcome]
        to.eventual = op.policy == "eventual"
        to.start = op.start
        to.end = op.end
        to.revision = op.revision
        to.mod = op.mod
        to.expect = NO_CONDITION if op.expect is None else op.expect
        to.offset = offset
        to.value = 0 if op.value is None else hash_of(op.value)
        to.key = self.keys.setdefault(op.key, len(self.keys))
        to.life = self.lives.setdefault((op.node, op.life), len(self.lives))
        if to.outcome == UNKNOWN:
            to.revision = to.mod = 0
        self.n += 1

    def check(self):
        """Raises Found. The order matters: each step may rely on those before it."""
        self.place_reads()
        self.order_changes()
        self.order_claims()
        self.sweep()
        self.order_spare()
        self.walk()
        self.fill()

    # ------------------------------------------------------------ values
    cdef int place_reads(self) except -1:
        """Each value that was read was written, at one revision."""
        cdef size_t size = 16, i, slot
        cdef uint32_t *table
        cdef Op *op
        while size < 2 * self.n:
            size *= 2
        table = <uint32_t *>calloc(size, sizeof(uint32_t))
        if table == NULL:
            raise MemoryError
        try:
            for i in range(self.n):
                op = &self.ops[i]
                if op.kind == PUT or op.kind == CAS:
                    slot = op.value & (size - 1)
                    while table[slot]:
                        if self.ops[table[slot] - 1].value == op.value:
                            raise ValueError(f"operations {table[slot] - 1} and {i} write the "
                                             "same value: no history for this check")
                        slot = (slot + 1) & (size - 1)
                    table[slot] = <uint32_t>i + 1
            for i in range(self.n):
                op = &self.ops[i]
                if op.kind == GET and op.outcome == OK:
                    slot = op.value & (size - 1)
                    while table[slot] and self.ops[table[slot] - 1].value != op.value:
                        slot = (slot + 1) & (size - 1)
                    if not table[slot]:
                        raise Found("a value was read that nobody wrote", [i])
                    self.place(<uint32_t>i, table[slot] - 1)
        finally:
            free(table)
        return 0

    cdef int place(self, uint32_t reader, uint32_t writer) except -1:
        cdef Op *r = &self.ops[reader]
        cdef Op *w = &self.ops[writer]
        if w.key != r.key:
            raise Found("a value was read under another key", [writer, reader])
        if w.outcome == REFUSED or w.outcome == CONFLICT:
            raise Found("a write that was refused was applied", [writer, reader])
        if r.mod > r.revision:
            raise Found("a value was read at a revision before its own", [writer, reader])
        if w.revision == 0:
            w.revision = r.mod
        elif w.revision != r.mod:
            raise Found("one write has two revisions: it was applied twice", [writer, reader])
        return 0

    # ------------------------------------------------------------ revisions
    cdef bint is_change(self, const Op *op) noexcept:
        return (op.kind != GET and (op.outcome == OK or op.outcome == UNKNOWN)
                and op.revision > 0)

    cdef int order_changes(self) except -1:
        cdef uint32_t i
        cdef size_t k
        cdef Op *op
        for i in range(<uint32_t>self.n):
            op = &self.ops[i]
            if self.is_change(op):
                self.changes.add(0, op.revision, i)
                self.of_key.add(op.key, op.revision, i)
                if op.revision <= self.base:
                    raise Found("a write has a revision from before the beginning", [i])
            elif op.kind != GET and op.outcome == OK:
                raise Found("an acknowledged write has no revision", [i])
        self.changes.sort()
        self.of_key.sort()
        for k in range(1, self.changes.n):
            if self.changes.at[k - 1].rank == self.changes.at[k].rank:
                raise Found("two writes have one revision",
                            [self.changes.at[k - 1].op, self.changes.at[k].op])
        return 0

    cdef uint32_t change_at(self, int64_t revision) noexcept:
        cdef size_t k = self.changes.after(0, revision)
        if k and self.changes.at[k - 1].rank == revision:
            return self.changes.at[k - 1].op
        return NOBODY

    cdef int order_claims(self) except -1:
        """Conditions that held, and conflicts, name revisions at which the key was written."""
        cdef uint32_t i, by
        cdef int64_t revision
        cdef size_t k
        cdef Op *op
        for i in range(<uint32_t>self.n):
            op = &self.ops[i]
            revision = 0
            if op.outcome == CONFLICT:
                revision = op.mod
            elif self.is_change(op) and op.expect > 0:
                revision = op.expect
            if revision == 0:
                continue
            by = self.change_at(revision)
            if by == NOBODY:
                self.claims.add(op.key, revision, i)
            elif self.ops[by].key != op.key or self.ops[by].kind == DELETE:
                raise Found(f"this key never had revision {revision}", [by, i])
        self.claims.sort()
        seen = {}
        for k in range(self.claims.n):
            i = self.claims.at[k].op
            other = seen.setdefault(self.claims.at[k].rank, i)
            if self.ops[<uint32_t>other].key != self.ops[i].key:
                raise Found("two keys claim one revision", [other, i])
        return 0

    # ------------------------------------------------------------ real time
    cdef int sweep(self) except -1:
        """What began after something ended has no smaller revision; a change, a greater one."""
        cdef Order starts = Order(), ends = Order()
        cdef uint32_t i, j, by = NOBODY, seen_by
        cdef int64_t floor = max(<int64_t>0, self.base)
        cdef size_t k, at = 0, lives = len(self.lives), keys = len(self.keys)
        cdef Op *op
        cdef uint32_t *of_life = <uint32_t *>malloc((lives + 1) * sizeof(uint32_t))
        self.deleted = <int64_t *>malloc((keys + 1) * sizeof(int64_t))
        if of_life == NULL or self.deleted == NULL:
            free(of_life)
            raise MemoryError
        memset(of_life, 0xFF, lives * sizeof(uint32_t))      # NOBODY
        for k in range(keys):
            self.deleted[k] = INT64_MAX
        for i in range(<uint32_t>self.n):
            op = &self.ops[i]
            if op.outcome == REFUSED or op.outcome == UNKNOWN and op.kind == GET:
                continue
            starts.add(0, op.start, i)
            if op.outcome != UNKNOWN:
                ends.add(0, op.end, i)
            elif op.kind == DELETE:
                self.deleted[op.key] = min(self.deleted[op.key], op.start)
        starts.sort()
        ends.sort()
        try:
            for k in range(starts.n):
                i = starts.at[k].op
                op = &self.ops[i]
                while at < ends.n and ends.at[at].rank < op.start:
                    j = ends.at[at].op
                    at += 1
                    if self.ops[j].revision > floor:
                        floor, by = self.ops[j].revision, j
                    seen_by = of_life[self.ops[j].life]
                    if seen_by == NOBODY or self.ops[seen_by].revision < self.ops[j].revision:
                        of_life[self.ops[j].life] = j
                self.judge(i, floor, by, of_life[op.life])
        finally:
            free(of_life)
        return 0

    cdef int judge(self, uint32_t i, int64_t floor, uint32_t by, uint32_t in_life) except -1:
        cdef Op *op = &self.ops[i]
        if op.outcome == UNKNOWN and op.revision == 0:
            op.mod = floor
        elif self.is_change(op):
            if op.revision <= floor:
                raise Found("a write has a revision that was reached before it began", [by, i])
        elif op.outcome == CONFLICT:
            self.judge_conflict(i, floor, by)
        elif op.eventual:
            if in_life != NOBODY and op.revision < self.ops[in_life].revision:
                raise Found("a node went back: it had a later revision before this read began",
                            [in_life, i])
        elif op.revision < floor:
            raise Found("a stale answer: a later revision was known before it began", [by, i])
        return 0

    cdef int judge_conflict(self, uint32_t i, int64_t floor, uint32_t by) except -1:
        """Gives it the least revision at which the key was as it reports, not before `floor`."""
        cdef Op *op = &self.ops[i]
        cdef size_t k
        if op.expect == op.mod or op.expect == ANY and op.mod:
            raise Found("a condition that held was reported as a conflict", [i])
        op.revision = max(floor, op.mod)
        k = self.of_key.after(op.key, op.revision)
        if op.mod:
            if k and self.of_key.at[k - 1].group == op.key and self.of_key.at[k - 1].rank > op.mod:
                raise Found("a stale conflict: its revision had been replaced before it began",
                            [self.of_key.at[k - 1].op, by, i])
            return 0
        if self.deleted[op.key] < op.end:
            return 0
        by = self.of_key.at[k - 1].op if k and self.of_key.at[k - 1].group == op.key else NOBODY
        if by == NOBODY or self.ops[by].kind == DELETE:
            return 0
        while k < self.of_key.n and self.of_key.at[k].group == op.key:
            if self.ops[self.of_key.at[k].op].kind == DELETE:
                op.revision = self.of_key.at[k].rank
                return 0
            k += 1
        raise Found("a conflict reports as missing a key that was there", [by, i])

    # ------------------------------------------------------------ replay
    cdef int order_spare(self) except -1:
        cdef uint32_t i
        cdef Op *op
        for i in range(<uint32_t>self.n):
            op = &self.ops[i]
            if op.outcome == UNKNOWN and op.kind != GET and op.revision == 0:
                self.spare.add(2 * op.key + (op.kind != DELETE), op.mod, i)
        self.spare.sort()
        return 0

    cdef int walk(self) except -1:
        """Replays each key; of all keys' contradictions the earliest is told."""
        cdef Order events = Order()
        cdef uint32_t i
        cdef size_t first = 0, last
        cdef int64_t end, earliest = INT64_MAX
        cdef Op *op
        for i in range(<uint32_t>self.n):
            op = &self.ops[i]
            if self.is_change(op):
                events.add(op.key, 2 * op.revision, i)
            elif op.outcome == MISSING or op.outcome == OK:
                events.add(op.key, 2 * op.revision + 1, i)
        events.sort()
        found = None
        while first < events.n:
            last = first
            while last < events.n and events.at[last].group == events.at[first].group:
                last += 1
            try:
                KeyReplay(self, events.at[first].group).run(&events.at[first], last - first)
            except Found as this:
                end = max([self.ops[<size_t>j].end for j in this.args[1]])
                if end < earliest:
                    earliest, found = end, this
            first = last
        if found is not None:
            raise found
        return 0

    # ------------------------------------------------------------ what nobody acknowledged
    cdef int fill(self) except -1:
        """Each effect that only an unknown write explains takes a free revision of its own."""
        cdef int64_t which = unplaced(self.needs, self.needs_last, self.changes)
        if which >= 0:
            raise Found("no revision is left for the effect of an unknown write",
                        [self.needs.at[which].op])
        if self.base >= 0:
            self.fill_gaps()
        return 0

    cdef int fill_gaps(self) except -1:
        """Each revision belongs to somebody: unknown writes that began early enough."""
        cdef Order spare = Order()
        cdef int64_t revision = self.base + 1
        cdef size_t k, used = 0
        cdef uint32_t i, last = 0
        for k in range(self.spare.n):
            spare.add(0, self.spare.at[k].rank, self.spare.at[k].op)
        spare.sort()
        for k in range(self.changes.n):
            used += self.fill_gap(spare, used, revision, self.changes.at[k].rank,
                                  self.changes.at[k].op)
            revision = self.changes.at[k].rank + 1
        for i in range(<uint32_t>self.n):
            if self.ops[i].revision > self.ops[last].revision:
                last = i
        if self.n:
            self.fill_gap(spare, used, revision, self.ops[last].revision + 1, last)
        return 0

    cdef int64_t fill_gap(self, Order spare, size_t used, int64_t revision, int64_t end,
                          uint32_t shown_by) except -1:
        """Takes a write for each revision before `end`, which the answer `shown_by` shows."""
        cdef size_t k
        cdef int64_t n
        for n in range(max(<int64_t>0, end - revision)):
            if used + n >= spare.n or spare.at[used + n].rank >= revision + n:
                k = self.changes.after(0, revision + n)
                raise Found(f"revision {revision + n} belongs to no write that may have taken it",
                            [self.changes.at[k - 1].op if k else NOBODY, shown_by])
        return max(<int64_t>0, end - revision)


@cython.final
cdef class KeyReplay:
    """One key from its first revision to its last."""
    cdef Replay all
    cdef uint32_t key
    cdef int64_t mod            # of the value now; 0: missing
    cdef int64_t seen           # up to this revision it certainly was so
    cdef uint32_t by            # who changed it last, NOBODY at first
    cdef size_t claim           # the next one of this key
    cdef size_t used[2]         # unknown deletes and writes that were needed so far

    def __cinit__(self, Replay all not None, uint32_t key):
        self.all = all
        self.key = key
        self.by = NOBODY
        self.claim = all.claims.after(key, 0)

    cdef int run(self, const Place *at, size_t n) except -1:
        cdef size_t k
        cdef const Op *op
        for k in range(n):
            op = &self.all.ops[at[k].op]
            self.claimed(op.revision)
            if at[k].rank & 1:
                self.expect(op.mod if op.kind == GET else 0, op.revision, at[k].op)
                continue
            if op.expect != NO_CONDITION:
                self.expect(op.expect, op.revision - 1, at[k].op)
            elif op.kind == DELETE:
                self.expect(ANY, op.revision - 1, at[k].op)
            self.mod = 0 if op.kind == DELETE else op.revision
            self.seen = op.revision
            self.by = at[k].op
        return self.claimed(INT64_MAX)

    cdef int claimed(self, int64_t revision) except -1:
        """Takes what conditions say was written before `revision`."""
        cdef const Place *claim
        while self.claim < self.all.claims.n:
            claim = &self.all.claims.at[self.claim]
            if claim.group != self.key or claim.rank > revision:
                return 0
            self.claim += 1
            if claim.rank != self.mod:
                self.need(True, claim.rank - 1, claim.rank, claim.op)
                self.mod = self.seen = claim.rank
                self.by = NOBODY
        return 0

    cdef int expect(self, int64_t mod, int64_t at, uint32_t op) except -1:
        """At revision `at` the key must be so; an unknown write may have made it so."""
        if mod == ANY:
            if self.mod == 0:
                self.need(True, self.seen, at, op)
                self.mod = ANY
                self.by = NOBODY
        elif mod == 0:
            if self.mod != 0:
                self.need(False, self.seen, at, op)
                self.mod = 0
                self.by = NOBODY
        elif mod != self.mod:
            raise Found(f"the key was not at revision {mod} then", self.story(op))
        self.seen = max(self.seen, at)
        return 0

    cdef int need(self, bint writes, int64_t first, int64_t last, uint32_t op) except -1:
        """An unknown write or delete took effect at one of the revisions first + 1 .. last."""
        cdef Order spare = self.all.spare
        cdef size_t k = spare.after(2 * self.key + writes, -1) + self.used[writes]
        what = "was not there" if writes else "was still there"
        if last <= first or k >= spare.n or spare.at[k].group != 2 * self.key + writes or (
                spare.at[k].rank >= last):
            raise Found(f"the key {what} at revision {last}", self.story(op))
        self.used[writes] += 1
        self.all.needs.add(0, first, op)
        self.all.needs_last.append(last)
        return 0

    cdef list story(self, uint32_t op):
        return [op] if self.by == NOBODY else [self.by, op]
