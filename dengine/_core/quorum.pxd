# Who votes, and what a quorum of them has. Every quorum of the node (commit, votes, reads, lease)
# is taken from the newest configuration in the log; a joint one needs a majority of both halves.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from dengine._core.members cimport Members
from dengine._core.types cimport MAX_MEMBERS

ctypedef struct Config:
    int count                           # slots in use lie below it
    uint64_t id[MAX_MEMBERS]            # by slot, which a member keeps for life; 0: free
    uint32_t voters                     # bit per slot
    uint32_t outgoing                   # the other half of a joint configuration, else 0

cdef void config_from(Config *to, const Members *m) noexcept nogil
cdef int slot_of(const Config *c, uint64_t node) noexcept nogil             # -1: not a member
cdef bint is_voter(const Config *c, uint64_t node) noexcept nogil          # of either half
cdef bint stays_voter(const Config *c, uint64_t node) noexcept nogil       # of the newer half
cdef int voters_below(const Config *c, uint64_t node) noexcept nogil        # its rank
cdef bint sole_voter(const Config *c, uint64_t node) noexcept nogil
# The highest x that a quorum has: value[slot] >= x for a majority (of both halves).
cdef uint64_t quorum_value(const Config *c, const uint64_t *value) noexcept nogil
cdef bint quorum_has(const Config *c, uint32_t slots) noexcept nogil
cdef bint all_have(const Config *c, uint32_t slots) noexcept nogil
