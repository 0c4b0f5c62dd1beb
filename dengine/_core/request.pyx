"""From bytes to one request at a time, within limits.

This module decides what a request may be, what its path, query, headers and body ask for, and
which command that is. httptools parses; what it lets through and must not pass is refused here.
It does not know answers, the order of requests, or the store.
"""
from hashlib import blake2b

import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport UINT64_MAX
from libc.string cimport memchr, memcmp, memset

from dengine._core.answer cimport (
    BAD_CONDITION, BAD_FRAMING, BAD_HOST, BAD_IDEMPOTENCY, BAD_JSON, BAD_QUERY, BAD_REQUEST,
    BAD_TARGET, BAD_VERSION, BODY_TOO_LARGE, CLOSE, EMPTY_KEY, HEADERS_TOO_LARGE, KEEP_ALIVE,
    KEY_TOO_LARGE, LINE_TOO_LONG, METHOD_KEY, METHOD_KV, NOT_FOUND, NO_EXPECTATION, NO_SCAN,
    NO_TTL, NO_UPGRADE, VALUE_TOO_LARGE)
from dengine._core.codec cimport (
    EXISTS, IS_REVISION, encode_delete, encode_delete_if, encode_keyed,
    encode_put, encode_put_if)
from dengine._core.types cimport EVENTUAL, LEASE, LINEARIZABLE, likely, unlikely

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

# The body of POST /kv.
decode_post = msgspec.json.Decoder(msgspec.defstruct(
    "Post",
    [("key", str), ("value", str), ("ttl", msgspec.Raw | msgspec.UnsetType, msgspec.UNSET)],
    forbid_unknown_fields=True, gc=False)).decode


class Stop(Exception):
    """Ends the parser's work on a connection: `fault` says why, or it had ended before."""


cdef class RequestReader:
    cdef int open(self) except -1:
        self.parser = HttpRequestParser(self)
        self.feed = self.parser.feed_data
        return 0

    cdef int close(self) except -1:
        self.parser = self.feed = self.target = self.key = self.body = self.idempotency = None
        return 0

    cdef int end(self) except -1:
        memset(&self.request, 0, sizeof(Request))
        self.request.shape.persistence = CLOSE
        self.phase = ENDED
        self.target = self.key = self.body = self.idempotency = None
        return 0

    cdef int take(self, object data, size_t n) except -1:
        cdef uint32_t events = self.events
        try:
            self.feed(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if error.__context__ is not None and not isinstance(error.__context__, Stop):
                raise                       # not theirs: a callback of ours failed
            return self.fault or BAD_REQUEST
        if likely(self.events != events):
            self.quiet = 0
            return 0
        self.quiet += n
        if self.phase == IDLE:
            self.phase = HEAD               # half a method
        if self.quiet > self.limits.header_bytes:
            return HEADERS_TOO_LARGE if self.phase == HEAD else BAD_REQUEST
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
            self.target = part
        else:
            self.target += part
        r.line_bytes += <uint32_t>PyBytes_GET_SIZE(part)
        if unlikely(r.line_bytes > self.limits.line_bytes):
            self.fault = LINE_TOO_LONG
            raise Stop

    def on_header(self, bytes name not None, bytes value not None):
        cdef Request *r = &self.request
        self.events += 1
        r.headers += 1
        r.header_bytes += <uint32_t>(PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) + 4)
        if unlikely(r.headers > self.limits.headers
                    or r.header_bytes > self.limits.header_bytes):
            self.fault = HEADERS_TOO_LARGE
            raise Stop
        if likely(self.phase == HEAD):      # else a trailer
            if unlikely(take_header(r, name, value)):
                self.idempotency = value

    def on_headers_complete(self):
        cdef Request *r = &self.request
        cdef bytes method = self.parser.get_method()
        cdef bint stays = self.parser.should_keep_alive()
        self.events += 1
        self.fault = self.head_fault(stays, method)
        if unlikely(self.fault):
            raise Stop
        self.phase = BODY
        if unlikely(not stays or self.limits.last):
            r.shape.persistence = CLOSE
        r.shape.bare = method == b"HEAD"
        r.policy = self.limits.policy
        self.key = take_target(r, method, self.target)
        self.target = None
        if unlikely(r.problem):
            return
        if unlikely(r.keyed > 1 or (r.keyed and not is_key(self.idempotency))):
            r.problem = BAD_IDEMPOTENCY
        elif self.key is not None and <size_t>PyBytes_GET_SIZE(self.key) > self.limits.key_bytes:
            r.problem = KEY_TOO_LARGE
        elif unlikely(r.expects):
            self.proceed()

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
        if unlikely(r.length_said and r.length > self.limits.body_bytes):
            return BODY_TOO_LARGE
        return 0

    def on_chunk_header(self):
        self.events += 1

    def on_body(self, bytes part not None):
        self.events += 1
        self.body_bytes += PyBytes_GET_SIZE(part)
        if unlikely(self.body_bytes > self.limits.body_bytes):
            self.fault = BODY_TOO_LARGE
            raise Stop
        if self.request.kind == GET_KEY or self.request.problem:
            return
        if self.body is None:
            self.body = part
        elif type(self.body) is bytes:
            self.body = bytearray(self.body) + part
        else:
            self.body += part

    def on_message_complete(self):
        self.events += 1
        self.body_bytes = 0
        self.phase = ENDED if self.request.shape.persistence == CLOSE else IDLE
        self.asked()
        self.key = self.body = self.idempotency = None

    # ------------------------------------------------------------------ commands
    cdef bytes command(self):
        cdef Request *r = &self.request
        cdef bytes key = self.key
        cdef bytes value = b""
        cdef bytes command
        cdef int compare = EXISTS if r.condition == IF_EXISTS else IS_REVISION
        if r.problem:
            return None
        if r.kind == POST_KEY:
            try:
                post = decode_post(b"" if self.body is None else self.body)
                key = post.key.encode()
                value = post.value.encode()
            except (ValueError, RecursionError):
                r.problem = BAD_JSON
                return None
            if post.ttl is not msgspec.UNSET:
                r.problem = NO_TTL
        elif r.kind == PUT_KEY and self.body is not None:
            value = bytes(self.body)
        if PyBytes_GET_SIZE(key) == 0:
            r.problem = EMPTY_KEY
        elif <size_t>PyBytes_GET_SIZE(key) > self.limits.key_bytes:
            r.problem = KEY_TOO_LARGE
        elif <size_t>PyBytes_GET_SIZE(value) > self.limits.value_bytes:
            r.problem = VALUE_TOO_LARGE
        if r.problem:
            return None
        if r.kind == DELETE_KEY:
            command = (encode_delete(key) if r.condition == UNCONDITIONAL
                       else encode_delete_if(key, compare, r.revision))
        else:
            command = (encode_put(key, value) if r.condition == UNCONDITIONAL
                       else encode_put_if(key, value, compare, r.revision))
        return command if likely(self.idempotency is None) else under(self.idempotency, command)

    cdef int asked(self) except -1:
        raise NotImplementedError

    cdef int proceed(self) except -1:
        raise NotImplementedError


# ------------------------------------------------------------------------------------ headers
cdef int take_header(Request *r, bytes name, bytes value) except -1:
    """Notes what matters here. 1: it is an Idempotency-Key, which is kept."""
    cdef const char *p = PyBytes_AS_STRING(name)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(name)
    if n == 4:
        if strncasecmp(p, b"host", 4) == 0:
            r.hosts += 1
    elif n == 6:
        if strncasecmp(p, b"accept", 6) == 0:
            r.shape.raw = value[:24].lower() == b"application/octet-stream"
        elif strncasecmp(p, b"expect", 6) == 0:
            r.expects = said(value, b"100-continue")
            if not r.expects:
                r.problem = NO_EXPECTATION
    elif n == 7:
        if strncasecmp(p, b"upgrade", 7) == 0:
            r.upgrade_said = True
    elif n == 8:
        if strncasecmp(p, b"if-match", 8) == 0:
            take_condition(r, value, True)
    elif n == 10:
        if strncasecmp(p, b"connection", 10) == 0:
            r.connection_said = True
    elif n == 13:
        if strncasecmp(p, b"if-none-match", 13) == 0:
            take_condition(r, value, False)
    elif n == 14:
        if strncasecmp(p, b"content-length", 14) == 0:
            r.length_said = True
            r.length = number(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    elif n == 15:
        if strncasecmp(p, b"idempotency-key", 15) == 0:
            r.keyed += 1
            return 1
    elif n == 17:
        if strncasecmp(p, b"transfer-encoding", 17) == 0:
            r.coded = r.coded or r.chunked or not said(value, b"chunked")
            r.chunked = True
    return 0


cdef bint is_key(bytes value) noexcept:
    """1 to 255 visible characters."""
    cdef const char *p = PyBytes_AS_STRING(value)
    cdef Py_ssize_t i, n = PyBytes_GET_SIZE(value)
    for i in range(n):
        if not c'!' <= p[i] <= c'~':
            return False
    return 0 < n <= 255


cdef bytes under(bytes idempotency, bytes command):
    """The command under that key: what is equal but for the key is the same request."""
    return encode_keyed(command, blake2b(idempotency, digest_size=16).digest()
                        + blake2b(command, digest_size=8).digest())


cdef bint said(bytes value, bytes word) noexcept:
    """Is the value this one word, whatever its case?"""
    return value.strip().lower() == word


cdef int take_condition(Request *r, bytes value, bint match) except -1:
    """If-Match: * or "N"; If-None-Match: *; only one of them."""
    cdef uint64_t revision = 0
    cdef bint bad = r.condition != UNCONDITIONAL
    value = value.strip()
    if not match:
        r.condition = IF_REVISION
        bad = bad or value != b"*"
    elif value == b"*":
        r.condition = IF_EXISTS
    else:
        r.condition = IF_REVISION
        if PyBytes_GET_SIZE(value) > 2 and value.startswith(b"\"") and value.endswith(b"\""):
            revision = number(PyBytes_AS_STRING(value) + 1, PyBytes_GET_SIZE(value) - 2)
        bad = bad or revision == 0 or revision == UINT64_MAX
    r.revision = revision
    if bad:
        r.problem = BAD_CONDITION
    return 0


cdef uint64_t number(const char *p, size_t n) noexcept nogil:
    """The decimal number at p; UINT64_MAX: not one, or 19 digits and more."""
    cdef uint64_t x = 0
    cdef size_t i
    while n > 0 and (p[n - 1] == c' ' or p[n - 1] == c'\t'):
        n -= 1
    if n == 0 or n > 18:
        return UINT64_MAX
    for i in range(n):
        if not c'0' <= p[i] <= c'9':
            return UINT64_MAX
        x = 10 * x + <uint64_t>(p[i] - c'0')
    return x


# ------------------------------------------------------------------------------------- target
cdef bytes take_target(Request *r, bytes method, bytes target):
    """Decides kind, policy and problem. Returns the key; None on POST and with a problem."""
    cdef const char *p = PyBytes_AS_STRING(target)
    cdef size_t n = PyBytes_GET_SIZE(target)
    cdef const char *mark
    cdef size_t query = n                   # where it begins, behind the question mark
    cdef int found
    if unlikely(n == 0 or p[0] != c'/'):    # a proxy's absolute form
        target = path_of(target)
        if target is None:
            r.problem = NOT_FOUND
            return None
        return take_target(r, method, target)
    if unlikely(memchr(p, c'#', n) != NULL):
        r.problem = BAD_TARGET
        return None
    mark = <const char *>memchr(p, c'?', n)
    if mark != NULL:
        query = mark - p + 1
        n = query - 1
    if n < 3 or memcmp(p, <const char *>b"/kv", 3) or n > 3 and p[3] != c'/':
        r.problem = NOT_FOUND
        return None
    found = take_method(r, method, n > 3)
    if found:
        r.problem = found
        return None
    if query < <size_t>PyBytes_GET_SIZE(target):
        take_query(r, p + query, PyBytes_GET_SIZE(target) - query)
    if n == 3:
        return None
    return take_key(r, p + 4, n - 4)


cdef bytes path_of(bytes target):
    """The path and query of http://host/path?query; None: not of that form."""
    if target[:7].lower() != b"http://":
        return None
    return b"/" + target[7:].partition(b"/")[2]


cdef int take_method(Request *r, bytes method, bint has_key) except -1:
    """Sets the kind; returns the problem."""
    if has_key:
        if method == b"GET" or method == b"HEAD":
            r.kind = GET_KEY
            if r.problem == BAD_CONDITION:  # conditions are of writes; a read ignores them
                r.problem = 0
        elif method == b"PUT":
            r.kind = PUT_KEY
        elif method == b"DELETE":
            r.kind = DELETE_KEY
        else:
            return METHOD_KEY
    elif method == b"POST":
        r.kind = POST_KEY
    else:
        return NO_SCAN if method == b"GET" or method == b"HEAD" else METHOD_KV
    return 0


cdef int take_query(Request *r, const char *p, size_t n) except -1:
    """consistency=…, once, of a GET; nothing else."""
    cdef bytes query = p[:n]
    if r.kind != GET_KEY:
        r.problem = BAD_QUERY
    elif query == b"consistency=linearizable":
        r.policy = LINEARIZABLE
    elif query == b"consistency=lease":
        r.policy = LEASE
    elif query == b"consistency=eventual":
        r.policy = EVENTUAL
    else:
        r.problem = BAD_QUERY
    return 0


cdef bytes take_key(Request *r, const char *p, size_t n):
    cdef bytes key
    if n == 0:
        r.problem = EMPTY_KEY
        return None
    if memchr(p, c'%', n) == NULL:
        return PyBytes_FromStringAndSize(p, n)
    key = unescaped(p, n)
    if key is None:
        r.problem = BAD_TARGET
    return key


cdef bytes unescaped(const char *p, size_t n):
    """The bytes that percent escapes mean; None: an invalid one."""
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n)
    cdef char *to = PyBytes_AS_STRING(out)
    cdef size_t i = 0
    cdef size_t size = 0
    cdef int high, low
    while i < n:
        if p[i] != c'%':
            to[size] = p[i]
            i += 1
        else:
            high = hex_digit(p[i + 1]) if n - i > 2 else -1
            low = hex_digit(p[i + 2]) if n - i > 2 else -1
            if high < 0 or low < 0:
                return None
            to[size] = <char>(high << 4 | low)
            i += 3
        size += 1
    return PyBytes_FromStringAndSize(to, size)


cdef int hex_digit(char c) noexcept nogil:
    """Its value; -1: not one."""
    if c'0' <= c <= c'9':
        return c - c'0'
    c |= 0x20
    return c - c'a' + 10 if c'a' <= c <= c'f' else -1
