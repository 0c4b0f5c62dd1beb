"""A Turn without Raft or log: applies to a real KV, answers when it is told to.

It decides nothing: `hold` keeps requests until `release` or `fail`, else all that were submitted
in one iteration of the loop are answered together in the next.
"""
import asyncio

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset

from dengine._core.codec cimport DELETE, DELETE_IF, EXISTS, GET, PUT_IF, Command, command_decode
from dengine._core.kv cimport KV
from dengine._core.turn cimport Turn
from dengine._core.types cimport CONFLICT, EVENTUAL, MISSING, OK, Item, Waiter


cdef class FakeTurn(Turn):
    cdef public bint hold
    cdef public bint lease          # may a lease read be answered at once?
    cdef public int refuse_after    # may_read calls until one says no; -1: never
    cdef public object error        # raised by submit
    cdef list waiting
    cdef object loop
    cdef bint scheduled

    def __init__(self):
        self.kv = KV()
        self.loop = asyncio.get_running_loop()
        self.waiting = []
        self.refuse_after = -1

    cdef int submit(self, Waiter waiter) except -1:
        if self.error is not None:
            raise self.error
        self.waiting.append(waiter)
        if not self.hold and not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self.release)
        return 0

    cdef bint may_read(self, uint8_t policy) noexcept:
        if self.refuse_after == 0:
            return False
        if self.refuse_after > 0:
            self.refuse_after -= 1
        return policy == EVENTUAL or policy != 0 and self.lease

    @property
    def submitted(self) -> int:
        return len(self.waiting)

    @property
    def revision(self) -> int:
        return self.kv.revision

    def put(self, bytes key not None, bytes value not None):
        self.kv.put(key, <unsigned>len(key), value, <unsigned>len(value), 0)

    def release(self, object which=None):
        """Answers all that were submitted, or those at the given places, in that order."""
        cdef Waiter waiter
        cdef list waiters = self.waiting
        self.scheduled = False
        self.waiting = []
        if which is not None:
            self.waiting = [w for i, w in enumerate(waiters) if i not in which]
            waiters = [waiters[i] for i in which]
        for waiter in waiters:
            self.answer(waiter)

    def fail(self, int status, uint64_t revision=0):
        """Tells all that were submitted this Status; nothing is applied."""
        cdef Waiter waiter
        cdef list waiters = self.waiting
        self.waiting = []
        for waiter in waiters:
            waiter.done(status, revision, NULL)

    cdef int answer(self, Waiter waiter) except -1:
        cdef Command c
        cdef const Item *item
        if waiter.op == GET:
            item = self.kv.get(waiter.key, <unsigned>len(waiter.key))
            return waiter.done(MISSING if item == NULL else OK, self.kv.revision, item)
        memset(&c, 0, sizeof(c))
        if command_decode(waiter.command, len(waiter.command), &c):
            raise ValueError("not a command")
        item = self.kv.get(c.key, c.key_size)
        if c.op == PUT_IF or c.op == DELETE_IF:
            if (item == NULL if c.compare == EXISTS
                    else c.revision != (0 if item == NULL else item.mod_revision)):
                return waiter.done(CONFLICT, 0 if item == NULL else item.mod_revision, NULL)
        if c.op == DELETE or c.op == DELETE_IF:
            deleted = self.kv.delete(c.key, c.key_size)
            return waiter.done(OK if deleted else MISSING, self.kv.revision, NULL)
        self.kv.put(c.key, c.key_size, c.value, c.value_size, 0)
        return waiter.done(OK, self.kv.revision, NULL)
