"""The hot HTTP protocol: requests in, answers out, in order and within limits.

This module decides when a connection is read, which request begins next, what is written together
and who waited too long. It does not know what a request means (request), what an answer looks like
(answer), or how a write becomes durable (turn).

Order: reads overlap; a write begins only when everything before it is answered; a read begins
only when the write before it is. Memory: a connection that has HELD bytes or max_pipeline
requests under way, or whose peer does not read, is not read from.
"""
import asyncio
import logging

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport SIZE_MAX
from libc.stdlib cimport free

from dengine._core.answer cimport (
    HAS_STOPPED, TIMED_OUT, TOO_MANY_CONNECTIONS, put, put_outcome, put_problem, refresh_date)
from dengine._core.codec cimport GET, KEYED
from dengine._core.request cimport ENDED, GET_KEY, HEAD, IDLE, LEAVING, Limits, Request
from dengine._core.types cimport MAX_KEY, MAX_VALUE, MISSING, OK, STOPPED, likely, unlikely

from dengine._core.answer import title

logger = logging.getLogger("dengine.http")

KIND_NAMES = ("other", "get", "post", "put", "delete")
cdef bytes CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@cython.final
cdef class Slot(Waiter):
    cdef int done(self, int status, uint64_t revision, const Item *item) except -1:
        cdef Connection connection = self.connection
        if connection is None:
            return 0
        connection.finish(self, status, revision, item)
        return connection.server.mark(connection)


@cython.final
cdef class Connection(RequestReader):
    """An asyncio protocol; `HttpServer` makes them."""

    def __cinit__(self, HttpServer server not None):
        self.server = server
        self.limits = &server.limits
        self.reading = True

    # ------------------------------------------------------------------ from the event loop
    def connection_made(self, transport):
        cdef HttpServer server = self.server
        self.transport = transport
        self.since = server.sweeps
        server.open.add(self)
        server.arm()
        if len(server.open) > server.max_connections + REFUSED:
            transport.abort()
        elif server.limits.last or len(server.open) > server.max_connections:
            self.refuse(HAS_STOPPED if server.limits.last else TOO_MANY_CONNECTIONS)
            self.work()
        else:
            self.open()

    def connection_lost(self, error):
        cdef Slot slot = self.first
        while slot is not None:
            slot.connection = None
            slot = slot.next
        self.first = self.last = None
        self.transport = self.tail = None
        self.close()
        self.phase = LEAVING
        self.server.forget(self)

    def data_received(self, bytes data not None):
        if unlikely(self.phase >= ENDED):
            self.lingers = True
            return
        if likely(self.tail is None):
            self.tail = data
        else:
            self.tail = self.tail[self.tail_at:] + data
        self.tail_at = 0
        self.work()

    def eof_received(self):
        """Answers what was asked completely before the end."""
        if self.phase == LEAVING or self.first is None:
            return False
        self.phase = ENDED
        self.work()
        return True

    def pause_writing(self):
        self.paused = True
        self.unsent = SIZE_MAX
        self.since = self.server.sweeps

    def resume_writing(self):
        self.paused = False
        self.since = self.server.sweeps
        self.work()

    # ------------------------------------------------------------------ the one driver
    cdef int work(self) except -1:
        """Parses, begins, writes, until the input ends or this connection must wait."""
        if self.busy or self.transport is None:
            return 0
        self.busy = True
        try:
            self.settle()
            while self.feed_slice():
                self.settle()
            self.steer()
        except Exception:
            if not self.transport.is_closing():     # else it broke under a write
                logger.exception("a fault of dengine's own on an HTTP connection: it is dropped")
            self.server.out.size = 0
            self.phase = LEAVING
            self.transport.abort()
        finally:
            self.busy = False
        return 0

    cdef bint must_wait(self) noexcept:
        return self.paused or self.depth >= self.server.max_pipeline or self.held > HELD

    cdef int feed_slice(self) except -1:
        """Parses the next slice; 0: there is none, or it must wait."""
        cdef object data = self.tail
        cdef size_t n
        cdef uint8_t problem, phase = self.phase
        if data is None or self.phase >= ENDED or self.must_wait():
            return 0
        n = PyBytes_GET_SIZE(<bytes>data) - self.tail_at
        if likely(n <= SLICE and self.tail_at == 0):
            self.tail = None
        else:
            n = min(n, <size_t>SLICE)
            data = memoryview(data)[self.tail_at:self.tail_at + n]
            self.tail_at += n
            if self.tail_at == <size_t>PyBytes_GET_SIZE(self.tail):
                self.tail = None
        problem = self.take(data, n)
        if unlikely(problem):
            if self.phase < ENDED:
                self.refuse(problem)
            else:
                self.lingers = True
        elif self.phase != phase:
            self.since = self.server.sweeps
        return 1

    cdef int settle(self) except -1:
        while True:
            if self.first is not None:
                self.begin()
            if not self.flush():
                return 0

    cdef int steer(self) except -1:
        """Reads from the socket, or not; ends the connection when all is answered."""
        cdef bint read
        if self.first is None and not self.paused:
            if unlikely(self.phase == ENDED or self.server.limits.last and self.phase == IDLE):
                return self.leave()
        if self.phase >= ENDED:
            read = True                     # into the void
        elif self.reading:
            read = not self.must_wait() and self.tail is None
        else:
            read = (not self.paused and self.held <= HELD and self.tail is None
                    and self.depth <= self.server.max_pipeline // 2)
        if read != self.reading:
            self.reading = read
            if read:
                self.since = self.server.sweeps
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()
        return 0

    cdef int leave(self) except -1:
        """All is written. Lingers where a close with unread input would destroy the answer."""
        self.phase = LEAVING
        self.since = self.server.sweeps
        if self.lingers:
            if not self.reading:
                self.transport.resume_reading()
            self.transport.write_eof()
        else:
            self.transport.close()
        return 0

    # ------------------------------------------------------------------ requests
    cdef int asked(self) except -1:
        cdef Request *r = &self.request
        cdef bytes command
        cdef Slot slot
        self.since = self.server.sweeps
        if likely(r.kind == GET_KEY and not r.problem):
            return self.read(self.key)
        command = self.command()
        if command is None:
            return self.give_problem(r.problem)
        slot = self.add(QUEUED)
        slot.op = PyBytes_AS_STRING(command)[0] & ~KEYED
        slot.command = command
        self.held += PyBytes_GET_SIZE(command)
        return 0

    cdef int proceed(self) except -1:
        return self.give(CONTINUE)

    cdef int read(self, bytes key) except -1:
        cdef Request *r = &self.request
        cdef Slot slot
        if likely(self.first is None and not self.paused and self.server.out.size <= HELD):
            if self.read_now(key, r.policy, r.shape):
                return 0
        slot = self.add(QUEUED)
        slot.op = GET
        slot.policy = r.policy
        slot.key = key
        return 0

    cdef int read_now(self, bytes key, uint8_t policy, Shape shape) except -1:
        """Puts the answer to `out` if this policy needs no waiting, also after the copy."""
        cdef HttpServer server = self.server
        cdef Out *out = &server.out
        cdef size_t before = out.size
        cdef const Item *item
        cdef int problem
        if not server.turn.may_read(policy):
            return False
        item = server.turn.kv.get(PyBytes_AS_STRING(key), <uint32_t>PyBytes_GET_SIZE(key))
        problem = put_outcome(out, shape, GET, MISSING if item == NULL else OK,
                              server.turn.kv.revision, item)
        if not server.turn.may_read(policy):
            out.size = before
            return False
        server.counts[<int>GET_KEY][problem] += 1
        return True

    cdef int give_problem(self, int problem) except -1:
        """Answers the request being read with a problem."""
        cdef HttpServer server = self.server
        cdef Request *r = &self.request
        cdef size_t before = server.out.size
        put_problem(&server.out, r.shape, problem, 0)
        server.counts[r.kind][problem] += 1
        if self.first is not None:
            self.give(self.cut(before))
        return 0

    cdef int refuse(self, int problem) except -1:
        """The last answer: what follows is not parsed."""
        self.end()
        self.lingers = True
        self.tail = None
        return self.give_problem(problem)

    # ------------------------------------------------------------------ the queue
    cdef Slot add(self, uint8_t state):
        cdef Slot slot = Slot.__new__(Slot)
        slot.connection = self
        slot.kind = self.request.kind
        slot.shape = self.request.shape
        slot.state = state
        if self.last is None:
            self.first = slot
        else:
            self.last.next = slot
        self.last = slot
        self.depth += 1
        return slot

    cdef int give(self, bytes answer) except -1:
        """An answer that is known already, after those before it."""
        if self.first is None:
            return put(&self.server.out, PyBytes_AS_STRING(answer), PyBytes_GET_SIZE(answer))
        self.add(DONE).answer = answer
        self.held += PyBytes_GET_SIZE(answer)
        return 0

    cdef bytes cut(self, size_t before):
        """Takes what was put to `out` since `before` back out."""
        cdef Out *out = &self.server.out
        cdef bytes answer = PyBytes_FromStringAndSize(out.data + before, out.size - before)
        out.size = before
        return answer

    cdef int begin(self) except -1:
        """Begins what may begin: the first, and the reads behind it."""
        cdef Slot slot = self.first
        while slot is not None and not self.paused:
            if slot.state == QUEUED:
                if slot is not self.first and (slot.op != GET or self.held > HELD):
                    return 0
                self.start(slot)
            if slot.op != GET and slot.state != DONE:
                return 0
            slot = slot.next
        return 0

    cdef int start(self, Slot slot) except -1:
        cdef HttpServer server = self.server
        cdef size_t before = server.out.size
        if slot.op == GET and self.read_now(slot.key, slot.policy, slot.shape):
            slot.answer = self.cut(before)
            slot.state = DONE
            self.held += PyBytes_GET_SIZE(slot.answer)
            return 0
        slot.deadline_us = now_us() + server.request_timeout_us
        slot.state = RUNNING
        try:
            server.turn.submit(slot)
        except Exception as error:
            logger.error("a request was not taken: %s", error)
            self.finish(slot, STOPPED, 0, NULL)
        return 0

    cdef int finish(self, Slot slot, int status, uint64_t revision, const Item *item) except -1:
        """Builds the answer; or reads again later what would not be kept within HELD."""
        cdef HttpServer server = self.server
        cdef Out *out = &server.out
        cdef size_t before = out.size
        cdef int problem
        if slot.op == GET and slot is not self.first and self.held > HELD:
            slot.state = QUEUED
            return 0
        problem = put_outcome(out, slot.shape, slot.op, status, revision, item)
        server.counts[slot.kind][problem] += 1
        if slot.command is not None:
            self.held -= PyBytes_GET_SIZE(slot.command)
            slot.command = None
        slot.answer = self.cut(before)
        slot.state = DONE
        self.held += PyBytes_GET_SIZE(slot.answer)
        return 0

    cdef int flush(self) except -1:
        """Writes the answers that are next, in one piece of about HELD; 0: there was none."""
        cdef Out *out = &self.server.out
        cdef bytes answer = None            # alone: not copied
        cdef Slot slot
        while not self.paused and self.first is not None and self.first.state == DONE:
            if answer is not None:
                put(out, PyBytes_AS_STRING(answer), PyBytes_GET_SIZE(answer))
                answer = None
            if out.size > HELD:
                break
            slot = self.first
            answer = slot.answer
            slot.connection = None
            self.held -= PyBytes_GET_SIZE(answer)
            self.depth -= 1
            self.first = slot.next
            if self.first is None:
                self.last = None
        if out.size:
            if answer is not None:
                put(out, PyBytes_AS_STRING(answer), PyBytes_GET_SIZE(answer))
            answer = self.cut(0)
        if answer is None:
            return 0
        self.since = self.server.sweeps
        self.transport.write(answer)
        return 1

    # ------------------------------------------------------------------ time
    cdef int sweep(self) except -1:
        """Acts on what took too long. Nothing does while an answer is owed by the node."""
        cdef HttpServer server = self.server
        cdef uint64_t waited = server.sweeps - self.since
        cdef bint soon = not self.paused and (self.phase == HEAD or self.phase == LEAVING)
        if self.transport is None or self.phase == ENDED and not self.paused:
            return 0
        if waited <= (server.header_sweeps if soon else server.idle_sweeps):
            return 0
        if self.paused and self.transport.get_write_buffer_size() < self.unsent:
            self.unsent = self.transport.get_write_buffer_size()
            self.since = server.sweeps      # slow, but it reads
        elif self.paused or self.phase == LEAVING:
            self.transport.abort()
        elif self.first is not None:
            return 0
        elif self.phase == IDLE:
            self.leave()
        else:
            self.refuse(TIMED_OUT)
            self.work()
        return 0


# ---------------------------------------------------------------------------------- the server
@cython.final
cdef class HttpServer:
    def __init__(
            self, Turn turn not None, *, int default_policy=0, uint64_t request_timeout_us=5000000,
            uint64_t idle_timeout_ms=60000, uint64_t header_timeout_ms=10000,
            uint32_t max_connections=1024, uint32_t max_pipeline=64,
            uint32_t max_line_bytes=16384, uint32_t max_header_bytes=32768,
            uint32_t max_headers=64, size_t max_body_bytes=1572864,
            size_t max_key_bytes=4096, size_t max_value_bytes=1048576):
        cdef uint64_t sweep_ms = max(
            <uint64_t>10, min(<uint64_t>1000, header_timeout_ms // 8, idle_timeout_ms // 8))
        self.turn = turn
        self.loop = asyncio.get_running_loop()
        self.open = set()
        self.dirty = []
        self.limits = Limits(
            max_line_bytes, max_header_bytes, max_headers, max_body_bytes,
            min(max_key_bytes, <size_t>MAX_KEY), min(max_value_bytes, <size_t>MAX_VALUE),
            default_policy, False)
        self.request_timeout_us = request_timeout_us
        self.sweep_s = sweep_ms / 1000
        self.idle_sweeps = idle_timeout_ms // sweep_ms
        self.header_sweeps = header_timeout_ms // sweep_ms
        self.max_connections = max_connections
        self.max_pipeline = max_pipeline

    def __dealloc__(self):
        free(self.out.data)

    def __call__(self) -> Connection:
        return Connection.__new__(Connection, self)

    @property
    def connections(self) -> int:
        return len(self.open)

    def requests(self) -> dict:
        cdef int kind, problem
        cdef dict out = {}
        for kind in range(<int>KINDS):
            for problem in range(<int>PROBLEMS):
                if self.counts[kind][problem]:
                    out[(KIND_NAMES[kind], *title(problem))] = self.counts[kind][problem]
        return out

    def drain(self):
        cdef Connection connection
        if self.empty is None:
            self.limits.last = True
            self.empty = self.loop.create_future()
            for connection in list(self.open):
                connection.work()
            if not self.open:
                self.empty.set_result(None)
        return self.empty

    def close(self):
        cdef Connection connection
        self.drain()
        for connection in list(self.open):
            if connection.transport is not None:
                connection.transport.abort()

    cdef int mark(self, Connection connection) except -1:
        """The connection has a new answer: all that have are worked on at once, soon."""
        if not connection.dirty:
            connection.dirty = True
            if not self.dirty:
                self.loop.call_soon(self.flush)
            self.dirty.append(connection)
        return 0

    def flush(self):
        cdef Connection connection
        cdef list dirty = self.dirty
        self.dirty = []
        for connection in dirty:
            connection.dirty = False
            connection.work()

    cdef int forget(self, Connection connection) except -1:
        self.open.discard(connection)
        if not self.open and self.empty is not None and not self.empty.done():
            self.empty.set_result(None)
        return 0

    cdef int arm(self) except -1:
        if self.timer is None:
            refresh_date()
            self.timer = self.loop.call_later(self.sweep_s, self.sweep)
        return 0

    def sweep(self):
        cdef Connection connection
        self.timer = None
        self.sweeps += 1
        for connection in list(self.open):
            connection.sweep()
        if self.open:
            self.arm()
