# Consensus as a function of its inputs: messages and time in, Ready out.
#
# raft knows indexes, terms, sizes, configurations and the time it is told; it knows no bytes of
# entries, no clock, no I/O and no logging; randomness comes from the seed it is given. The same
# class runs in production and in the simulator. The leader's side is in
# replicate.pxd, the follower's in following.pxd.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from dengine._core.consensus cimport Message, Options
from dengine._core.quorum cimport Config
from dengine._core.following cimport Following
from dengine._core.terms cimport Terms

cdef enum:
    RANK_US = 20000             # between two pre-votes of neighbouring ranks after a lost leader


cdef class Raft(Following):
    cdef readonly uint64_t vote             # 0: none in this term
    cdef uint64_t saved_term                # its term: this node never says a lower one again
    cdef uint64_t promise_until_us
    cdef uint64_t elections                 # counters
    cdef uint64_t steps_down
    cdef public bint stalled                # the disk does not keep up: neither lead nor campaign
    cdef bint left_out                      # the newest configuration does not name this directory
    cdef readonly bint by_all                 # leading: elected with the marked votes of all

    # private
    cdef uint64_t random
    cdef uint64_t election_due_us
    cdef uint64_t vote_version              # candidate: its own vote counts when this is saved
    cdef uint32_t votes                     # slots that granted
    cdef uint32_t marked                    # of these, the nodes in doubt
    cdef uint64_t leader_lost               # the leader whose connection was reset, else 0

    # Life
    cdef int open(self, const Options *opt, Terms terms, uint64_t term, uint64_t vote,
                  uint64_t commit, uint64_t now_us) except -1
    # Entry `index` is the configuration from now on; 0: it would form the cluster.
    cdef int adopt(self, const Config *config, uint64_t index, uint64_t now_us) except -1

    # Inputs, besides those of Replication and Following
    cdef int tick(self, uint64_t now_us) except -1
    cdef int step(self, const Message *m, uint64_t now_us) except -1
    cdef int persisted(self, uint64_t version, uint64_t term, uint64_t index,
                       uint64_t now_us) except -1
    # Hands the lead to that voter, within a promise; leading only.
    cdef int transfer(self, uint64_t to, uint64_t now_us) except -1
    cdef int link_up(self, uint64_t peer, uint64_t now_us) except -1
    cdef int link_down(self, uint64_t peer, uint64_t now_us) except -1

    # Outputs, besides Ready
    cdef uint64_t known_leader(self) noexcept       # in saved_term; 0: unknown

    # private
    cdef uint64_t draw(self, uint64_t below) noexcept
    cdef void reset_election(self, uint64_t now_us) noexcept
    cdef int follow(self, uint64_t term, uint64_t leader, uint64_t now_us) except -1
    cdef bint may_lead(self) noexcept
    cdef bint is_out(self) noexcept         # leading: it was removed, and that is committed
    cdef int campaign(self, uint8_t how, uint64_t now_us) except -1     # PRE, FORCED or 0
    cdef int count_votes(self, uint64_t now_us) except -1
    cdef int on_vote(self, const Message *m, uint64_t now_us) except -1
    cdef int on_voted(self, const Message *m, uint64_t now_us) except -1
    cdef int on_timeout_now(self, const Message *m, uint64_t now_us) except -1
    cdef int take_back(self, uint64_t now_us) except -1
    cdef int on_append(self, const Message *m, uint64_t now_us) except -1
    cdef int hand_over(self) except -1
