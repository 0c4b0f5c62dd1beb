# The words of consensus: roles, messages, what a node is told when it opens.
#
# Messages carry indexes, terms and sizes, never bytes of entries; wire.pxd has their bytes.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

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
    MSG_TIMEOUT_NOW = 16

cdef enum MessageFlags:
    PRE = 1                     # MSG_VOTE, MSG_VOTED: a pre-vote, changes no term [9.6]
    GRANTED = 2                 # MSG_VOTED
    MARKED = 4                  # MSG_VOTED: the voter is in doubt
    # MSG_HEARD: prev did not match; index, index_term say where to go on
    REJECTED = 8
    DIVERGED = 16               # MSG_HEARD: equal (index, term), other crc
    FULL = 32                   # MSG_HEARD: the disk has no room beyond a reserve
    PACKED = 64                 # MSG_HEARD: nor that; the entries of an append were left out
    # MSG_VOTE: the leader of the term before gave up its lease: promises to it do not bind [D 3.10]
    FORCED = 128

cdef enum:
    # an election each millisecond for 8,000 years; above it a frame is rubbish
    TERM_MAX = 0x1000000000000

ctypedef struct Run:            # consecutive entries of one term
    uint64_t term
    uint64_t count

ctypedef struct Message:
    uint8_t kind
    uint8_t flags
    uint64_t peer               # in: who sent it; out: whom it is for
    uint64_t term
    # VOTE, TIMEOUT_NOW: last index · APPEND: prev · HEARD: prev + count matched, or hint · DURABLE
    uint64_t index
    # VOTE, TIMEOUT_NOW: last term · APPEND: prev's · HEARD rejected: the conflicting term
    uint64_t index_term
    uint64_t count              # APPEND: entries after prev
    uint64_t commit             # APPEND: the leader's
    uint64_t last               # APPEND: the leader's last index when it was sent
    uint64_t round              # APPEND, HEARD
    const Run *runs             # APPEND in: the terms of its entries
    uint32_t run_count

cdef inline void message(Message *m, uint8_t kind, uint64_t peer, uint64_t term) noexcept:
    memset(m, 0, sizeof(Message))
    m.kind = kind
    m.peer = peer
    m.term = term

ctypedef struct Options:
    uint64_t id
    uint64_t seed
    uint64_t heartbeat_us
    uint64_t promise_us         # election_timeout_min: belongs to the cluster
    uint64_t timeout_us         # election_timeout_max
    uint64_t lease_us
    bint doubt                  # this node may have forgotten what it acknowledged
