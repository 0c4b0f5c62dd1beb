"""Apply: what a committed entry does to the store, and whom it answers.

It knows commands and the store; it does not know how an entry was committed.
"""
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint64_t

from dengine._core.codec cimport (DELETE_IF, ENTRY_COMMAND, ENTRY_CONFIG, ENTRY_NOOP, ENTRY_TICK,
                                  EXISTS, PUT, PUT_IF, REGISTER, Record, command_decode,
                                  jump_decode, tick_decode)
from dengine._core.fault cimport MUTANT
from dengine._core.idempotency cimport Kept
from dengine._core.session cimport Applied
from dengine._core.types cimport (CONFLICT, KEYS_FULL, MISMATCH, MISSING, OK, RECORD_HEADER, Item,
                                  unlikely)

from dengine.errors import FormatError, InvariantError

cdef enum:
    DROPPED = 1000              # results that go with one tick at most: 10,000 a second


cdef class Machine:
    def __cinit__(self, KV kv not None, Session session not None):
        self.kv = kv
        self.session = session
        self.applied = 0

    cdef int apply(self, const char *record, Results to) except -1:
        cdef const Record *r = <const Record *>record
        cdef Command c
        cdef PyObject *waiter
        cdef Applied *result = NULL
        cdef uint64_t revision = 0
        cdef int status, fault
        if unlikely(r.index != self.applied + 1):
            raise InvariantError(f"entry {r.index} applied after {self.applied}")
        if r.kind == ENTRY_COMMAND:
            fault = command_decode(record + RECORD_HEADER, r.length - RECORD_HEADER, &c)
            if unlikely(fault == -2):
                raise FormatError(f"entry {r.index} holds a command of a newer version: this node "
                                  "stops and its data is untouched; upgrade it and start again")
            if unlikely(fault):
                raise InvariantError(f"entry {r.index} holds no command")
            if c.op == REGISTER:
                self.session.register(&c, r.index)
            elif c.session != 0 and (result := self.session.admit(&c)) == NULL:
                pass                            # a copy of one that was applied, or given up
            else:
                if unlikely(c.keyed):
                    status = self.execute_once(&c, &revision)
                else:
                    status = self.execute(&c, &revision)
                if result != NULL:
                    result.status = <uint8_t>status
                    result.revision = revision
                waiter = self.session.resolve(c.session, c.sequence, r.index)
                if waiter != NULL:
                    to.add(waiter, status, revision, NULL)
        elif unlikely(r.kind == ENTRY_NOOP and r.length > RECORD_HEADER):
            if jump_decode(record + RECORD_HEADER, r.length - RECORD_HEADER, &revision):
                raise InvariantError(f"entry {r.index} holds no jump of the revision")
            self.kv.revision += revision
        elif unlikely(r.kind == ENTRY_CONFIG):
            self.session.reconfigure(record + RECORD_HEADER, r.length - RECORD_HEADER)
        elif r.kind == ENTRY_TICK:
            self.tick(record + RECORD_HEADER, r.length - RECORD_HEADER, r.index)
        self.applied = r.index
        return 0

    cdef int tick(self, const char *payload, size_t n, uint64_t index) except -1:
        cdef Session s = self.session
        cdef uint64_t clock, horizon
        if tick_decode(payload, n, &clock, &horizon):
            raise InvariantError(f"entry {index} holds no time")
        s.clock_ms = max(s.clock_ms, clock)
        s.idempotency.horizon_ms = max(s.idempotency.horizon_ms, horizon)
        s.idempotency.drop(DROPPED)
        return 0

    cdef int execute_once(self, const Command *c, uint64_t *revision) except -1:
        """Under an Idempotency-Key: a copy is told what the first was told, and changes nothing."""
        cdef Idempotency known = self.session.idempotency
        cdef const Kept *before = known.find(c)
        cdef Kept k
        if before != NULL and not MUTANT(149):
            if before.print != c.print and not MUTANT(150):
                return MISMATCH
            revision[0] = before.revision
            return <int>before.status
        if not known.has_room():
            return KEYS_FULL
        k.status = self.execute(c, revision)
        k.key[0] = c.idempotency[0]
        k.key[1] = c.idempotency[1]
        k.print = c.print
        k.revision = revision[0]
        k.clock_ms = self.session.clock_ms
        known.add(&k)
        return <int>k.status

    cdef int execute(self, const Command *c, uint64_t *revision) except -1:
        cdef const Item *item
        cdef int status
        if c.op == PUT_IF or c.op == DELETE_IF:
            item = self.kv.get(c.key, c.key_size)
            if item == NULL if c.compare == EXISTS else (
                    (0 if item == NULL else item.mod_revision) != c.revision and not MUTANT(52)):
                revision[0] = 0 if item == NULL else item.mod_revision
                return CONFLICT
        if c.op == PUT or c.op == PUT_IF:
            self.kv.put(c.key, c.key_size, c.value, c.value_size, c.lease)
            revision[0] = self.kv.revision
            return OK
        status = OK if self.kv.delete(c.key, c.key_size) else MISSING
        revision[0] = self.kv.revision if status == OK or not MUTANT(86) else 0
        return status
