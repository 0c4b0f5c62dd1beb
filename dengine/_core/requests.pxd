# What is asked of a node, until a leader has it: writes that wait to be proposed or forwarded,
# reads that wait for an index, the session that writes need.
#
# Requests holds the parts of one node; turn.pxd adds the loop that drives them. Who leads is
# decided by raft, which write is whose by session, which read may be answered by reads.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from dengine._core.apply cimport Machine
from dengine._core.kv cimport KV
from dengine._core.log cimport Log
from dengine._core.members cimport Members
from dengine._core.raft cimport Raft
from dengine._core.reads cimport Reads
from dengine._core.replicate cimport Grant
from dengine._core.session cimport Results, Session
from dengine._core.types cimport MAX_MEMBERS, Io, Waiter

ctypedef struct Peer:           # one connection, by slot of the configuration
    bint up
    uint64_t incarnation        # as its hello said
    uint64_t last               # its last index then: 0, an empty log
    uint64_t start              # likewise: of its directory, and by which process
    uint64_t nonce
    uint64_t config             # index of the newest configuration that names it, by its word
    bint dismissed              # it was told that it is no member
    uint64_t number             # grows with each connection
    uint64_t bulk_number        # likewise, of second ones

cdef enum:
    ASK_AGAIN_US = 10000        # after a refusal; a leader that is gone is not asked in a loop

# a ticket of raft's: u8 slot, u16 number of the connection, u40 the asker's own
cdef enum:
    TICKET_BITS = 40
    NUMBER_MASK = 0xFFFF
    SLOT_SHIFT = 56
    LOCAL_SLOT = 0xFF           # asked on this node


cdef class Requests:
    cdef const Io *io
    cdef readonly KV kv
    cdef Log log
    cdef readonly Raft raft
    cdef Session session
    cdef Machine machine
    cdef Reads reads
    cdef Results results
    cdef Members members                    # as the log has them, or as the cluster will be formed
    cdef readonly bint alone                # one voter, this node
    cdef Peer peers[MAX_MEMBERS]
    cdef list boxes                         # Outbox, by slot
    cdef list inbox                         # of Waiters, appended to by any thread
    cdef list backlog                       # writes that wait for a leader, a session or room
    cdef size_t backlog_at
    cdef size_t backlog_bytes               # of its commands
    cdef size_t waiting_writes              # limits: of the backlog, its bytes, and waiting reads
    cdef size_t waiting_bytes
    cdef size_t waiting_reads
    cdef uint64_t register_due_us
    cdef uint64_t sent_term                 # the leader that the session's writes were sent to
    cdef uint64_t sent_leader
    cdef uint64_t sent_link
    cdef uint64_t retention_ms              # of results under an Idempotency-Key
    cdef uint64_t clock_us                  # leading: time is told up to here; 0: it stands still
    cdef uint64_t told_ms                   # leading: the newest time that was told
    cdef uint64_t ask_again_us              # the leader refused: it is not asked before
    cdef uint64_t expire_due_us
    cdef readonly uint64_t forwarded        # counter

    # May a value that was just copied from kv be given out under this policy? EVENTUAL: always.
    # LEASE: this node leads, its no-op is committed, all that is committed is applied and the
    # lease holds now. LINEARIZABLE: only with one voter. False: submit the read.
    cdef bint may_read(self, uint8_t policy) noexcept

    # For the turn
    cdef int take_inbox(self, uint64_t now_us) except -1
    cdef int expire(self, uint64_t now_us) except -1            # whose deadline has passed is told
    cdef int tell_time(self, uint64_t now_us) except -1
    cdef int drain(self, int status) except -1                  # whoever waits is told
    cdef bint may_propose(self, uint64_t now_us) noexcept
    cdef uint64_t ticket(self, int slot, uint64_t own) noexcept
    cdef int give_grant(self, const Grant *g) except -1

    # private
    cdef int propose_backlog(self, uint64_t now_us) except -1
    cdef int leader_slot(self, uint64_t now_us) noexcept        # of a leader that is connected; -1
    cdef int refuse_backlog(self, int status) except -1
    cdef int send_again(self, uint64_t link) except -1
    cdef int number(self, Waiter waiter) except -1
    cdef int propose(self, Waiter waiter) except -1
    cdef int forward_some(self, int slot, size_t n) except -1
    cdef int register(self, uint64_t now_us) except -1
    cdef int ask_reads(self, uint64_t now_us) except -1
