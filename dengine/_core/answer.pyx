"""Bytes of answers: heads, JSON of values, problems (RFC 9457).

This module decides what a client reads in each case: the one table from what went wrong to status,
code and advice is here. It does not know who asked, nor when the answer is written.
"""
from binascii import b2a_base64
from email.utils import formatdate

from libc.stdint cimport int64_t
from libc.stdlib cimport free
from libc.string cimport strlen

from dengine._core.codec cimport DELETE, DELETE_IF, GET
from dengine._core.memory cimport grown
from dengine._core.types cimport MISSING, OK

SAFE = "Nothing was changed."

# HTTP status, code, detail (what happened, what it means for the data, what to do), own headers.
ROWS = {
    Problem.BAD_REQUEST: (
        400, "bad_request",
        f"This is not a valid HTTP/1.1 request. {SAFE} The connection is closed: send a valid one"),
    Problem.BAD_HOST: (
        400, "bad_host",
        f"HTTP/1.1 wants exactly one Host header. {SAFE} Send one"),
    Problem.BAD_FRAMING: (
        400, "bad_framing",
        f"The length of the body is in doubt. {SAFE} Send one Content-Length, or in HTTP/1.1"
        " Transfer-Encoding: chunked, not both"),
    Problem.BAD_VERSION: (
        400, "bad_version",
        f"This is neither HTTP/1.1 nor HTTP/1.0. {SAFE} Use one of them"),
    Problem.NO_UPGRADE: (
        400, "no_upgrade",
        f"This port speaks plain HTTP/1.1 only. {SAFE} Repeat without CONNECT and Upgrade"),
    Problem.BAD_TARGET: (
        400, "bad_target",
        f"The request target is not a path with valid percent escapes. {SAFE} Escape each byte of"
        " the key that is not a letter, digit or one of -._~ as %XX"),
    Problem.BAD_QUERY: (
        400, "bad_query",
        f"A query parameter is unknown, repeated or has an unknown value. {SAFE} GET /kv/KEY takes"
        " consistency=linearizable, lease or eventual, other requests none"),
    Problem.BAD_JSON: (
        400, "bad_json",
        f"The body is not what was expected. {SAFE} Send a JSON object with two strings, key and"
        " value"),
    Problem.BAD_CONDITION: (
        400, "bad_condition",
        f'A condition was not understood. {SAFE} Send either If-Match: * or "N", or'
        " If-None-Match: *"),
    Problem.EMPTY_KEY: (
        400, "empty_key",
        f"The key is empty. {SAFE} A key has at least one byte"),
    Problem.NO_TTL: (
        400, "not_supported_yet",
        f"Keys that expire are not supported yet. {SAFE} Repeat without ttl"),
    Problem.NO_SCAN: (
        400, "not_supported_yet",
        f"Scans over HTTP are not supported yet. {SAFE} Read single keys with GET /kv/KEY"),
    Problem.BAD_IDEMPOTENCY: (
        400, "bad_idempotency_key",
        f"Idempotency-Key is not one value of 1 to 255 visible characters. {SAFE} Send a random"
        " one, a new one for each new request"),
    Problem.NO_EXPECTATION: (
        417, "unknown_expectation",
        f"The only expectation that can be met is 100-continue. {SAFE} Repeat without Expect"),
    Problem.NOT_FOUND: (
        404, "not_found",
        f"There is nothing at this path. {SAFE} Use /kv and /kv/KEY"),
    Problem.NO_CHECK: (
        404, "not_found",
        "There is nothing at this path. Use /primary, /replica, /health, /ready or /metrics"),
    Problem.NO_KEY: (
        404, "key_not_found",
        "There is no such key at this revision. Write it first if it should exist",
        "Vary: Accept\r\n"),
    Problem.METHOD_KV: (
        405, "method_not_allowed",
        f"This path takes POST only. {SAFE} Use one of the methods in Allow",
        "Allow: POST\r\n"),
    Problem.METHOD_KEY: (
        405, "method_not_allowed",
        f"A key takes GET, HEAD, PUT and DELETE. {SAFE} Use one of the methods in Allow",
        "Allow: GET, HEAD, PUT, DELETE\r\n"),
    Problem.METHOD_HEALTH: (
        405, "method_not_allowed",
        f"This path can only be read. {SAFE} Use one of the methods in Allow",
        "Allow: GET, HEAD\r\n"),
    Problem.TIMED_OUT: (
        408, "request_timeout",
        f"The request did not arrive in time. {SAFE} Send it again on a new connection"),
    Problem.CONFLICTED: (
        412, "conflict",
        f"The condition does not hold: revision is the key's, 0 if it does not exist. {SAFE} Read"
        " the key again and decide anew"),
    Problem.BODY_TOO_LARGE: (
        413, "body_too_large",
        f"The body is larger than http.max_body_bytes. {SAFE} Send a smaller one"),
    Problem.KEY_TOO_LARGE: (
        413, "key_too_large",
        f"The key is larger than limits.key_bytes. {SAFE} Use a shorter one"),
    Problem.VALUE_TOO_LARGE: (
        413, "value_too_large",
        f"The value is larger than limits.value_bytes. {SAFE} Split it over several keys"),
    Problem.LINE_TOO_LONG: (
        414, "target_too_long",
        f"The request target is longer than http.max_line_bytes. {SAFE} Send a shorter one"),
    Problem.HEADERS_TOO_LARGE: (
        431, "headers_too_large",
        f"The headers are more than http.max_headers or http.max_header_bytes. {SAFE} Send fewer"),
    Problem.KEY_REUSED: (
        422, "idempotency_key_reused",
        f"Another request was sent under this Idempotency-Key. {SAFE} Use a new key for each new"
        " request, the same only to repeat one"),
    Problem.NO_MORE_KEYS: (
        503, "idempotency_full",
        f"The node remembers as many Idempotency-Keys as it can. {SAFE} Repeat later, or without"
        " one", "Retry-After: 1\r\n"),
    Problem.TOO_BUSY: (
        503, "overloaded",
        f"This node has as much to do as limits.waiting_writes, waiting_bytes or waiting_reads let"
        f" it take. {SAFE} Repeat later",
        "Retry-After: 1\r\n"),
    Problem.PROPOSED_NOTHING: (
        503, "not_proposed",
        f"No leader took the write before its deadline. {SAFE} It is safe to repeat",
        "Retry-After: 1\r\n"),
    Problem.NO_LEADER: (
        503, "unavailable",
        f"No leader confirmed the read before its deadline. {SAFE} Repeat it, or read with"
        " consistency=eventual",
        "Retry-After: 1\r\n"),
    Problem.HAS_STOPPED: (
        503, "stopped",
        "This node has stopped. A write that was not answered before may or may not be applied."
        " Use another node",
        "Retry-After: 1\r\n"),
    Problem.TOO_MANY_CONNECTIONS: (
        503, "too_many_connections",
        f"This node has http.max_connections open. {SAFE} Use another node, or repeat later",
        "Retry-After: 1\r\n"),
    Problem.OUTCOME_UNKNOWN: (
        504, "outcome_unknown",
        "The write was proposed but not confirmed before its deadline: it may or may not be"
        " applied, now or later. Read the key before repeating it"),
    Problem.DISK_FULL: (
        507, "no_space",
        f"The disks of a majority of the nodes are full. {SAFE} Make room on them, no restart is"
        " needed, and repeat",
        "Retry-After: 1\r\n"),
}

REASONS = {
    400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout",
    412: "Precondition Failed", 413: "Content Too Large", 414: "URI Too Long",
    417: "Expectation Failed", 422: "Unprocessable Content", 431: "Request Header Fields Too Large",
    503: "Service Unavailable", 504: "Gateway Timeout", 507: "Insufficient Storage",
}

# Of each problem: its status line, its other headers, its body without the closing brace.
cdef list PROBLEM_BYTES = [None] * PROBLEMS
cdef char date[29]              # of all answers, as in RFC 9110: Sun, 06 Nov 1994 08:49:37 GMT
cdef uint8_t width[128]         # bytes of an ASCII character in a JSON string
cdef uint8_t letter[128]        # behind the backslash where width is 2
cdef const char *HEX = "0123456789abcdef"


# What a Waiter is told, as a Problem, in the order of Status.
cdef uint8_t[11] PROBLEM_OF = [
    NONE, NO_KEY, CONFLICTED, PROPOSED_NOTHING, OUTCOME_UNKNOWN, NO_LEADER, HAS_STOPPED,
    DISK_FULL, KEY_REUSED, NO_MORE_KEYS, TOO_BUSY]


# ------------------------------------------------------------------------------------ answers
cdef int put_outcome(Out *out, Shape shape, uint8_t op, int status, uint64_t revision,
                     const Item *item) except -1:
    cdef bint deletes = op == DELETE or op == DELETE_IF
    if deletes and (status == OK or status == MISSING):
        put_written(out, shape, revision, status == OK)
        return NONE
    if unlikely(status != OK):
        put_problem(out, shape, PROBLEM_OF[status], revision)
    elif op == GET:
        put_value(out, shape, item, revision)
    else:
        put_written(out, shape, revision, -1)
    return PROBLEM_OF[status]


cdef int put_value(Out *out, Shape shape, const Item *item, uint64_t revision) except -1:
    """A value as JSON or as it is; `revision` is the store's."""
    cdef const char *value = item.data + item.key_size
    cdef size_t n = item.value_size
    cdef int64_t size = -1 if shape.raw else text_size(<const uint8_t *>value, n)
    cdef bytes coded = None
    put_head(out, b"HTTP/1.1 200 OK\r\nDate: ", shape)
    put_c(out, b"Vary: Accept\r\nETag: \"")
    put_number(out, item.mod_revision)
    put_c(out, b"\"\r\nDengine-Revision: ")
    put_number(out, revision)
    if shape.raw:
        put_length(out, b"\r\nContent-Type: application/octet-stream", n)
        return 0 if shape.bare else put(out, value, n)
    if size < 0:
        coded = b2a_base64(value[:n], newline=False)
        size = len(coded)
        put_length(out, b"\r\nContent-Type: application/json", size + 19)
    else:
        put_length(out, b"\r\nContent-Type: application/json", size + 12)
    if shape.bare:
        return 0
    if coded is None:
        put_c(out, b"{\"value\":\"")
        put_text(out, <const uint8_t *>value, n, size)
    else:
        put_c(out, b"{\"value_base64\":\"")
        put(out, coded, size)
    return put_c(out, b"\"}")


cdef int put_written(Out *out, Shape shape, uint64_t revision, int deleted) except -1:
    """A write's revision. deleted: 0 or 1 for a DELETE, -1 for a write of a value."""
    cdef size_t digits
    put_head(out, b"HTTP/1.1 200 OK\r\nDate: ", shape)
    if deleted < 0:
        put_c(out, b"ETag: \"")
        put_number(out, revision)
        put_c(out, b"\"\r\n")
    put_c(out, b"Dengine-Revision: ")
    digits = put_number(out, revision)
    put_length(out, b"\r\nContent-Type: application/json", digits + (13 if deleted < 0 else 25))
    put_c(out, b"{\"revision\":")
    put_number(out, revision)
    if deleted >= 0:
        put_c(out, b",\"deleted\":1" if deleted else b",\"deleted\":0")
    return put_c(out, b"}")


cdef int put_problem(Out *out, Shape shape, int problem, uint64_t revision) except -1:
    cdef bytes line, headers, body
    line, headers, body = PROBLEM_BYTES[problem]
    if problem == CONFLICTED:
        body = b"%s,\"revision\":%d}" % (body, revision)
    else:
        body = body + b"}"
    put_head(out, line, shape)
    put(out, headers, len(headers))
    if problem == NO_KEY:
        put_c(out, b"Dengine-Revision: ")
        put_number(out, revision)
        put_c(out, b"\r\n")
    put_length(out, b"Content-Type: application/problem+json", len(body))
    return 0 if shape.bare else put(out, body, len(body))


cpdef int refresh_date() except -1:
    cdef bytes now = formatdate(usegmt=True).encode()
    memcpy(date, <const char *>now, sizeof(date))
    return 0


# -------------------------------------------------------------------------------------- parts
cdef inline int put_c(Out *out, const char *text) except -1:
    return put(out, text, strlen(text))


cdef int put_head(Out *out, const char *line, Shape shape) except -1:
    """The status line, the date and what becomes of the connection."""
    put_c(out, line)
    put(out, date, sizeof(date))
    if likely(shape.persistence == UNSAID):
        return put_c(out, b"\r\n")
    if shape.persistence == CLOSE:
        return put_c(out, b"\r\nConnection: close\r\n")
    return put_c(out, b"\r\nConnection: keep-alive\r\n")


cdef int put_length(Out *out, const char *content_type, size_t n) except -1:
    """The last two headers and the empty line."""
    put_c(out, content_type)
    put_c(out, b"\r\nContent-Length: ")
    put_number(out, n)
    return put_c(out, b"\r\n\r\n")


cdef int put_number(Out *out, uint64_t n) except -1:
    """Writes n in decimal; returns the number of digits."""
    cdef char digits[20]
    cdef int at = sizeof(digits)
    while True:
        at -= 1
        digits[at] = <char>(c'0' + n % 10)
        n //= 10
        if n == 0:
            break
    put(out, digits + at, sizeof(digits) - at)
    return <int>sizeof(digits) - at


cdef int grow(Out *out, size_t n) except -1:
    out.data = <char *>grown(out.data, out.size + n, &out.capacity, 1, 4096)
    return 0


# --------------------------------------------------------------------------------------- JSON
cdef int64_t text_size(const uint8_t *p, size_t n) noexcept nogil:
    """Bytes of p in a JSON string; -1: not UTF-8."""
    cdef int64_t size = 0
    cdef size_t i = 0
    cdef size_t k
    while i < n:
        if likely(p[i] < 0x80):
            size += width[p[i]]
            i += 1
        else:
            k = rune_size(p + i, n - i)
            if k == 0:
                return -1
            size += k
            i += k
    return size


cdef size_t rune_size(const uint8_t *p, size_t n) noexcept nogil:
    """Bytes of the one non-ASCII character at p; 0: not UTF-8 (RFC 3629)."""
    cdef size_t size = 2 if p[0] < 0xE0 else 3 if p[0] < 0xF0 else 4
    cdef size_t i
    if p[0] < 0xC2 or p[0] > 0xF4 or n < size:
        return 0
    for i in range(1, size):
        if p[i] & 0xC0 != 0x80:
            return 0
    if p[0] == 0xE0 and p[1] < 0xA0 or p[0] == 0xED and p[1] > 0x9F:    # overlong, surrogate
        return 0
    if p[0] == 0xF0 and p[1] < 0x90 or p[0] == 0xF4 and p[1] > 0x8F:    # overlong, too high
        return 0
    return size


cdef int put_text(Out *out, const uint8_t *p, size_t n, size_t size) except -1:
    """Writes p, of which text_size is `size`, as the inside of a JSON string."""
    cdef size_t from_, i = 0
    cdef char escape[6]
    if size == n:
        return put(out, <const char *>p, n)
    while i < n:
        from_ = i
        while i < n and (p[i] >= 0x80 or width[p[i]] == 1):
            i += 1
        put(out, <const char *>p + from_, i - from_)
        if i == n:
            break
        if width[p[i]] == 2:
            escape[0] = c'\\'
            escape[1] = letter[p[i]]
        else:
            memcpy(escape, <const char *>b"\\u00", 4)
            escape[4] = HEX[p[i] >> 4]
            escape[5] = HEX[p[i] & 15]
        put(out, escape, width[p[i]])
        i += 1
    return 0


# ------------------------------------------------------------------------------------ at import
def title(int problem) -> tuple[int, str]:
    """(HTTP status, code) of a problem; NONE is (200, "ok")."""
    return ROWS[problem][:2] if problem else (200, "ok")


def problem(int which, bint bare=False) -> bytes:
    """The whole answer for a problem, after which the connection closes."""
    cdef Out out = Out(NULL, 0, 0)
    cdef Shape shape = Shape(CLOSE, bare, False)
    try:
        put_problem(&out, shape, which, 0)
        return out.data[:out.size]
    finally:
        free(out.data)


cdef int build_tables() except -1:
    cdef int i
    for i in range(128):
        width[i] = 6 if i < 32 else 1
    for i, to in zip(b'"\\\b\f\n\r\t', b'"\\bfnrt'):
        width[i] = 2
        letter[i] = to
    for i in range(1, <int>PROBLEMS):
        status, code, detail, *headers = ROWS[i]
        reason = REASONS[status]
        line = f"HTTP/1.1 {status} {reason}\r\nDate: "
        detail = detail.replace('"', '\\"')
        body = (f'{{"type":"urn:dengine:problem:{code}","title":"{reason}","status":{status},'
                f'"detail":"{detail}.","code":"{code}"')
        PROBLEM_BYTES[i] = line.encode(), "".join(headers).encode(), body.encode()
    refresh_date()
    return 0


build_tables()
