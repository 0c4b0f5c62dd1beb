# Consensus as a function of its inputs: messages and time in, Ready out.
#
# raft knows indexes, terms, sizes, configurations and the time it is told; it knows no bytes of
# entries, no clock, no I/O and no logging; randomness comes from the seed it is given. The same
# class runs in production and in the simulator. Figures in brackets are sections of Ongaro's
# dissertation.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from dengine._core.codec cimport Members
from dengine._core.quorum cimport Config
from dengine._core.terms cimport Terms
from dengine._core.types cimport MAX_MEMBERS, RUNS, WINDOW_FRAMES

cdef enum Role:
    FOLLOWER = 0
    PRECANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3

cdef enum MessageKind:          # the same numbers as on the wire
    MSG_VOTE = 2
    MSG_VOTED = 3
    MSG_APPEND = 4
    MSG_HEARD = 5
    MSG_DURABLE = 6

cdef enum MessageFlags:
    PRE = 1                     # MSG_VOTE, MSG_VOTED: a pre-vote, changes no term [9.6]
    GRANTED = 2                 # MSG_VOTED
    # MSG_VOTED: the voter is in doubt (a later issue counts these apart)
    MARKED = 4
    # MSG_HEARD: prev did not match; index, index_term say where to go on
    REJECTED = 8
    DIVERGED = 16               # MSG_HEARD: equal (index, term), other crc

ctypedef struct Run:            # consecutive entries of one term
    uint64_t term
    uint64_t count

ctypedef struct Message:
    uint8_t kind
    uint8_t flags
    uint64_t peer               # in: who sent it; out: whom it is for
    uint64_t term
    # VOTE: last index · APPEND: prev · HEARD: prev + count matched, or hint · DURABLE
    uint64_t index
    # VOTE: last term · APPEND: prev's · HEARD rejected: the conflicting term
    uint64_t index_term
    uint64_t count              # APPEND: entries after prev
    uint64_t size               # APPEND: bytes of the entries
    uint64_t commit             # APPEND: the leader's
    uint64_t round              # APPEND, HEARD
    const Run *runs             # APPEND in: the terms of its entries
    uint32_t run_count

ctypedef struct Progress:       # what the leader knows of one peer, by slot
    uint64_t match              # highest index known durable there
    uint64_t next               # first index not sent yet
    uint64_t heard              # newest round it echoed
    uint64_t told               # commit index it was last sent
    # tell it at once when this index is committed; 0: with the next append
    uint64_t want
    uint64_t backoff            # rejections of older rounds than this are stale
    uint64_t bytes              # in flight
    uint64_t frame_last[WINDOW_FRAMES]
    uint32_t frame_bytes[WINDOW_FRAMES]
    uint32_t frame_first        # oldest of the ring
    uint32_t frames             # in flight
    bint probing                # one append at a time until prev is known to match
    bint up                     # the connection
    bint due                    # must be sent something in this Ready, if only an empty append
    bint fetching               # its next entries are being read from disk
    bint diverged               # it holds another crc at an equal (index, term)

ctypedef struct Grant:          # a read that may be answered once `index` is applied
    uint64_t ticket
    uint64_t index

ctypedef struct Waiting:        # a read that waits for `round`; 0: for the no-op of the term
    uint64_t ticket
    uint64_t index
    uint64_t round

ctypedef struct Held:           # a message that waits until `version` of the hard state is saved
    Message message
    uint64_t version

ctypedef struct Options:
    uint64_t id
    uint64_t seed
    uint64_t heartbeat_us
    uint64_t promise_us         # election_timeout_min: belongs to the cluster
    uint64_t timeout_us         # election_timeout_max
    uint64_t lease_us

cdef enum:
    # rounds whose sending time is remembered; older ones extend no lease
    ROUNDS = 4096
    RANK_US = 20000             # between two pre-votes of neighbouring ranks after a lost leader
    NO_CUT = 0xFFFFFFFFFFFFFFFF
    # an election each millisecond for 8,000 years; above it a frame is rubbish
    TERM_MAX = 0x1000000000000


cdef class Raft:
    cdef Options opt
    cdef readonly uint64_t term
    cdef readonly uint64_t vote             # 0: none in this term
    cdef readonly uint64_t leader           # 0: unknown
    cdef readonly uint8_t role
    cdef readonly uint64_t last             # last index accepted
    cdef readonly uint64_t commit
    cdef readonly uint64_t durable          # own log, as far as it counts
    cdef readonly uint64_t version          # of the hard state
    cdef readonly uint64_t saved            # newest version on disk
    cdef readonly uint64_t noop             # leading: index of this term's no-op
    cdef readonly uint64_t lease_until_us   # leading: LeaseRead is answered before this time
    cdef readonly uint64_t round            # leading: newest round sent
    cdef readonly uint64_t confirmed        # leading: newest round that a quorum echoed
    cdef readonly uint64_t promise_until_us
    cdef readonly uint64_t verified         # following: log matches the leader's up to here
    cdef readonly uint64_t elections        # counters
    cdef readonly uint64_t steps_down
    cdef public bint stalled                # the disk does not keep up: neither lead nor campaign
    # another crc at an equal (index, term): acknowledges nothing
    cdef readonly bint diverged
    cdef Terms terms                        # of the whole log
    # the newest in the log, or the one that forms the cluster
    cdef Config config
    cdef readonly bint formed               # the log holds a configuration
    cdef Progress peers[MAX_MEMBERS]        # by slot of config

    # Ready: what the turn must do. `taken` clears it.
    cdef bint save                          # write (version, term, vote); the turn clears it
    cdef bint begin                         # append the no-op of the term, then call begun()
    cdef Message *out
    cdef int out_count
    cdef Grant *grants
    cdef int grant_count
    # Step of an append, acted on by the turn at once, before the next step:
    cdef uint64_t cut_to                    # keep entries up to here; NO_CUT
    cdef uint64_t append_from               # first index of the message to append; 0: none

    # private
    cdef uint64_t random
    cdef uint64_t heartbeat_due_us
    cdef uint64_t election_due_us
    cdef uint64_t confirmed_us              # when the confirmed round was sent
    cdef uint64_t announced                 # following: durable index last told
    cdef uint64_t vote_version              # candidate: its own vote counts when this is saved
    cdef uint32_t votes                     # slots that granted
    cdef uint64_t leader_lost               # the leader whose connection was reset, else 0
    cdef bint round_due                     # the next Ready starts a round
    cdef uint64_t round_us[ROUNDS]
    cdef Held *held
    cdef int held_count
    cdef int held_capacity
    cdef int out_capacity
    cdef int grant_capacity
    cdef Waiting *waiting                   # ascending rounds
    cdef int waiting_count
    cdef int waiting_capacity

    # Life
    cdef int open(self, const Options *opt, Terms terms, uint64_t term, uint64_t vote, uint64_t commit,
                  uint64_t now_us) except -1
    cdef int adopt(self, const Config *config, bint formed, uint64_t now_us) except -1

    # Inputs
    cdef int tick(self, uint64_t now_us) except -1
    cdef int step(self, const Message *m, uint64_t now_us) except -1
    cdef int propose(self, uint64_t n) except -1            # n entries of this term; leading only
    cdef int begun(self, uint64_t n) except -1              # n entries, the last is the no-op
    cdef int read(self, uint64_t ticket, bint lease, uint64_t now_us) except -1
    cdef int persisted(self, uint64_t version, uint64_t term, uint64_t index, uint64_t now_us) except -1
    cdef int link_up(self, uint64_t peer, uint64_t now_us) except -1
    cdef int link_down(self, uint64_t peer, uint64_t now_us) except -1
    cdef void want(self, int slot, uint64_t index) noexcept

    # Outputs, besides Ready
    # once per Ready, before the appends are taken
    cdef int start_round(self, uint64_t now_us) noexcept
    # The next append for a peer: False when nothing is due. count: entries there are after prev.
    cdef bint next_append(self, int slot, Message *m) noexcept
    cdef void sent(self, int slot, uint64_t count, uint64_t size) noexcept
    cdef void taken(self) noexcept
    cdef bint leads(self, uint64_t now_us) noexcept         # under a lease, its no-op committed

    # private
    cdef uint64_t draw(self, uint64_t below) noexcept
    cdef void reset_election(self, uint64_t now_us) noexcept
    cdef int follow(self, uint64_t term, uint64_t leader, uint64_t now_us) except -1
    cdef int campaign(self, bint pre, uint64_t now_us) except -1
    cdef int count_votes(self, uint64_t now_us) except -1
    cdef int lead(self, uint64_t now_us) except -1
    cdef int advance(self, uint64_t now_us) except -1
    cdef int confirm(self, uint64_t now_us) except -1
    cdef int announce(self, bint again) except -1
    cdef int on_vote(self, const Message *m, uint64_t now_us) except -1
    cdef int on_voted(self, const Message *m, uint64_t now_us) except -1
    cdef int on_append(self, const Message *m, uint64_t now_us) except -1
    cdef int accept(self, const Message *m) except -1
    cdef int on_heard(self, const Message *m, int slot, uint64_t now_us) except -1
    cdef int on_durable(self, const Message *m, int slot, uint64_t now_us) except -1
    cdef int on_diverged(self, Progress *p, uint64_t now_us) except -1
    cdef int matches(self, const Message *m, Message *reply) except -1
    cdef int send(self, const Message *m, bint after_save) except -1
    cdef bint sendable(self, int slot) noexcept
    cdef void rewind(self, Progress *p) noexcept
    cdef void mark_due(self) noexcept
    cdef int open_reads(self) except -1
    cdef int release(self) except -1
    cdef int grant(self, uint64_t ticket, uint64_t index) except -1
    cdef int wait(self, uint64_t ticket, uint64_t index, uint64_t round) except -1
