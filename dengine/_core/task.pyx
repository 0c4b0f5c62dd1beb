"""Futures for asyncio tasks. It decides which loop is told what; the core decides what is true.

A status becomes an exception in one table, `failure`, and nowhere else.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t

from dengine._core.codec cimport (DELETE, DELETE_IF, GET, IS_REVISION, PUT, PUT_IF, encode_delete,
                                  encode_delete_if, encode_put, encode_put_if, text)
from dengine._core.kv cimport value_of
from dengine._core.types cimport (CONFLICT, EVENTUAL, LEASE, LINEARIZABLE, MISSING, NOT_PROPOSED,
                                  NO_SPACE, OK, OVERLOADED, UNAVAILABLE, UNKNOWN, Item, unlikely)

from dengine._core.types import Entry
from dengine.errors import (ClosedError, ConflictError, NoSpaceError, NotProposedError,
                            OutcomeUnknownError, OverloadedError, UnavailableError)

from asyncio import get_running_loop
from threading import Lock

POLICIES = {"linearizable": LINEARIZABLE, "lease": LEASE, "eventual": EVENTUAL}


cdef enum:
    LONGEST_S = 1000000         # longest timeout of a call, seconds


cdef object failure(int status, uint64_t revision, object failed):
    """What tells a task what a status means for its data. `failed`: what stopped the node."""
    if status == CONFLICT:
        return ConflictError("the key is at another revision than asked for: nothing was written; "
                             "read it and decide again", revision)
    if status == NOT_PROPOSED:
        return NotProposedError("no leader took this write before its deadline: nothing was "
                                "changed; repeating it is safe")
    if status == OVERLOADED:
        return OverloadedError("this node has as much to do as limits.waiting_writes, "
                               "waiting_bytes or waiting_reads let it take: nothing was changed; "
                               "repeat it later")
    if status == NO_SPACE:
        return NoSpaceError("the disks of a majority are full: nothing was changed; make room on "
                            "them, no restart is needed")
    if status == UNKNOWN:
        when = "before its deadline" if failed is None else f"before the node stopped ({failed})"
        return OutcomeUnknownError(f"the write was sent to a leader but not confirmed {when}: it "
                                   "may be applied; read before repeating it")
    if status == UNAVAILABLE:
        return UnavailableError("no leader confirmed this read before its deadline: try again, or "
                                "read with consistency='eventual'")
    if failed is not None and not isinstance(failed, ClosedError):
        return failed.again()
    return ClosedError("the node was closed: nothing was changed; open it again")


def resolve(list futures, list values):
    """Runs in the futures' own loop."""
    cdef Py_ssize_t i
    for i in range(len(futures)):
        future = futures[i]
        value = values[i]
        if future.done():                       # cancelled meanwhile
            continue
        if type(value) is Failure:
            future.set_exception((<Failure>value).error)
        else:
            future.set_result(value)


cdef object given(const Item *item, object want, bint whole, uint64_t revision):
    if item == NULL:
        return want
    return Entry(value_of(item), item.mod_revision, revision) if whole else value_of(item)


cdef class Mailbox:
    def __init__(self, Turn turn, loop, bint direct):
        self.turn = turn
        self.loop = loop
        self.direct = direct
        self.futures = []
        self.values = []


cdef class Failure:
    def __init__(self, error):
        self.error = error


cdef class Task(Waiter):
    cdef int done(self, int status, uint64_t revision, const Item *item) except -1:
        cdef object value
        if status > MISSING:
            value = Failure(failure(status, revision, self.mailbox.turn.failed))
        elif self.op == GET:
            value = given(item, self.want, self.whole, revision)
        elif self.op == DELETE or self.op == DELETE_IF:
            value = status == OK
        else:
            value = revision
        self.mailbox.futures.append(self.future)
        self.mailbox.values.append(value)
        return 0


cdef class Gate:
    """The calls of an Engine, which may come from any event loop and thread."""

    def attach(self, Turn turn not None, home, double timeout, str policy):
        """Opens the gate. `home`: the loop that runs the turn, where results need no wake-up."""
        self.turn = turn
        self.lock = Lock()
        self.mailboxes = {home: Mailbox(turn, home, True)}
        self.timeout_us = <uint64_t>(timeout * 1e6)
        self.policy = POLICIES[policy]
        self.usable = True
        turn.on_results = self.flush

    def flush(self):
        """After each batch of results: one call into each loop that has any."""
        cdef Mailbox box
        for box in self.mailboxes.values():
            if not box.futures:
                continue
            futures, values = box.futures, box.values
            box.futures = []
            box.values = []
            if box.direct:
                resolve(futures, values)
                continue
            try:
                box.loop.call_soon_threadsafe(resolve, futures, values)
            except RuntimeError:                # that loop was closed: nobody waits any more
                pass

    def shut(self):
        """Every later call raises what `refusal()` returns."""
        self.usable = False

    def refusal(self):
        """The exception that a call raises while the gate is shut."""
        return ClosedError("the node is not open: nothing was changed; open it first")

    @property
    def is_open(self):
        """Are calls answered?"""
        return self.usable and self.turn.failed is None

    cdef int check(self) except -1:
        if unlikely(not self.usable or self.turn.failed is not None):
            raise self.refusal()
        return 0

    cdef Mailbox mailbox(self):
        cdef object loop = get_running_loop()
        cdef Mailbox box = self.last
        if box is not None and box.loop is loop:
            return box
        box = self.mailboxes.get(loop)
        if box is None:
            box = Mailbox(self.turn, loop, False)
            with self.lock:                     # a new dict: flush may be iterating over the old
                boxes = {k: v for k, v in self.mailboxes.items() if not k.is_closed()}
                boxes[loop] = box
                self.mailboxes = boxes
        self.last = box
        return box

    cdef object begin(self, Task task, object timeout):
        cdef uint64_t timeout_us = self.timeout_us
        if timeout is not None:
            if not 0 <= timeout < LONGEST_S:
                raise ValueError(f"timeout is a number of seconds from 0 to {LONGEST_S}, or None, "
                                 f"not {timeout!r}")
            timeout_us = <uint64_t>(timeout * 1e6)
        self.check()
        task.mailbox = self.mailbox()
        task.future = task.mailbox.loop.create_future()
        self.check()                            # again: making a future may have run other threads
        task.deadline_us = self.turn.io.now_us(self.turn.io.ctx) + timeout_us
        self.turn.submit(task)
        return task.future

    cdef object write(self, uint8_t op, bytes command, object timeout):
        cdef Task task = Task.__new__(Task)
        task.op = op
        task.command = command
        return self.begin(task, timeout)

    def put(self, key, value, *, if_revision=None, timeout=None):
        """Sets `key`; the future gives its revision once the write is committed and applied here.

        if_revision: only if the key is at that revision, 0: only if it does not exist
        (ConflictError). timeout in seconds, default http.request_timeout_ms. Raises
        NotProposedError, OutcomeUnknownError, TooLargeError, ClosedError.
        """
        if if_revision is None:
            return self.write(PUT, encode_put(text(key), text(value)), timeout)
        return self.write(PUT_IF, encode_put_if(text(key), text(value), IS_REVISION, if_revision),
                          timeout)

    def delete(self, key, *, if_revision=None, timeout=None):
        """Deletes `key`; the future gives True if it existed. Raises like `put`."""
        if if_revision is None:
            return self.write(DELETE, encode_delete(text(key)), timeout)
        return self.write(DELETE_IF, encode_delete_if(text(key), IS_REVISION, if_revision),
                          timeout)

    def entry(self, key, *, consistency=None, timeout=None):
        """Like `get`; a future of an Entry(value, mod_revision, revision), or of None."""
        return self.read(text(key), None, True, consistency, timeout)

    def get(self, key, default=None, *, consistency=None, timeout=None):
        """A future of the value of `key` as bytes, or of `default`.

        consistency: "linearizable", "lease" or "eventual"; by default the configured policy. Raises
        UnavailableError, ClosedError.
        """
        return self.read(text(key), default, False, consistency, timeout)

    cdef object read(self, bytes k, object default, bint whole, object consistency,
                     object timeout):
        cdef uint8_t policy = self.policy
        cdef const Item *item
        cdef Task task
        if consistency is not None:
            if consistency not in POLICIES:
                raise ValueError(f"consistency is one of {', '.join(POLICIES)}, not "
                                 f"{consistency!r}")
            policy = POLICIES[consistency]
        self.check()
        item = self.turn.kv.get(PyBytes_AS_STRING(k), <uint32_t>PyBytes_GET_SIZE(k))
        value = given(item, default, whole, self.turn.kv.revision)
        if self.turn.may_read(policy):          # the clock is read after the value was copied
            future = get_running_loop().create_future()
            future.set_result(value)
            return future
        task = Task.__new__(Task)
        task.op = GET
        task.policy = policy
        task.key = k
        task.want = default
        task.whole = whole
        return self.begin(task, timeout)

    def get_eventual(self, key, default=None):
        """The value of `key` in this node's own state, at once; it may be old."""
        cdef bytes k = text(key)
        self.check()
        cdef const Item *item = self.turn.kv.get(PyBytes_AS_STRING(k),
                                                 <uint32_t>PyBytes_GET_SIZE(k))
        return default if item == NULL else value_of(item)
