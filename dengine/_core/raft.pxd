# Consensus as a function of its inputs: messages and time in, Ready out.
#
# raft knows indexes, terms, sizes, configurations and the time it is told; it knows no bytes of
# entries, no clock, no I/O and no logging; randomness comes from the seed it is given. The same
# class runs in production and in the simulator. The leader's side is in replicate.pxd.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from dengine._core.consensus cimport Message, Options
from dengine._core.quorum cimport Config
from dengine._core.replicate cimport Replication
from dengine._core.terms cimport Terms

ctypedef struct Held:           # a message that waits until `version` of the hard state is saved
    Message message
    uint64_t version

cdef enum:
    RANK_US = 20000             # between two pre-votes of neighbouring ranks after a lost leader
    NO_CUT = 0xFFFFFFFFFFFFFFFF


cdef class Raft(Replication):
    cdef readonly uint64_t vote             # 0: none in this term
    cdef readonly uint64_t leader           # 0: unknown
    cdef uint64_t saved_term                # its term: this node never says a lower one again
    cdef uint64_t version                   # of the hard state
    cdef uint64_t saved                     # newest version on disk
    cdef uint64_t promise_until_us
    cdef uint64_t verified                  # following: log matches the leader's up to here
    cdef uint64_t elections                 # counters
    cdef uint64_t steps_down
    cdef public bint stalled                # the disk does not keep up: neither lead nor campaign
    cdef bint formed                        # the log holds a configuration
    cdef readonly bint doubt                # it may have forgotten: its votes are marked
    cdef readonly bint by_all                 # leading: elected with the marked votes of all

    # Ready: what the turn must do. `taken` clears it.
    cdef bint save                          # write (version, term, vote); the turn clears it
    cdef Message *out
    cdef size_t out_count
    # Step of an append, acted on by the turn at once, before the next step:
    cdef uint64_t cut_to                    # keep entries up to here; NO_CUT
    cdef uint64_t append_from               # first index of the message to append; 0: none

    # private
    cdef uint64_t random
    cdef uint64_t election_due_us
    cdef uint64_t announced                 # following: durable index last told
    cdef uint64_t vote_version              # candidate: its own vote counts when this is saved
    cdef uint32_t votes                     # slots that granted
    cdef uint32_t marked                    # of these, the nodes in doubt
    cdef uint64_t start_term                # at the start of a node in doubt
    # in doubt: what the leader of this term had when it was first heard; 0: not heard
    cdef uint64_t target
    cdef uint64_t leader_lost               # the leader whose connection was reset, else 0
    cdef Held *held
    cdef size_t held_count
    cdef size_t held_capacity
    cdef size_t out_capacity

    # Life
    cdef int open(self, const Options *opt, Terms terms, uint64_t term, uint64_t vote,
                  uint64_t commit, uint64_t now_us) except -1
    cdef int adopt(self, const Config *config, bint formed, uint64_t now_us) except -1

    # Inputs, besides those of Replication
    cdef int tick(self, uint64_t now_us) except -1
    cdef int step(self, const Message *m, uint64_t now_us) except -1
    cdef int persisted(self, uint64_t version, uint64_t term, uint64_t index,
                       uint64_t now_us) except -1
    # Hands the lead to that voter, within a promise; leading only.
    cdef int transfer(self, uint64_t to, uint64_t now_us) except -1
    cdef int link_up(self, uint64_t peer, uint64_t now_us) except -1
    cdef int link_down(self, uint64_t peer, uint64_t now_us) except -1

    # A snapshot took the place of the log, which is empty behind `index` now.
    cdef int restart(self, uint64_t index, uint64_t term) except -1

    # Outputs, besides Ready
    cdef void taken(self) noexcept
    cdef uint64_t known_leader(self) noexcept       # in saved_term; 0: unknown

    # private
    cdef uint64_t draw(self, uint64_t below) noexcept
    cdef void reset_election(self, uint64_t now_us) noexcept
    cdef int follow(self, uint64_t term, uint64_t leader, uint64_t now_us) except -1
    cdef int campaign(self, uint8_t how, uint64_t now_us) except -1     # PRE, FORCED or 0
    cdef int count_votes(self, uint64_t now_us) except -1
    cdef int announce(self, bint again) except -1
    cdef int remember(self, uint64_t index) except -1
    cdef int end_doubt(self) except -1
    cdef int save_again(self) except -1
    cdef int on_vote(self, const Message *m, uint64_t now_us) except -1
    cdef int on_voted(self, const Message *m, uint64_t now_us) except -1
    cdef int on_timeout_now(self, const Message *m, uint64_t now_us) except -1
    cdef int take_back(self, uint64_t now_us) except -1
    cdef int on_append(self, const Message *m, uint64_t now_us) except -1
    cdef int accept(self, const Message *m) except -1
    cdef int matches(self, const Message *m, Message *reply) except -1
    cdef int hand_over(self) except -1
    cdef int send(self, const Message *m, bint after_save) except -1
    cdef int release(self) except -1
