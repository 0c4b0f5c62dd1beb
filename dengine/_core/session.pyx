"""Sessions: the writes of this node under way, and the registered sessions of all nodes.

It decides what is applied, once, and who is told. It knows no log and no roles.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from dengine._core.codec cimport stamp
from dengine._core.fault cimport MUTANT
from dengine._core.members cimport members_decode, slot_in
from dengine._core.memory cimport grown
from dengine._core.tree cimport item_drop, item_hold
from dengine._core.types cimport NOT_PROPOSED, unlikely

from dengine.errors import InvariantError

cdef enum:
    IN_FLIGHT_BYTES = 32 << 20  # of commands of one node: bounds the logs' unacknowledged tail


cdef class Results:
    def __cinit__(self):
        self.items = NULL
        self.count = 0
        self.capacity = 0

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.count):
            Py_DECREF(<object>self.items[i].waiter)
            if self.items[i].item != NULL:
                item_drop(self.items[i].item)
        free(self.items)

    cdef int add(self, PyObject *waiter, int status, uint64_t revision,
                 const Item *item) except -1:
        if unlikely(self.count == self.capacity):
            self.items = <Result *>grown(self.items, self.count + 1, &self.capacity,
                                         sizeof(Result), 256)
        cdef Result *r = &self.items[self.count]
        r.waiter = waiter
        r.status = status
        r.revision = revision
        r.item = <Item *>item
        if item != NULL:
            item_hold(r.item)
        self.count += 1
        return 0

    cdef int add_waiter(self, Waiter waiter, int status) except -1:
        Py_INCREF(waiter)
        return self.add(<PyObject *>waiter, status, 0, NULL)

    cdef size_t deliver(self) except? 0:
        """Tells every waiter. What they start meanwhile finds an empty batch."""
        cdef Result *items = self.items
        cdef size_t i, n = self.count, capacity = self.capacity
        cdef object failed = None
        if n == 0:
            return 0
        self.items = NULL
        self.count = 0
        self.capacity = 0
        for i in range(n):
            try:
                (<Waiter>items[i].waiter).done(items[i].status, items[i].revision, items[i].item)
            except BaseException as error:
                failed = error
            Py_DECREF(<object>items[i].waiter)
            if items[i].item != NULL:
                item_drop(items[i].item)
        if self.items == NULL:                  # keep the array for the next batch
            self.items = items
            self.capacity = capacity
        else:
            free(items)
        if failed is not None:
            raise failed
        return n


cdef class Session:
    def __cinit__(self, uint64_t node, uint64_t incarnation, uint64_t nonce, uint64_t after,
                  bint alone):
        self.node = node
        self.incarnation = incarnation
        self.nonce = nonce
        self.after = after
        self.ready = alone
        self.next = 1
        self.floor = 1
        self.unsent = 1
        self.table_count = 0
        self.clock_ms = 0
        self.idempotency = Idempotency()
        memset(self.table, 0, sizeof(self.table))
        memset(self.pending, 0, sizeof(self.pending))

    def __dealloc__(self):
        cdef uint64_t i
        for i in range(<uint64_t>PENDING):
            if self.pending[i] != NULL:
                Py_DECREF(<object>self.pending[i])
        for i in range(<uint64_t>MAX_MEMBERS):
            free(self.table[i].results)

    cdef bint has_room(self) noexcept:
        return self.next - self.floor < PENDING and self.bytes < IN_FLIGHT_BYTES

    cdef int assign(self, Waiter waiter) except -1:
        if unlikely(not self.has_room() or waiter.command is None):
            raise InvariantError("a write without room, or a waiter without a command")
        waiter.sequence = self.next
        stamp(PyBytes_AS_STRING(waiter.command), self.id, waiter.sequence, self.floor)
        Py_INCREF(waiter)
        self.pending[self.next % PENDING] = <PyObject *>waiter
        self.bytes += PyBytes_GET_SIZE(waiter.command)
        self.next += 1
        self.unsent = self.next
        waiter.sent = True
        return 0

    cdef PyObject *waiting(self, uint64_t sequence) noexcept:
        if sequence < self.floor or sequence >= self.next:
            return NULL
        return self.pending[sequence % PENDING]

    cdef PyObject *withdraw(self, uint64_t sequence) noexcept:
        cdef PyObject *waiter = self.waiting(sequence)
        if waiter == NULL:
            return NULL
        self.pending[sequence % PENDING] = NULL
        self.bytes -= PyBytes_GET_SIZE((<Waiter>waiter).command)
        while self.floor < self.next and self.pending[self.floor % PENDING] == NULL:
            self.floor += 1
        return waiter

    cdef bint has_unsent(self) noexcept:
        if self.unsent < self.floor:
            self.unsent = self.floor
        while self.unsent < self.next and self.pending[self.unsent % PENDING] == NULL:
            self.unsent += 1
        return self.unsent < self.next

    cdef Waiter next_unsent(self):
        cdef Waiter waiter = <Waiter>self.pending[self.unsent % PENDING]
        self.unsent += 1
        waiter.doubtful |= waiter.sent and not MUTANT(143)
        waiter.sent = True
        return waiter

    cdef PyObject *refused(self, uint64_t sequence, bint no_room) noexcept:
        cdef PyObject *waiter = self.waiting(sequence)
        if waiter == NULL:
            return NULL
        (<Waiter>waiter).sent = False
        if no_room and not (<Waiter>waiter).doubtful:
            return self.withdraw(sequence)
        if sequence < self.unsent:
            self.unsent = sequence
        return NULL

    cdef PyObject *resolve(self, uint64_t session, uint64_t sequence, uint64_t index) noexcept:
        if (session != self.id and not MUTANT(84)) or (index <= self.after and not MUTANT(51)):
            return NULL
        return self.withdraw(sequence)

    cdef int reconfigure(self, const char *payload, size_t n) except -1:
        cdef Registered ended
        cdef int i = 0
        memset(&self.members, 0, sizeof(self.members))
        if members_decode(payload, n, &self.members):
            raise InvariantError("an entry of the log holds no configuration of this version")
        while i < self.table_count:
            if self.is_member(self.table[i].node, self.table[i].incarnation) or MUTANT(159):
                i += 1
                continue
            ended = self.table[i]               # its ring goes to whoever comes next
            self.table_count -= 1
            self.table[i] = self.table[self.table_count]
            self.table[self.table_count] = ended
            if self.is_own(&ended):
                self.end()
        return 0

    cdef bint is_own(self, const Registered *r) noexcept:
        return (r.node == self.node and r.incarnation == self.incarnation
                and r.nonce == self.nonce)

    cdef int end(self) noexcept:
        """What is under way stays unknown; the next write needs another session."""
        if not MUTANT(167):
            self.ready = False
            self.id = 0
        return 0

    cdef bint is_member(self, uint64_t node, uint64_t incarnation) noexcept:
        cdef int slot = slot_in(&self.members, node)
        return slot >= 0 and self.members.incarnation[slot] == incarnation

    cdef int register(self, const Command *c, uint64_t index) except -1:
        cdef Registered *r = NULL
        cdef int i
        if not self.is_member(c.node, c.incarnation) and not MUTANT(160):
            return 0                            # it was removed since it asked
        for i in range(self.table_count):
            if self.table[i].node == c.node:
                r = &self.table[i]
        if r == NULL:
            r = self.add()
            r.nonce = r.incarnation = 0         # the ring's last owner is gone
        if r.node == c.node and (r.nonce == c.nonce or MUTANT(50)) and (
                r.incarnation == c.incarnation and not MUTANT(85)):
            return 0                            # a repeat changes nothing
        r.node = c.node
        r.incarnation = c.incarnation
        r.nonce = c.nonce
        r.id = index
        r.floor = 1
        memset(r.results, 0, PENDING * sizeof(Applied))
        if c.node == self.node and c.incarnation == self.incarnation and (
                c.nonce == self.nonce or MUTANT(89)):
            self.id = index
            self.ready = True
        return 0

    cdef Registered *add(self) except NULL:
        cdef Registered *r = &self.table[self.table_count]
        if self.table_count == MAX_MEMBERS:
            raise InvariantError("a session of one node too many")
        if r.results == NULL:
            r.results = <Applied *>calloc(PENDING, sizeof(Applied))
        if r.results == NULL:
            raise MemoryError
        self.table_count += 1
        return r

    cdef Applied *admit(self, const Command *c) noexcept:
        cdef Registered *r
        cdef Applied *a
        cdef int i
        for i in range(self.table_count):
            r = &self.table[i]
            if r.id == c.session:
                if c.floor > r.floor:
                    r.floor = c.floor
                a = &r.results[c.sequence % PENDING]
                if (a.sequence == c.sequence and not MUTANT(138)) or (
                        c.sequence < r.floor and not MUTANT(139)):
                    return NULL
                a.sequence = c.sequence
                return a
        return NULL

    cdef int recognise(self, Results to) except -1:
        cdef Registered *r
        cdef Applied *a
        cdef PyObject *waiter
        cdef uint64_t sequence
        cdef int i
        self.end()
        for i in range(self.table_count):
            r = &self.table[i]
            if self.is_own(r):
                self.id = r.id
                self.ready = True
                for sequence in range(self.floor, self.next):
                    a = &r.results[sequence % PENDING]
                    if a.sequence == sequence and not MUTANT(140):
                        waiter = self.withdraw(sequence)
                        if waiter != NULL:
                            to.add(waiter, a.status, a.revision, NULL)
        return 0

    cdef int expire(self, uint64_t now_us, int status, Results to) except -1:
        """Waiters past their deadline are told; now_us = UINT64_MAX tells all."""
        cdef uint64_t sequence = self.floor, end = self.next
        cdef PyObject *waiter
        cdef bint sure
        while sequence < end:
            waiter = self.pending[sequence % PENDING]
            if waiter != NULL and (<Waiter>waiter).deadline_us <= now_us:
                sure = not (<Waiter>waiter).sent and not (<Waiter>waiter).doubtful
                to.add(waiter, NOT_PROPOSED if sure else status, 0, NULL)
                self.withdraw(sequence)
            sequence += 1
        return 0
