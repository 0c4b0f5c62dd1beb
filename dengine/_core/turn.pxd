# The one Ready loop: all inputs in, one batch out.
#
# The turn owns the core of one node and drives it: inputs (requests, frames, finished jobs, time)
# are stepped, Ready is taken, frames are sent with one write per peer, the log is written, what is
# committed is applied, results are told. It decides order; raft decides what, log decides where.
# Everything here runs under the GIL.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from dengine._core.apply cimport Machine
from dengine._core.codec cimport Members
from dengine._core.consensus cimport Message
from dengine._core.flush cimport Worker
from dengine._core.kv cimport KV
from dengine._core.log cimport Log
from dengine._core.meta cimport Meta
from dengine._core.quorum cimport Config
from dengine._core.raft cimport Raft
from dengine._core.reads cimport Reads
from dengine._core.replicate cimport Grant
from dengine._core.session cimport Results, Session
from dengine._core.types cimport MAX_MEMBERS, Io, Job, Link, Waiter
from dengine._core.wire cimport Outbox

ctypedef struct Peer:           # one connection, by slot of the configuration
    bint up
    uint64_t incarnation        # as its hello said
    uint64_t last               # its last index then: 0, an empty log
    uint64_t number             # grows with each connection
    uint64_t heard_us           # newest frame from it

cdef enum:
    ASK_AGAIN_US = 10000        # after a refusal; a leader that is gone is not asked in a loop

# a ticket of raft's: u8 slot, u16 number of the connection, u40 the asker's own
cdef enum:
    TICKET_BITS = 40
    NUMBER_MASK = 0xFFFF
    SLOT_SHIFT = 56
    LOCAL_SLOT = 0xFF           # asked on this node

cdef struct Fetch:              # entries that are being read from disk for a peer
    int slot
    uint64_t number             # of the connection
    uint64_t term
    uint64_t prev
    uint64_t count
    char *bytes


cdef class Turn:
    cdef const Io *io
    cdef readonly KV kv
    cdef readonly Log log
    cdef readonly Meta meta
    cdef readonly Raft raft
    cdef readonly Session session
    cdef readonly Machine machine
    cdef readonly Reads reads
    cdef Worker flusher
    cdef Worker preparer
    cdef Results results
    cdef Members members                    # as the log has them, or as the cluster will be formed
    cdef readonly bint alone                # one voter, this node
    cdef uint32_t promise_ms
    cdef Peer peers[MAX_MEMBERS]
    cdef list links                         # Link or None, by slot
    cdef list boxes                         # Outbox, by slot
    cdef list inbox                         # of Waiters, appended to by any thread
    cdef list backlog                       # writes that wait for a leader, a session or room
    cdef size_t backlog_at
    cdef readonly size_t backlog_bytes      # of its commands
    cdef readonly size_t waiting_writes     # limits: of the backlog, its bytes, and waiting reads
    cdef readonly size_t waiting_bytes
    cdef readonly size_t waiting_reads
    cdef uint64_t register_due_us
    cdef uint64_t ask_again_us              # the leader refused: it is not asked before
    cdef uint64_t expire_due_us
    cdef uint64_t last_us                   # when the previous turn ran
    cdef uint64_t meta_version              # newest hard state submitted
    cdef bint in_turn
    cdef bint scheduled
    cdef int skip_ticks                     # after a pause: turns until the inputs were read
    cdef public object loop                 # asyncio loop that runs the turn; None: the caller does
    cdef unsigned long thread               # of that loop
    cdef public object on_results           # called once after each batch of results; or None
    # called with the exception that stopped the node; or None
    cdef public object on_fatal
    cdef public object on_role              # called when role, term or leader changed; or None
    cdef readonly object failed             # that exception
    cdef readonly list notes                # what recovery cut and why
    cdef uint64_t seen_term, seen_leader
    cdef uint8_t seen_role
    cdef readonly uint64_t turns            # counters
    cdef readonly uint64_t longest_us
    cdef readonly uint64_t forwarded

    # Requests
    # -------------------------------------------------------------------------------------------------
    # Takes one request, from any thread under the GIL, and schedules a turn. `waiter.done` is
    # called later, exactly once, never inside submit.
    cdef int submit(self, Waiter waiter) except -1
    # May a value that was just copied from kv be given out under this policy? EVENTUAL: always.
    # LEASE: this node leads, its no-op is committed, all that is committed is applied and the
    # lease holds now. LINEARIZABLE: only with one voter. False: submit the read.
    cdef bint may_read(self, uint8_t policy) noexcept

    # The loop
    # -------------------------------------------------------------------------------------------------
    cpdef int run(self) except -1
    cpdef int wake(self) except -1          # what schedule put into the loop
    cdef int schedule(self) except -1
    cdef int reap(self, uint64_t now_us) except -1
    cdef int tick(self, uint64_t now_us) except -1
    cdef int take_inbox(self, uint64_t now_us) except -1
    cdef int propose_backlog(self, uint64_t now_us) except -1
    cdef bint may_propose(self, uint64_t now_us) noexcept
    cdef int leader_slot(self, uint64_t now_us) noexcept        # of a leader that is connected; -1
    cdef int propose(self, Waiter waiter) except -1
    cdef int forward_some(self, int slot, size_t n) except -1
    cdef uint64_t ticket(self, int slot, uint64_t own) noexcept
    cdef int give_grant(self, const Grant *g) except -1
    cdef int drain(self, int status) except -1
    cdef int slot_by_id(self, uint64_t node) noexcept
    cdef int register(self, uint64_t now_us) except -1
    cdef int ask_reads(self, uint64_t now_us) except -1
    cdef bint ready(self, uint64_t now_us) except -1
    cdef int begin_term(self) except -1
    cdef int save(self) except -1
    cdef int serve(self, int slot) except -1
    cdef int fetch(self, int slot, const Message *m) except -1
    cdef int fetched(self, const Job *job) except -1
    cdef int flush_links(self) except -1
    cdef int persisted(self, uint64_t now_us) except -1
    cdef bint apply(self) except -1
    cdef int stop(self, object error) except -1
    cdef int notice_role(self) except -1
