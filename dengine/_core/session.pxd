# Which writes of this node are under way, and which sessions the cluster knows.
#
# A node process registers one session: (node, incarnation, nonce). Its writes carry (session,
# sequence, floor) and are resolved when this node applies them. What is not resolved is sent again
# to each new leader, and over each new connection to one: the replicated results of each session
# let the second copy change nothing (Ongaro's dissertation, 6.3). With one voter the session is 0
# and nothing is registered.
from libc.stdint cimport uint8_t, uint64_t

from cpython.ref cimport PyObject

from dengine._core.codec cimport Command
from dengine._core.idempotency cimport Idempotency
from dengine._core.members cimport Members
from dengine._core.types cimport MAX_MEMBERS, PENDING, Item, Waiter

ctypedef struct Result:
    PyObject *waiter            # one reference
    Item *item                  # one reference, or NULL
    uint64_t revision
    int status

ctypedef struct Applied:        # the result of a write
    uint64_t sequence           # 0: none
    uint64_t revision
    uint8_t status

ctypedef struct Registered:
    uint64_t node
    uint64_t incarnation
    uint64_t nonce
    uint64_t id                 # index of its first entry
    uint64_t floor              # nobody waits for a sequence below it
    Applied *results            # a ring of PENDING by sequence


cdef class Results:
    # What is told to waiters after the state has changed, in one batch.
    cdef Result *items
    cdef size_t count
    cdef size_t capacity

    # Takes over the reference to the waiter; holds the item.
    cdef int add(self, PyObject *waiter, int status, uint64_t revision, const Item *item) except -1
    cdef int add_waiter(self, Waiter waiter, int status) except -1      # takes its own reference
    cdef size_t deliver(self) except? 0


cdef class Session:
    cdef uint64_t node
    cdef uint64_t incarnation
    cdef uint64_t nonce
    cdef uint64_t id
    cdef bint ready                         # writes may be proposed
    # alone: entries up to this index are of an earlier process
    cdef uint64_t after
    cdef uint64_t next                      # next sequence
    cdef uint64_t floor                     # lowest sequence still waited for
    cdef uint64_t unsent                    # the leader of now has no write from here on
    cdef size_t bytes                       # of commands in flight
    cdef PyObject *pending[PENDING]         # by sequence: one reference each
    cdef Registered table[MAX_MEMBERS]      # replicated: the newest session of each node
    cdef int table_count
    cdef Members members                    # replicated: who may have one
    cdef uint64_t clock_ms                  # replicated: elapsed time of leaders
    cdef Idempotency idempotency            # replicated

    cdef bint has_room(self) noexcept
    # Stamps its command, keeps it: it is sent now.
    cdef int assign(self, Waiter waiter) except -1
    # The waiter of an applied command of this session, with its reference; NULL: nobody waits.
    cdef PyObject *resolve(self, uint64_t session, uint64_t sequence, uint64_t index) noexcept
    cdef PyObject *withdraw(self, uint64_t sequence) noexcept   # nobody waits for it any more
    cdef PyObject *waiting(self, uint64_t sequence) noexcept    # borrowed; NULL: nobody
    cdef bint has_unsent(self) noexcept
    # The oldest of these, which is sent now.
    cdef Waiter next_unsent(self)
    # A leader did not propose it. Its waiter, with its reference, if it has no room and no other
    # leader can have proposed it either; else it is sent again, and this is NULL.
    cdef PyObject *refused(self, uint64_t sequence, bint no_room) noexcept
    cdef int register(self, const Command *c, uint64_t index) except -1
    cdef int reconfigure(self, const char *payload, size_t n) except -1     # others' sessions end
    # Where the result of a write goes that is to be applied; NULL: it was, nobody waits for it, or
    # its session has ended.
    cdef Applied *admit(self, const Command *c) noexcept
    cdef Registered *add(self) except NULL                      # to the table
    cdef bint is_own(self, const Registered *r) noexcept        # of this process
    cdef int end(self) noexcept                                 # of this process's session
    # Whose results came with a snapshot are told; is this process's session in its table?
    cdef int recognise(self, Results to) except -1
    cdef bint is_member(self, uint64_t node, uint64_t incarnation) noexcept
    cdef int expire(self, uint64_t now_us, int status, Results to) except -1
