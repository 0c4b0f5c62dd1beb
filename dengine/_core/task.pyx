"""Futures for asyncio tasks. It decides which loop is told what; the core decides what is true.

A status becomes an exception in one table, `failure`, and nowhere else.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t

from dengine._core.codec cimport (DELETE, DELETE_IF, GET, IS_REVISION, PUT, PUT_IF, encode_delete,
                                  encode_delete_if, encode_put, encode_put_if)
from dengine._core.types cimport (CONFLICT, EVENTUAL, LEASE, LINEARIZABLE, MISSING, NOT_PROPOSED,
                                  OK, STOPPED, UNAVAILABLE, UNKNOWN, Item, likely, unlikely)


from dengine.errors import (ClosedError, ConflictError, NotProposedError, OutcomeUnknownError,
                            UnavailableError)

from asyncio import get_running_loop

POLICIES = {"linearizable": LINEARIZABLE, "lease": LEASE, "eventual": EVENTUAL}


cdef object failure(int status, uint64_t revision):
    """The exception that tells a task what a status means for its data."""
    if status == CONFLICT:
        return ConflictError("the key is at another revision than asked for: nothing was written; "
                             "read it and decide again", revision)
    if status == NOT_PROPOSED:
        return NotProposedError("no leader took this write before its deadline: nothing was "
                                "changed; repeating it is safe")
    if status == UNKNOWN:
        return OutcomeUnknownError("the write was sent to a leader but not confirmed before its "
                                   "deadline: it may be applied; read before repeating it")
    if status == UNAVAILABLE:
        return UnavailableError("no leader confirmed this read before its deadline: try again, or "
                                "read with consistency='eventual'")
    return ClosedError("the node has stopped: nothing was changed; open it again")


cdef bytes text(object x):
    if likely(PyBytes_CheckExact(x)):
        return <bytes>x
    if isinstance(x, str):
        return (<str>x).encode("utf-8")
    if isinstance(x, (bytes, bytearray, memoryview)):
        return bytes(x)
    raise TypeError(f"keys and values are bytes or str, not {type(x).__name__}")


cdef bytes value_of(const Item *item):
    return PyBytes_FromStringAndSize(item.data + item.key_size, item.value_size)


def resolve(list futures, list values):
    """Runs in the futures' own loop."""
    cdef Py_ssize_t i
    for i in range(len(futures)):
        future = futures[i]
        value = values[i]
        if future.done():                       # cancelled meanwhile
            continue
        if isinstance(value, Exception):
            future.set_exception(value)
        else:
            future.set_result(value)


cdef class Mailbox:
    def __init__(self, loop, bint direct):
        self.loop = loop
        self.direct = direct
        self.futures = []
        self.values = []


cdef class Task(Waiter):
    cdef int done(self, int status, uint64_t revision, const Item *item) except -1:
        cdef object value
        if status > MISSING:
            value = failure(status, revision)
        elif self.op == GET:
            value = self.want if item == NULL else value_of(item)
        elif self.op == DELETE or self.op == DELETE_IF:
            value = status == OK
        else:
            value = revision
        self.mailbox.futures.append(self.future)
        self.mailbox.values.append(value)
        return 0


cdef class Gate:
    """Calls of an Engine. `home`: the loop that runs the turn, where results need no wake-up."""

    def __init__(self, Turn turn not None, home, double timeout, str policy):
        self.turn = turn
        self.mailboxes = {home: Mailbox(home, True)}
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

    cdef Mailbox mailbox(self):
        cdef object loop = get_running_loop()
        cdef Mailbox box = self.last
        if box is not None and box.loop is loop:
            return box
        box = self.mailboxes.get(loop)
        if box is None:
            for old in [k for k in self.mailboxes if k.is_closed()]:
                del self.mailboxes[old]
            box = Mailbox(loop, False)
            self.mailboxes = {**self.mailboxes, loop: box}      # flush may be iterating
        self.last = box
        return box

    cdef object begin(self, Task task, double timeout):
        if unlikely(not self.usable):
            raise self.refusal()
        task.mailbox = self.mailbox()
        task.future = task.mailbox.loop.create_future()
        task.deadline_us = self.turn.io.now_us(self.turn.io.ctx) + (
            self.timeout_us if timeout < 0 else <uint64_t>(timeout * 1e6))
        self.turn.submit(task)
        return task.future

    cdef object write(self, uint8_t op, bytes command, double timeout):
        cdef Task task = Task()
        task.op = op
        task.command = command
        return self.begin(task, timeout)

    def put(self, key, value, *, if_revision=None, double timeout=-1):
        """Sets `key`; the future gives its revision. `if_revision=0`: only if it does not exist."""
        if if_revision is None:
            return self.write(PUT, encode_put(text(key), text(value)), timeout)
        return self.write(PUT_IF, encode_put_if(text(key), text(value), IS_REVISION, if_revision),
                          timeout)

    def delete(self, key, *, if_revision=None, double timeout=-1):
        """Deletes `key`; the future gives True if it existed."""
        if if_revision is None:
            return self.write(DELETE, encode_delete(text(key)), timeout)
        return self.write(DELETE_IF, encode_delete_if(text(key), IS_REVISION, if_revision),
                          timeout)

    def get(self, key, default=None, *, consistency=None, double timeout=-1):
        """A future of the value of `key` as bytes, or of `default`."""
        cdef bytes k = text(key)
        cdef uint8_t policy = self.policy
        cdef const Item *item
        cdef Task task
        if consistency is not None:
            if consistency not in POLICIES:
                raise ValueError(f"consistency is one of {', '.join(POLICIES)}, not {consistency!r}")
            policy = POLICIES[consistency]
        if unlikely(not self.usable):
            raise self.refusal()
        item = self.turn.kv.get(PyBytes_AS_STRING(k), <uint32_t>PyBytes_GET_SIZE(k))
        value = default if item == NULL else value_of(item)
        if self.turn.may_read(policy):          # the clock is read after the value was copied
            future = get_running_loop().create_future()
            future.set_result(value)
            return future
        task = Task()
        task.op = GET
        task.policy = policy
        task.key = k
        task.want = default
        return self.begin(task, timeout)

    def get_eventual(self, key, default=None):
        """The value of `key` in this node's own state, at once; it may be old."""
        cdef bytes k = <bytes>key if PyBytes_CheckExact(key) else text(key)
        if unlikely(not self.usable):
            raise self.refusal()
        cdef const Item *item = self.turn.kv.get(PyBytes_AS_STRING(k),
                                                 <uint32_t>PyBytes_GET_SIZE(k))
        return default if item == NULL else value_of(item)
