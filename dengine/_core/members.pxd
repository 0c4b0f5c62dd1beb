# Who is in the cluster: a configuration, its bytes, and what changes it, step by step.
#
# Configuration (payload of an ENTRY_CONFIG, little-endian): u16 version (1), u16 members,
# u32 promise_ms, then per member in ascending order of id
#    u64 id, u64 incarnation (0: of the directory that comes first), u8 flags (1: voter,
#    2: voter of the outgoing half, 4: learner, 8: a learner that is to vote), u16 + address
#
# A member keeps its slot, its place in every array of the node, for as long as it is one; the slots
# of two nodes have nothing to do with each other.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from dengine._core.types cimport MAX_MEMBERS

cdef enum:
    VOTER = 1
    VOTER_OLD = 2
    LEARNER = 4
    RISING = 8

cdef enum:
    OTHER_SELF = 0xFFFFFFFFFFFFFFFF     # the id here of a member that has this node's, and is not

ctypedef struct Members:
    uint32_t promise_ms
    uint16_t count                      # slots in use lie below it
    uint64_t id[MAX_MEMBERS]            # by slot; 0: free
    uint64_t incarnation[MAX_MEMBERS]
    uint8_t flags[MAX_MEMBERS]          # 0: no member: this node, or one that it speaks with
    uint16_t address_size[MAX_MEMBERS]
    char address[MAX_MEMBERS][256]

cdef bytes encode_members(const Members *m)
cdef int members_decode(const char *p, size_t n, Members *out) noexcept nogil
# One row of `m`; ValueError where it does not fit.
cdef int fill_member(Members *m, int slot, uint64_t node, uint64_t incarnation, uint8_t flags,
                     bytes address) except -1
cdef inline int slot_in(const Members *m, uint64_t node) noexcept nogil:    # -1: none
    return place_of(m.id, m.count, node)

cdef inline int place_of(const uint64_t *ids, int count, uint64_t node) noexcept nogil:
    cdef int i
    for i in range(count):
        if ids[i] == node:
            return i
    return -1

# The id here of the member in row i: one with this node's and another directory is somebody else.
cdef uint64_t id_here(const Members *m, int i, uint64_t own, uint64_t incarnation) noexcept
# A slot for that node, which is new to `m`. InvariantError where all are taken.
cdef int seat_new(Members *m, uint64_t node, uint64_t incarnation) except -1
# `next` takes the place of `now`: who stays keeps its slot, and so does who is no member any more,
# and this node. Bits of the slots whose node or incarnation changed.
cdef int64_t seat(Members *now, const Members *next, uint64_t own,
                  uint64_t incarnation) except -1

# ------------------------------------------------------------------ one step of a change (D 4)
cdef bint is_joint(const Members *m) noexcept
cdef bint is_under_way(const Members *m) noexcept   # the leader goes on with it by itself
cdef int make_voter(Members *m, int slot) except -1         # joint: a learner becomes a voter
cdef int remove_member(Members *m, int slot) except -1      # joint, unless it is a learner
# Likewise; once that is settled, an empty directory takes its place and is to vote.
cdef int replace_member(Members *m, int slot) except -1
cdef int settle(Members *m) except -1                       # a joint one becomes simple
