"""The hot HTTP protocol: requests in, answers out, in order and within limits.

This module decides what a connection may send and when, which request begins next, and what is
written together. It does not know what paths and headers mean (request), what answers look like
(answer), or how a write becomes durable (turn).

Order: reads overlap; a write begins only when everything before it is answered; a read begins
only when the write before it is. Memory: a connection that has HELD bytes or max_pipeline
requests under way, or whose peer does not read, is not read from.
"""
import asyncio
import logging

import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free
from libc.string cimport memset
from posix.time cimport timespec

from dengine._core.answer cimport (
    BAD_FRAMING, BAD_HOST, BAD_JSON, BAD_REQUEST, BAD_VERSION, BODY_TOO_LARGE, CLOSE, CONFLICTED,
    EMPTY_KEY, HAS_STOPPED, HEADERS_TOO_LARGE, KEEP_ALIVE, KEY_TOO_LARGE, LINE_TOO_LONG,
    NO_IDEMPOTENCY, NO_KEY, NO_LEADER, NO_TTL, NO_UPGRADE, NONE, OUTCOME_UNKNOWN,
    PROPOSED_NOTHING, TIMED_OUT, TOO_MANY_CONNECTIONS, VALUE_TOO_LARGE, put, put_problem,
    put_value, put_written, refresh_date)
from dengine._core.codec cimport (
    DELETE, DELETE_IF, EXISTS, GET, IS_REVISION, PUT, PUT_IF, encode_delete, encode_delete_if,
    encode_put, encode_put_if)
from dengine._core.request cimport (
    DELETE_KEY, GET_KEY, IF_EXISTS, OTHER, POST_KEY, PUT_KEY, UNCONDITIONAL, take_header,
    take_target)
from dengine._core.types cimport (
    MISSING, OK, STOPPED, likely, unlikely)

from dengine._core.answer import title

cdef extern from "<time.h>" nogil:
    int CLOCK_BOOTTIME
    int clock_gettime(int clock, timespec *now)

logger = logging.getLogger("dengine.http")

# The body of POST /kv.
decode_post = msgspec.json.Decoder(msgspec.defstruct(
    "Post",
    [("key", str), ("value", str), ("ttl", msgspec.Raw | msgspec.UnsetType, msgspec.UNSET)],
    forbid_unknown_fields=True, gc=False)).decode

KIND_NAMES = ("other", "get", "post", "put", "delete")
cdef bytes CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# What a Waiter is told, as a Problem, in the order of Status.
cdef uint8_t[7] PROBLEM_OF = [
    NONE, NO_KEY, CONFLICTED, PROPOSED_NOTHING, OUTCOME_UNKNOWN, NO_LEADER, HAS_STOPPED]


class Stop(Exception):
    """Ends the parser's work on a connection: `fault` says why, or it had ended before."""


@cython.final
cdef class Slot(Waiter):
    cdef int done(self, int status, uint64_t revision, const Item *item) except -1:
        cdef Connection connection = self.connection
        if connection is None:
            return 0
        connection.finish(self, status, revision, item)
        return connection.server.mark(connection)


@cython.final
cdef class Connection:
    """An asyncio protocol; `HttpServer` makes them."""

    def __cinit__(self, HttpServer server not None):
        self.server = server
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
        elif len(server.open) > server.max_connections or server.draining:
            self.refuse(TOO_MANY_CONNECTIONS)
            self.work()
        else:
            self.parser = HttpRequestParser(self)
            self.feed = self.parser.feed_data

    def connection_lost(self, error):
        cdef Slot slot = self.first
        while slot is not None:
            slot.connection = None
            slot = slot.next
        self.first = self.last = None
        self.transport = self.parser = self.feed = self.tail = self.body = None
        self.phase = LEAVING
        self.server.forget(self)

    def data_received(self, bytes data not None):
        if self.phase >= ENDED:
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
            logger.exception("a fault of dengine's own on an HTTP connection: it is dropped")
            self.server.out.size = 0
            self.phase = LEAVING
            self.transport.abort()
        finally:
            self.busy = False
        return 0

    cdef bint must_wait(self) noexcept:
        return (self.paused or self.depth >= self.server.max_pipeline or self.held > HELD)

    cdef int feed_slice(self) except -1:
        """Parses the next slice; 0: there is none, or it must wait."""
        cdef object data = self.tail
        cdef size_t n
        cdef uint32_t events = self.events
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
        try:
            self.feed(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if self.phase < ENDED:
                if isinstance(error.__context__, Exception) and not self.fault:
                    raise                   # not theirs: a callback of ours failed
                self.refuse(self.fault or BAD_REQUEST)
            return 1
        self.quiet = self.quiet + n if self.events == events else 0
        if unlikely(self.quiet > self.server.max_header_bytes and self.phase < ENDED):
            self.refuse(HEADERS_TOO_LARGE if self.phase == HEAD else BAD_REQUEST)
        elif self.phase == IDLE and self.events == events:
            self.phase = HEAD               # half a method
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
            if unlikely(self.phase == ENDED):
                return self.leave()
            if unlikely(self.server.draining and self.phase == IDLE):
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

    # ------------------------------------------------------------------ from the parser
    def on_url(self, bytes part not None):
        cdef Request *r = &self.request
        self.events += 1
        if self.phase == ENDED:
            raise Stop
        if likely(self.target is None):
            memset(r, 0, sizeof(Request))
            self.phase = HEAD
            self.since = self.server.sweeps
            self.target = part
        else:
            self.target += part
        r.line_bytes += <uint32_t>PyBytes_GET_SIZE(part)
        if r.line_bytes > self.server.max_line_bytes:
            self.fault = LINE_TOO_LONG
            raise Stop

    def on_header(self, bytes name not None, bytes value not None):
        cdef Request *r = &self.request
        self.events += 1
        r.headers += 1
        r.header_bytes += <uint32_t>(PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) + 4)
        if unlikely(r.headers > self.server.max_headers
                    or r.header_bytes > self.server.max_header_bytes):
            self.fault = HEADERS_TOO_LARGE
            raise Stop
        if likely(self.phase == HEAD):      # else a trailer
            take_header(r, name, value)

    def on_headers_complete(self):
        cdef Request *r = &self.request
        cdef HttpServer server = self.server
        cdef bytes method = self.parser.get_method()
        cdef bint stays = self.parser.should_keep_alive()
        self.events += 1
        self.fault = self.head_fault(stays, method)
        if unlikely(self.fault):
            raise Stop
        self.phase = BODY
        self.since = server.sweeps
        if not stays or unlikely(server.draining):
            r.shape.persistence = CLOSE
        r.shape.bare = method == b"HEAD"
        r.policy = server.default_policy
        self.key = take_target(r, method, self.target)
        self.target = None
        if unlikely(r.problem):
            pass
        elif r.keyed:
            r.problem = NO_IDEMPOTENCY
        elif self.key is not None and <size_t>PyBytes_GET_SIZE(self.key) > server.max_key_bytes:
            r.problem = KEY_TOO_LARGE
        if unlikely(r.expects) and r.shape.persistence != KEEP_ALIVE and not r.problem:
            self.give(CONTINUE)

    cdef int head_fault(self, bint stays, bytes method) except -1:
        """Where framing is in doubt, the Problem; 0: it is not."""
        cdef Request *r = &self.request
        if unlikely(not stays or r.connection_said):
            version = self.parser.get_http_version()
            if version == "1.0":
                if r.chunked:
                    return BAD_FRAMING
                if r.hosts == 0:
                    r.hosts = 1             # it may be missing there
                r.expects = False
                r.shape.persistence = KEEP_ALIVE
            elif version != "1.1":
                return BAD_VERSION
        if unlikely(r.hosts != 1):
            return BAD_HOST
        if unlikely(r.coded or r.chunked and r.length_said):
            return BAD_FRAMING
        if unlikely(method == b"CONNECT" or r.upgrade_said and self.parser.should_upgrade()):
            return NO_UPGRADE
        if unlikely(r.length_said and r.length > self.server.max_body_bytes):
            return BODY_TOO_LARGE
        return 0

    def on_body(self, bytes part not None):
        self.events += 1
        self.body_bytes += PyBytes_GET_SIZE(part)
        if unlikely(self.body_bytes > self.server.max_body_bytes):
            self.fault = BODY_TOO_LARGE
            raise Stop
        if self.body is None:
            self.body = part
        elif type(self.body) is bytes:
            self.body = bytearray(self.body) + part
        else:
            self.body += part

    def on_message_complete(self):
        cdef Request *r = &self.request
        cdef object body = self.body
        cdef bytes key = self.key
        self.events += 1
        self.body = self.key = None
        self.body_bytes = 0
        self.phase = IDLE
        self.since = self.server.sweeps
        if r.shape.persistence == CLOSE:
            self.phase = ENDED
        if likely(not r.problem):
            if r.kind == GET_KEY:
                self.read(key)
                return
            self.write(key, body)
        if r.problem:
            self.give_problem(r.problem)

    # ------------------------------------------------------------------ requests
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
        if not server.turn.may_read(policy):
            return False
        item = server.turn.kv.get(PyBytes_AS_STRING(key), <uint32_t>PyBytes_GET_SIZE(key))
        if item != NULL:
            put_value(out, shape, item, server.turn.kv.revision)
        else:
            put_problem(out, shape, NO_KEY, server.turn.kv.revision)
        if not server.turn.may_read(policy):
            out.size = before
            return False
        server.count(GET_KEY, NO_KEY if item == NULL else NONE)
        return True

    cdef int write(self, bytes key, object body) except -1:
        """Queues a write, or sets the request's problem."""
        cdef Request *r = &self.request
        cdef Slot slot
        cdef bytes value = b""
        cdef bytes command
        cdef int compare = EXISTS if r.condition == IF_EXISTS else IS_REVISION
        if r.kind == POST_KEY:
            try:
                post = decode_post(b"" if body is None else body)
                key = post.key.encode()
                value = post.value.encode()
            except (ValueError, RecursionError):
                r.problem = BAD_JSON
                return 0
            if post.ttl is not msgspec.UNSET:
                r.problem = NO_TTL
                return 0
        elif r.kind == PUT_KEY and body is not None:
            value = bytes(body)
        r.problem = self.size_problem(key, value)
        if r.problem:
            return 0
        if r.kind == DELETE_KEY:
            command = (encode_delete(key) if r.condition == UNCONDITIONAL
                       else encode_delete_if(key, compare, r.revision))
        else:
            command = (encode_put(key, value) if r.condition == UNCONDITIONAL
                       else encode_put_if(key, value, compare, r.revision))
        slot = self.add(QUEUED)
        slot.op = PyBytes_AS_STRING(command)[0]
        slot.command = command
        self.held += PyBytes_GET_SIZE(command)
        return 0

    cdef int size_problem(self, bytes key, bytes value) noexcept:
        if PyBytes_GET_SIZE(key) == 0:
            return EMPTY_KEY
        if <size_t>PyBytes_GET_SIZE(key) > self.server.max_key_bytes:
            return KEY_TOO_LARGE
        if <size_t>PyBytes_GET_SIZE(value) > self.server.max_value_bytes:
            return VALUE_TOO_LARGE
        return 0

    cdef int give_problem(self, int problem) except -1:
        """Answers the request being read with a problem."""
        cdef HttpServer server = self.server
        cdef Request *r = &self.request
        cdef size_t before = server.out.size
        put_problem(&server.out, r.shape, problem, 0)
        server.count(r.kind, problem)
        if self.first is not None:
            self.give(self.cut(before))
        return 0

    cdef int refuse(self, int problem) except -1:
        """The last answer: what follows is not parsed."""
        self.request.shape.persistence = CLOSE
        self.request.shape.bare = False
        self.phase = ENDED
        self.lingers = True
        self.tail = self.target = self.body = None
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
        cdef int problem = PROBLEM_OF[status]
        if slot.op == GET and slot is not self.first and self.held > HELD:
            slot.state = QUEUED
            return 0
        if slot.kind == DELETE_KEY and (status == OK or status == MISSING):
            problem = NONE
            put_written(out, slot.shape, revision, status == OK)
        elif status != OK:
            put_problem(out, slot.shape, problem, revision)
        elif slot.op == GET:
            put_value(out, slot.shape, item, revision)
        else:
            put_written(out, slot.shape, revision, -1)
        server.count(slot.kind, problem)
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
        if self.transport is None or self.phase == ENDED and not self.paused:
            return 0
        if self.phase == LEAVING:
            if waited > server.header_sweeps:
                self.transport.abort()
        elif self.paused:
            if waited > server.idle_sweeps:
                self.transport.abort()
        elif self.first is not None:
            return 0
        elif self.phase == IDLE:
            if waited > server.idle_sweeps:
                self.leave()
        elif waited > (server.header_sweeps if self.phase == HEAD else server.idle_sweeps):
            self.refuse(TIMED_OUT)
            self.work()
        return 0


cdef uint64_t now_us() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_BOOTTIME, &now)
    return <uint64_t>now.tv_sec * 1000000 + <uint64_t>now.tv_nsec // 1000


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
        self.default_policy = default_policy
        self.request_timeout_us = request_timeout_us
        self.sweep_s = sweep_ms / 1000
        self.idle_sweeps = idle_timeout_ms // sweep_ms
        self.header_sweeps = header_timeout_ms // sweep_ms
        self.max_connections = max_connections
        self.max_pipeline = max_pipeline
        self.max_line_bytes = max_line_bytes
        self.max_header_bytes = max_header_bytes
        self.max_headers = max_headers
        self.max_body_bytes = max_body_bytes
        self.max_key_bytes = max_key_bytes
        self.max_value_bytes = max_value_bytes

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
            self.draining = True
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

    cdef void count(self, int kind, int problem) noexcept:
        self.counts[kind][problem] += 1

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
        if not self.open:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None
            if self.empty is not None and not self.empty.done():
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
