"""Quorums of simple and joint configurations (Ongaro's dissertation, 4.3).

It counts; it knows no roles, terms or logs.
"""
from libc.string cimport memset

from dengine._core.fault cimport MUTANT
from dengine._core.members cimport VOTER, VOTER_OLD, place_of

cdef extern from * nogil:
    int popcount "__builtin_popcount"(unsigned int)


cdef void config_from(Config *to, const Members *m) noexcept nogil:
    cdef int i
    memset(to, 0, sizeof(Config))
    to.count = m.count
    for i in range(m.count):
        to.id[i] = m.id[i]
        if m.flags[i] & VOTER:
            to.voters |= <uint32_t>1 << i
        if m.flags[i] & VOTER_OLD:
            to.outgoing |= <uint32_t>1 << i


cdef int slot_of(const Config *c, uint64_t node) noexcept nogil:
    return place_of(c.id, c.count, node)


cdef bint is_voter(const Config *c, uint64_t node) noexcept nogil:
    cdef int slot = slot_of(c, node)
    return slot >= 0 and ((c.voters | c.outgoing) >> slot & 1) != 0


cdef bint stays_voter(const Config *c, uint64_t node) noexcept nogil:
    cdef int slot = slot_of(c, node)
    return slot >= 0 and (c.voters >> slot & 1) != 0


cdef int voters_below(const Config *c, uint64_t node) noexcept nogil:
    cdef int i, n = 0
    for i in range(c.count):
        if c.id[i] < node and (c.voters | c.outgoing) >> i & 1:
            n += 1
    return n


cdef bint sole_voter(const Config *c, uint64_t node) noexcept nogil:
    cdef int slot = slot_of(c, node)
    return slot >= 0 and c.outgoing == 0 and c.voters == <uint32_t>1 << slot


cdef uint64_t half_value(uint32_t half, int count, const uint64_t *value) noexcept nogil:
    """The largest value that a majority of `half` reaches: the median from above."""
    cdef uint64_t sorted[MAX_MEMBERS]
    cdef int n = 0, i, j
    for i in range(count):
        if half >> i & 1:
            j = n
            while j > 0 and sorted[j - 1] < value[i]:
                sorted[j] = sorted[j - 1]
                j -= 1
            sorted[j] = value[i]
            n += 1
    return sorted[n // 2 - (MUTANT(3) and n > 1)] if n else 0


cdef uint64_t quorum_value(const Config *c, const uint64_t *value) noexcept nogil:
    cdef uint64_t new = half_value(c.voters, c.count, value)
    if c.outgoing == 0 or MUTANT(157):
        return new
    cdef uint64_t old = half_value(c.outgoing, c.count, value)
    return new if new < old else old


cdef bint quorum_has(const Config *c, uint32_t slots) noexcept nogil:
    if 2 * (popcount(c.voters & slots) + MUTANT(2)) <= popcount(c.voters):
        return False
    return (c.outgoing == 0 or 2 * popcount(c.outgoing & slots) > popcount(c.outgoing)
            or MUTANT(157))


cdef bint all_have(const Config *c, uint32_t slots) noexcept nogil:
    cdef uint32_t all = c.voters | c.outgoing
    return all != 0 and (all & slots) == all
