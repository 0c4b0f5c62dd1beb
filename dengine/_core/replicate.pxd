# The leader's side of consensus: what is sent to whom, what a quorum has, which reads may go.
#
# Replication holds what a node knows of its log and its peers; raft.pxd adds who leads. It knows
# no bytes of entries, no clock and no I/O.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from dengine._core.consensus cimport Message, Options
from dengine._core.quorum cimport Config
from dengine._core.terms cimport Terms
from dengine._core.types cimport MAX_MEMBERS, WINDOW_FRAMES

cdef enum:
    # rounds whose sending time is remembered; older ones extend no lease
    ROUNDS = 4096

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
    bint compacted              # its next entries are in no log any more: it needs a snapshot
    bint diverged               # it holds another crc at an equal (index, term)
    bint packed                 # its disk took no entries: none are sent until it has room

ctypedef struct Grant:          # a read that may be answered once `index` is applied
    uint64_t ticket
    uint64_t index

ctypedef struct Waiting:        # a read that waits for `round`; 0: for the no-op of the term
    uint64_t ticket
    uint64_t index
    uint64_t round


cdef class Replication:
    cdef Options opt
    cdef readonly uint64_t term
    cdef uint8_t role
    cdef readonly uint64_t last             # last index accepted
    cdef readonly uint64_t commit
    cdef uint64_t durable                   # own log, as far as it counts
    # another crc at an equal (index, term): acknowledges nothing, does not lead
    cdef readonly bint diverged
    # this node's disk has no room beyond a reserve; and not even for the no-op of a term
    cdef bint full
    cdef bint cramped
    cdef bint packed                        # full, and entries were left out: the leader is told
    cdef uint32_t full_slots                # members that said so, this node among them
    cdef Terms terms                        # of the whole log
    # the newest in the log, or the one that forms the cluster
    cdef Config config

    # leading
    cdef uint64_t noop                      # index of this term's no-op
    cdef uint64_t lease_until_us            # LeaseRead is answered before this time
    cdef readonly uint64_t round            # newest round sent
    cdef readonly uint64_t confirmed        # newest round that a quorum echoed
    cdef uint64_t confirmed_us              # when that one was sent
    cdef uint64_t heartbeat_due_us
    cdef bint round_due                     # the next Ready starts a round
    cdef uint64_t round_us[ROUNDS]
    cdef Progress peers[MAX_MEMBERS]        # by slot of config
    cdef Waiting *waiting                   # ascending rounds
    cdef size_t waiting_count
    cdef size_t waiting_capacity
    cdef readonly uint64_t transferee       # who is to lead next: nothing is proposed; 0: no one
    cdef uint64_t transfer_until_us         # then the transfer has failed
    # its lease is given up for the rest of the term: no confirmed round brings it back
    cdef readonly bint given

    # Ready: what the turn must do. `taken` clears it.
    cdef bint begin                         # append the no-op of the term, then call begun()
    cdef Grant *grants
    cdef size_t grant_count
    cdef size_t grant_capacity

    # Inputs
    cdef int propose(self, uint64_t n) except -1            # n entries of this term; leading only
    cdef int begun(self, uint64_t n) except -1              # n entries, the last is the no-op
    cdef int read(self, uint64_t ticket, bint lease, uint64_t now_us) except -1
    cdef void want(self, int slot, uint64_t index) noexcept
    cdef int compact(self, uint64_t to) except -1           # entries up to `to` left the log
    # What the disk has room for: a reserve at most; not even the no-op of a term.
    cdef int has_room(self, bint full, bint cramped) except -1

    # Outputs, besides Ready
    # once per Ready, before the appends are taken
    cdef int start_round(self, uint64_t now_us) noexcept
    # The next append for a peer: False when nothing is due. count: entries there are after prev.
    cdef bint next_append(self, int slot, Message *m) noexcept
    cdef void sent(self, int slot, uint64_t count, uint64_t size) noexcept
    cdef bint leads(self, uint64_t now_us) noexcept         # under a lease, its no-op committed
    # Its no-op committed, in contact with a quorum, and no transfer under way.
    cdef bint takes_writes(self, uint64_t now_us) noexcept
    cdef uint64_t successor(self) noexcept              # whom a transfer had best go to; 0: none
    # The disks of a majority, or this one, have no room: nothing new is proposed.
    cdef bint no_space(self) noexcept

    # for raft
    cdef void reseat(self, const Config *config) noexcept       # it acts from now on
    cdef void start_leading(self, uint64_t now_us) noexcept
    cdef void stop_leading(self) noexcept
    # `diverged` afterwards: a majority says that this log is the odd one
    cdef int on_heard(self, const Message *m, int slot, uint64_t now_us) except -1
    cdef int on_durable(self, const Message *m, int slot, uint64_t now_us) except -1
    cdef int advance(self, uint64_t now_us) except -1
    cdef void mark_due(self) noexcept
    cdef void rewind(self, Progress *p) noexcept
    cdef bint conflicts(self, const Message *m) noexcept        # this log ends otherwise than m's
    cdef bint may_go(self) noexcept                             # the successor has everything

    # private
    cdef void forget(self, int slot) noexcept                   # another directory may answer there
    cdef int confirm(self, uint64_t now_us) except -1
    cdef bint outdoes(self, int a, int b) noexcept
    cdef void on_diverged(self, Progress *p) noexcept
    cdef void note_room(self, const Message *m, int slot) noexcept
    cdef bint roomy(self) noexcept          # a voter that has everything has room
    cdef bint sendable(self, int slot) noexcept
    cdef int open_reads(self) except -1
    cdef int grant(self, uint64_t ticket, uint64_t index) except -1
    cdef int wait(self, uint64_t ticket, uint64_t index, uint64_t round) except -1
