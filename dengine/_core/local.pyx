"""The blocking store of one voter, in the calling thread.

It decides who runs the turn and who waits. What a write means and when it is durable is the core's.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t

from dengine._core.codec cimport DELETE, PUT, encode_delete, encode_put, text
from dengine._core.kv cimport value_of
from dengine._core.types cimport DISK_FIRST, MISSING, NO_SPACE, OK, STOPPED, unlikely

from dengine.errors import ClosedError, ForkedError, NoSpaceError, OutcomeUnknownError

cdef extern from "<semaphore.h>" nogil:
    int sem_init(sem_t *, int, unsigned int)
    int sem_destroy(sem_t *)
    int sem_post(sem_t *)
    int sem_timedwait(sem_t *, const timespec *)

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *to)
    int CLOCK_REALTIME

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1
    unsigned long PyThread_get_thread_ident()

cdef enum:
    WAIT_US = 100000            # then signals are looked at, Ctrl-C among them

cdef uint64_t FOREVER = 0xFFFFFFFFFFFFFFFF


cdef class Call(Waiter):
    def __cinit__(self):
        self.finished = False
        self.deadline_us = FOREVER
        sem_init(&self.told, 0, 0)

    def __dealloc__(self):
        sem_destroy(&self.told)

    cdef int done(self, int status, uint64_t revision, const Item *item) except -1:
        self.status = status
        self.revision = revision
        self.finished = True
        sem_post(&self.told)
        return 0


cdef class LocalStore:
    """Point reads, writes and scans of one node in this process. Keys: bytes, or str as UTF-8."""

    def __init__(self, Turn turn not None):
        """Takes over a started turn; returns when all that the log holds is applied."""
        self.turn = turn
        self.waiting = []
        self.usable = True
        self.syncs = turn.log.strategy == DISK_FIRST
        while not (turn.may_read(0) and turn.machine.applied == turn.raft.commit):
            turn.run()
            if turn.failed is not None:
                self.refuse()
            if not turn.flusher.idle():
                number = turn.flusher.ring.taken + 1
                self.sleep_for(number)

    cdef int sleep_for(self, uint64_t number) except -1:
        """Until the flusher has done job `number`, or a while went by."""
        with nogil:
            self.turn.flusher.wait(number, WAIT_US)
        return PyErr_CheckSignals()

    # ------------------------------------------------------------------------------------ reads
    def get(self, key, default=None):
        """The value of `key` as bytes, or `default`."""
        cdef const Item *item
        self.find(key, &item)
        return default if item == NULL else value_of(item)

    def __getitem__(self, key):
        cdef const Item *item
        self.find(key, &item)
        if item == NULL:
            raise KeyError(key)
        return value_of(item)

    def __contains__(self, key):
        cdef const Item *item
        self.find(key, &item)
        return item != NULL

    cdef int find(self, object key, const Item **item) except -1:
        """Borrowed until the next change; NULL: no such key."""
        cdef bytes k = text(key)
        if unlikely(not self.usable):
            self.refuse()
        item[0] = self.turn.kv.get(PyBytes_AS_STRING(k), <uint32_t>PyBytes_GET_SIZE(k))
        return 0

    def __len__(self):
        if unlikely(not self.usable):
            self.refuse()
        return self.turn.kv.count

    @property
    def revision(self):
        """The revision of the newest change; 0 in an empty store."""
        if unlikely(not self.usable):
            self.refuse()
        return self.turn.kv.revision

    def items(self, prefix=b"", start=b""):
        """(key, value) pairs in key order, as they are at this call whatever is written then."""
        if unlikely(not self.usable):
            self.refuse()
        return self.turn.kv.pin().scan(text(prefix), text(start))

    # ----------------------------------------------------------------------------------- writes
    def put(self, key, value):
        """Sets `key`; returns its revision once the write is durable by the strategy."""
        return self.write(PUT, encode_put(text(key), text(value))).revision

    def delete(self, key):
        """Deletes `key`; True if it existed."""
        return self.write(DELETE, encode_delete(text(key))).status == OK

    def __setitem__(self, key, value):
        self.write(PUT, encode_put(text(key), text(value)))

    def __delitem__(self, key):
        if not self.delete(key):
            raise KeyError(key)

    cdef Call write(self, uint8_t op, bytes command):
        cdef Call call = Call.__new__(Call)
        call.op = op
        call.command = command
        if unlikely(not self.usable):
            self.refuse()
        self.turn.submit(call)
        self.turn.flusher.quiet = self.syncs and self.driver is None
        self.turn.run()
        if not call.finished:
            self.wait(call)
        elif self.syncs:
            self.turn.flusher.kick()
        if unlikely(call.status > MISSING):
            self.failed(call)
        return call

    cdef int failed(self, Call call) except -1:
        cdef object failed = self.turn.failed
        if call.status == NO_SPACE:
            raise NoSpaceError("the disk is full: nothing was written; reads go on; make room and "
                               "write again, the store need not be opened again")
        self.usable = False
        if call.status == STOPPED or self.forked:
            self.refuse()
        raise OutcomeUnknownError(
            f"the store stopped while this write was under way ({failed}): it may be applied; open "
            "the store again and read the key") from failed

    cdef int wait(self, Call call) except -1:
        """Until `call` is done: this thread drives the turn, or waits for the one that does."""
        cdef timespec until
        try:
            while not call.finished:
                if self.driver is None:
                    self.driver = call
                    self.driving = PyThread_get_thread_ident()
                    try:
                        self.drive(call)
                    finally:
                        self.driver = None
                    break
                if self.driving == PyThread_get_thread_ident():
                    self.drive(call)            # in a signal handler, while this thread drives
                    break
                self.waiting.append(call)
                clock_gettime(CLOCK_REALTIME, &until)
                until.tv_sec += 1
                with nogil:
                    sem_timedwait(&call.told, &until)
                self.waiting.remove(call)
                PyErr_CheckSignals()
        finally:
            self.turn.flusher.kick()
            if self.driver is None and self.waiting:
                sem_post(&(<Call>self.waiting[0]).told)
        return 0

    cdef int drive(self, Call call) except -1:
        cdef uint64_t number
        while not call.finished:
            if unlikely(self.forked):           # by a signal handler: nobody flushes here
                self.refuse()
            number = self.turn.flusher.ring.taken + 1
            if self.turn.flusher.ring.head >= number and not self.flush_alone():
                self.turn.flusher.kick()
                self.sleep_for(number)
            self.turn.flusher.quiet = self.syncs and not self.waiting
            if unlikely(self.turn.in_turn):     # of another thread, which needs the GIL to end it
                with nogil:
                    sched_yield()
            self.turn.run()
        return 0

    cdef bint flush_alone(self) except -1:
        """Where nobody else waits, the next job is done faster here than by a thread that wakes."""
        cdef bint mine
        if self.waiting or not self.turn.flusher.started:
            return False
        with nogil:
            mine = self.turn.flusher.run_here()
        PyErr_CheckSignals()
        return mine

    # ------------------------------------------------------------------------------------- life
    def shut(self):
        """No call is answered from now on."""
        self.usable = False

    def check(self):
        """Raises what a call would raise: ClosedError, ForkedError, what stopped the node."""
        if not self.usable or self.turn.failed is not None:
            self.refuse()

    cdef int refuse(self) except -1:
        cdef object failed = self.turn.failed
        if self.forked:
            raise ForkedError("the store was opened in the parent of this process: nothing was "
                              "written; open it again here, in another directory")
        if failed is not None and not isinstance(failed, ClosedError):
            raise failed.again()
        raise ClosedError("the store is closed: nothing was written; open it again")

    def after_fork(self):
        """In a child of the process that opened the store: every call raises ForkedError."""
        self.usable = False
        self.forked = True
