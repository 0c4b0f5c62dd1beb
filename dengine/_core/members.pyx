"""Who is in the cluster, and the steps by which that changes (Ongaro's dissertation, chapter 4).

It decides what a configuration means and what the next one is. It knows no log and no roles.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from dengine._core.codec cimport (Reader, Writer, give_bytes, give_u8, give_u16, give_u32,
                                  give_u64, read_from, take_bytes, take_u8, take_u16, take_u32,
                                  take_u64)

from dengine.errors import InvariantError

cdef enum:
    CONFIG_VERSION = 1
    MEMBER_BYTES = 19           # before its address


# ------------------------------------------------------------------------------------------ bytes
cdef bytes encode_members(const Members *m):
    cdef size_t n = 8
    cdef int i, members = 0
    cdef Writer w
    cdef bytes out
    for i in range(m.count):
        if m.flags[i]:
            n += MEMBER_BYTES + m.address_size[i]
            members += 1
    out = PyBytes_FromStringAndSize(NULL, n)
    w.at = <uint8_t *>PyBytes_AS_STRING(out)
    w.end = w.at + n
    w.bad = False
    give_u16(&w, CONFIG_VERSION)
    give_u16(&w, <uint16_t>members)
    give_u32(&w, m.promise_ms)
    i = next_member(m, 0)
    while i >= 0:
        give_u64(&w, m.id[i])
        give_u64(&w, m.incarnation[i])
        give_u8(&w, m.flags[i])
        give_u16(&w, m.address_size[i])
        give_bytes(&w, m.address[i], m.address_size[i])
        i = next_member(m, m.id[i])
    return out


cdef int next_member(const Members *m, uint64_t above) noexcept nogil:
    """The slot of the member with the lowest id above this one; -1: none."""
    cdef int i, best = -1
    for i in range(m.count):
        if m.flags[i] and m.id[i] > above and (best < 0 or m.id[i] < m.id[best]):
            best = i
    return best


cdef int members_decode(const char *p, size_t n, Members *out) noexcept nogil:
    cdef Reader r
    cdef const char *address
    cdef int i
    read_from(&r, p, n)
    if take_u16(&r) != CONFIG_VERSION:
        return -2
    out.count = take_u16(&r)
    out.promise_ms = take_u32(&r)
    if r.bad or out.count == 0 or out.count > MAX_MEMBERS:
        return -1
    for i in range(out.count):
        out.id[i] = take_u64(&r)
        out.incarnation[i] = take_u64(&r)
        out.flags[i] = take_u8(&r)
        out.address_size[i] = take_u16(&r)
        if out.address_size[i] > 255:
            return -1
        address = take_bytes(&r, out.address_size[i])
        if r.bad or out.id[i] == 0 or (i and out.id[i] <= out.id[i - 1]):
            return -1
        if not known_flags(out.flags[i]):
            return -2
        memcpy(out.address[i], address, out.address_size[i])
    return 0 if r.at == r.end else -1


cdef inline bint known_flags(uint8_t flags) noexcept nogil:
    """A voter of one half or both, or a learner, who may be a voter of the outgoing half."""
    if flags & RISING and not flags & LEARNER:
        return False
    flags &= ~RISING
    return flags in (VOTER, VOTER_OLD, VOTER | VOTER_OLD, LEARNER, LEARNER | VOTER_OLD)


cdef int fill_member(Members *m, int slot, uint64_t node, uint64_t incarnation, uint8_t flags,
                     bytes address) except -1:
    if slot >= MAX_MEMBERS or PyBytes_GET_SIZE(address) > 255:
        raise ValueError("too many members, or an address of more than 255 bytes")
    m.id[slot] = node
    m.incarnation[slot] = incarnation
    m.flags[slot] = flags
    m.address_size[slot] = <uint16_t>PyBytes_GET_SIZE(address)
    memcpy(m.address[slot], PyBytes_AS_STRING(address), m.address_size[slot])
    return 0


# ------------------------------------------------------------------------------------------ slots
cdef int seat_new(Members *m, uint64_t node, uint64_t incarnation) except -1:
    cdef int slot = slot_in(m, 0)
    if slot < 0:
        slot = m.count
        if slot == MAX_MEMBERS:
            raise InvariantError(f"node {node} is one too many: {MAX_MEMBERS} have a slot here")
        m.count += 1
    return fill_member(m, slot, node, incarnation, 0, b"") or slot


cdef int64_t seat(Members *now, const Members *next, uint64_t own,
                  uint64_t incarnation) except -1:
    cdef Members before = now[0]
    cdef uint32_t changed = 0
    cdef uint64_t node
    cdef int i, slot
    for i in range(now.count):
        now.flags[i] = 0
    if slot_in(now, own) < 0:
        seat_new(now, own, incarnation)
    for i in range(next.count):                 # first who was here: their slots are not free
        slot = slot_in(now, id_here(next, i, own, incarnation))
        if slot >= 0:
            take_seat(now, slot, next, i)
    slot = slot_in(now, OTHER_SELF)
    if slot >= 0 and now.flags[slot] == 0:
        now.id[slot] = 0
    for i in range(next.count):
        node = id_here(next, i, own, incarnation)
        if slot_in(now, node) < 0:
            take_seat(now, seat_new(now, node, 0), next, i)
    while now.count and now.id[now.count - 1] == 0:
        now.count -= 1
    now.promise_ms = next.promise_ms
    for i in range(MAX_MEMBERS):
        if (seated(now, i) != seated(&before, i)
                or (seated(now, i) and now.incarnation[i] != before.incarnation[i])):
            changed |= <uint32_t>1 << i
    return changed


cdef uint64_t seated(const Members *m, int slot) noexcept:
    return m.id[slot] if slot < m.count else 0


cdef uint64_t id_here(const Members *m, int i, uint64_t own, uint64_t incarnation) noexcept:
    return OTHER_SELF if m.id[i] == own and m.incarnation[i] != incarnation else m.id[i]


cdef int take_seat(Members *to, int slot, const Members *m, int i) except -1:
    to.incarnation[slot] = m.incarnation[i]
    to.flags[slot] = m.flags[i]
    to.address_size[slot] = m.address_size[i]
    memcpy(to.address[slot], m.address[i], m.address_size[i])
    return 0


# ---------------------------------------------------------------------------------------- changes
cdef bint is_joint(const Members *m) noexcept:
    cdef int i
    for i in range(m.count):
        if m.flags[i] & VOTER_OLD:
            return True
    return False


cdef bint is_under_way(const Members *m) noexcept:
    cdef int i
    for i in range(m.count):
        if m.flags[i] & (VOTER_OLD | RISING) or (m.flags[i] and m.incarnation[i] == 0):
            return True
    return False


cdef int joint(Members *m, int slot, uint8_t flags) except -1:
    """Every voter is one of both halves, but for the one that changes (D 4.3)."""
    cdef int i
    if is_joint(m):
        raise InvariantError("a change of voters before the one before it was settled")
    for i in range(m.count):
        if m.flags[i] & VOTER:
            m.flags[i] |= VOTER_OLD
    m.flags[slot] = flags
    return 0


cdef int make_voter(Members *m, int slot) except -1:
    return joint(m, slot, VOTER)


cdef int remove_member(Members *m, int slot) except -1:
    if m.flags[slot] & LEARNER:
        m.flags[slot] = 0
        return 0
    return joint(m, slot, VOTER_OLD)


cdef int replace_member(Members *m, int slot) except -1:
    if m.flags[slot] & LEARNER:
        m.incarnation[slot] = 0
        m.flags[slot] |= RISING
        return 0
    return joint(m, slot, VOTER_OLD | LEARNER | RISING)


cdef int settle(Members *m) except -1:
    cdef int i
    for i in range(m.count):
        if m.flags[i] & VOTER_OLD and m.flags[i] & LEARNER:
            m.incarnation[i] = 0                # its directory is gone
        m.flags[i] &= ~VOTER_OLD
    return 0
