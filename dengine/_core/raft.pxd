# Consensus as a function of its inputs: messages and time in, Ready out.
#
# raft knows indexes, terms, sizes, configurations and the time it is told; it knows no bytes of entries, no
# clock, no I/O and no logging; randomness comes from the seed it is given. The same class runs in production
# and in the simulator. Figures in brackets are sections of Ongaro's dissertation.
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
    MARKED = 4                  # MSG_VOTED: the voter is in doubt (a later issue counts these apart)
    REJECTED = 8                # MSG_HEARD: prev did not match; index, index_term say where to go on
    DIVERGED = 16               # MSG_HEARD: equal (index, term), other crc

ctypedef struct Run:            # consecutive entries of one term
    uint64_t term
    uint64_t count

ctypedef struct Message:
    uint8_t kind
    uint8_t flags
    uint64_t peer               # in: who sent it; out: whom it is for
    uint64_t term
    uint64_t index              # VOTE: last index · APPEND: prev · HEARD: prev + count matched, or hint · DURABLE
    uint64_t index_term         # VOTE: last term · APPEND: prev's · HEARD rejected: the conflicting term
    uint64_t count              # APPEND: entries after prev
    uint64_t size               # APPEND: bytes of the entries
    uint64_t commit             # APPEND: the leader's
    uint64_t round              # APPEND, HEARD
    const Run *runs             # APPEND in: the terms of its entries
    uint32_t run_count

ctypedef struct Progress:       # what the leader knows of one peer
    uint64_t match              # highest index known durable there
    uint64_t next               # first index not sent yet
    uint64_t heard              # newest round it echoed
    uint64_t heard_us           # when
    uint64_t refetch            # first index of a range being read from disk for it; 0: none
    uint32_t frames             # append frames in flight
    uint64_t bytes
    uint64_t frame_last[WINDOW_FRAMES]
    uint32_t frame_bytes[WINDOW_FRAMES]
    uint32_t frame_first        # oldest of the ring
    bint probing                # one append at a time until prev is known to match
    bint up                     # the connection

ctypedef struct Grant:          # a read that may be answered once `index` is applied
    uint64_t ticket
    uint64_t index

ctypedef struct Waiting:        # a read that waits for a round
    uint64_t ticket
    uint64_t index
    uint64_t round

ctypedef struct Options:
    uint64_t id
    uint64_t seed
    uint64_t heartbeat_us
    uint64_t promise_us         # election_timeout_min
    uint64_t timeout_us         # election_timeout_max
    uint64_t lease_us


cdef class Raft:
    cdef Options opt
    cdef readonly uint64_t term
    cdef readonly uint64_t vote             # 0: none in this term
    cdef readonly uint64_t leader           # 0: unknown
    cdef readonly uint8_t role
    cdef readonly uint64_t last             # last index accepted
    cdef readonly uint64_t commit
    cdef readonly uint64_t durable          # own log, up to where it counts
    cdef readonly uint64_t version          # of the hard state; saved counts those on disk
    cdef readonly uint64_t saved
    cdef readonly uint64_t noop             # index of this term's no-op while leading
    cdef readonly uint64_t lease_until_us   # while leading
    cdef readonly bint stalled              # the disk does not keep up: neither lead nor campaign
    cdef readonly bint diverged             # a leader told of another crc at an equal (index, term)
    cdef readonly bint transferring
    cdef Terms terms                        # of the whole log
    cdef Config config                      # the newest in the log
    cdef bint formed                        # the log holds a configuration
    cdef Progress peers[MAX_MEMBERS]        # by slot of config
    cdef uint64_t self_match

    # Ready: what the turn must do, taken and cleared by `taken`.
    cdef bint save                          # write (version, term, vote)
    cdef Message *out
    cdef int out_count
    cdef int out_capacity
    cdef Grant *grants
    cdef int grant_count
    cdef int grant_capacity
    cdef bint role_changed
    # Step of an append, acted on by the turn at once, before the next step:
    cdef uint64_t cut_to                    # keep entries up to here; UINT64_MAX: no cut
    cdef uint64_t append_from               # first index of the message to append; 0: none
