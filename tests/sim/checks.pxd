# What must hold after every step of every node: kept here, beside the nodes, from what they show
# and from the bytes on their disks. A node's word for what it wrote or synced is not taken.
from libc.stdint cimport uint32_t, uint64_t

from dengine._core.members cimport Members
from dengine._core.quorum cimport Config
from dengine._core.turn cimport Turn
from dengine._core.types cimport MAX_MEMBERS
from tests.sim.holdings cimport Holdings
from tests.sim.maps cimport Map, Words


cdef class Checks(Holdings):
    cdef readonly list configs              # (index, members) of committed configurations
    cdef Words committed_in                 # likewise: the term of the leader that committed it
    cdef Words committed_us                 # likewise: when
    # (index, payload) of committed commands and of jumps of the revision, the latter a number
    cdef readonly list commands
    cdef const uint64_t *now_us
    cdef uint64_t max_unflushed_us
    cdef Words digests                      # by applied index: of the store; 0: none applied it yet
    cdef Map chain                          # index << 24 | term -> term << 32 | crc
    cdef Map leaders                        # term -> node + 1
    cdef Map given                          # likewise -> vote that it sent
    cdef Map noops                          # term -> index of its no-op
    cdef uint64_t commit[MAX_MEMBERS]       # in this life
    cdef uint64_t applied[MAX_MEMBERS]      # in this life
    cdef Members members_of[MAX_MEMBERS]    # as it knew them after its last step
    cdef Config config_of[MAX_MEMBERS]
    cdef uint64_t config_index[MAX_MEMBERS]
    cdef uint64_t led[MAX_MEMBERS]          # the term that it leads; 0: none
    cdef readonly uint64_t elections
    cdef readonly uint64_t by_all           # of these, with the marked votes of all
    cdef readonly uint64_t lost_writes      # MemFirst: committed, and on no disk any more
    cdef readonly uint64_t cuts

    cdef int booted(self, int node, Turn turn) except -1
    cdef int dies(self, int node, Turn turn, bint power) except -1  # its files are still open
    cdef int after(self, int node, Turn turn) except -1             # each step
    cdef int sends(self, int node, Turn turn, int to, const char *data, size_t n) except -1

    cdef bint may_be_ahead(self, Turn turn) noexcept
    cdef int see_log(self, int node, Turn turn) except -1
    cdef int see_leader(self, int node, Turn turn) except -1
    cdef int complete(self, int node) except -1
    cdef int gives_up(self, int node, size_t n) except -1
    cdef int see_commit(self, int node, Turn turn) except -1
    cdef int note_command(self, Turn turn, uint64_t index) except -1
    cdef int sends_one(self, int node, Turn turn, int to, const char *at, size_t n,
                       size_t *used) except -1
