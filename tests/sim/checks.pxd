# What must hold after every step of every node: kept here, beside the nodes, from what they show.
from libc.stdint cimport uint32_t, uint64_t

from dengine._core.turn cimport Turn
from dengine._core.types cimport MAX_MEMBERS, Job, iovec


cdef class Checks:
    cdef readonly int nodes
    cdef bint mem_first
    cdef readonly list committed            # by index - 1: the entry's key, (term << 32 | crc)
    cdef list committed_in                  # likewise: the term of the leader that committed it
    cdef readonly dict leaders              # term -> node
    cdef dict chain                         # (index, term) -> crc
    cdef dict digests                       # applied index -> digest of the store
    cdef dict votes                         # (term, node) -> vote in durable bytes
    cdef dict noops                         # term -> index of its no-op
    cdef list logs                          # by node: keys of the entries it has
    cdef uint64_t held[MAX_MEMBERS]         # in files, as the strategy asks
    cdef uint64_t synced[MAX_MEMBERS]
    cdef uint64_t term[MAX_MEMBERS]         # durable
    cdef uint64_t vote[MAX_MEMBERS]         # durable
    cdef uint64_t commit[MAX_MEMBERS]       # in this life
    cdef uint64_t applied[MAX_MEMBERS]      # in this life
    cdef uint64_t led[MAX_MEMBERS]          # the term that it leads; 0: none
    cdef readonly uint64_t elections
    cdef readonly uint64_t cuts

    cdef int booted(self, int node, Turn turn) except -1
    cdef int forget(self, int node) except -1
    cdef int after(self, int node, Turn turn) except -1         # each step
    cdef int saved(self, int node, const Job *job) except -1    # one slot of the hard state
    cdef int sends(self, int node, Turn turn, int to, bytes data) except -1

    cdef int see_log(self, int node, Turn turn) except -1
    cdef int see_leader(self, int node, Turn turn) except -1
    cdef int see_commit(self, int node, Turn turn) except -1
    cdef int sends_one(self, int node, Turn turn, int to, const char *at, size_t n,
                       size_t *used) except -1
