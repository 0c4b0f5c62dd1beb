# The follower's side of consensus: which of the leader's entries it takes, and what it may say of
# itself, and when.
#
# Following knows its log by terms and indexes, and what of its hard state is saved; raft.pxd adds
# elections.
from libc.stdint cimport uint64_t

from dengine._core.consensus cimport Message
from dengine._core.replicate cimport Replication

ctypedef struct Held:           # a message that waits until `version` of the hard state is saved
    Message message
    uint64_t version

cdef enum:
    NO_CUT = 0xFFFFFFFFFFFFFFFF


cdef class Following(Replication):
    cdef readonly uint64_t leader           # 0: unknown
    cdef uint64_t version                   # of the hard state
    cdef uint64_t saved                     # newest version on disk
    cdef uint64_t verified                  # following: log matches the leader's up to here
    cdef uint64_t config_index              # of the configuration in the log; 0: not formed
    cdef readonly bint doubt                # it may have forgotten: its votes are marked

    # Ready: what the turn must do. `taken` clears it.
    cdef bint save                          # write (version, term, vote); the turn clears it
    cdef Message *out
    cdef size_t out_count
    # Step of an append, acted on by the turn at once, before the next step:
    cdef uint64_t cut_to                    # keep entries up to here; NO_CUT
    cdef uint64_t append_from               # first index of the message to append; 0: none

    # private
    cdef uint64_t announced                 # following: durable index last told
    cdef uint64_t start_term                # at the start of a node in doubt
    # in doubt: what the leader of this term had when it was first heard; 0: not heard
    cdef uint64_t target
    cdef Held *held
    cdef size_t held_count
    cdef size_t held_capacity
    cdef size_t out_capacity

    # A snapshot took the place of the log, which is empty behind `index` now.
    cdef int restart(self, uint64_t index, uint64_t term) except -1

    # Outputs, besides Ready
    cdef void taken(self) noexcept

    # A voter by a configuration that is committed.
    cdef bint surely_votes(self) noexcept

    # for raft
    cdef int accept(self, const Message *m) except -1
    cdef int matches(self, const Message *m, Message *reply) except -1
    cdef int announce(self, bint again) except -1
    cdef int end_doubt(self) except -1
    cdef int save_again(self) except -1
    cdef int send(self, const Message *m, bint after_save) except -1
    cdef int release(self) except -1

    # private
    cdef int remember(self, uint64_t index) except -1
    cdef int overruled(self, uint64_t index) except -1
