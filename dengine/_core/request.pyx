"""What a request line and its headers ask for.

This module decides what a path, a query and the headers that matter here mean, and which of them
are refused. It does not know limits, connections or the store.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport UINT64_MAX
from libc.string cimport memchr, memcmp

from dengine._core.answer cimport (
    BAD_CONDITION, BAD_QUERY, BAD_TARGET, EMPTY_KEY, METHOD_KEY, METHOD_KV, NO_EXPECTATION,
    NO_SCAN, NOT_FOUND)
from dengine._core.types cimport EVENTUAL, LEASE, LINEARIZABLE, unlikely

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)


# ------------------------------------------------------------------------------------ headers
cdef int take_header(Request *r, bytes name, bytes value) except -1:
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
            r.keyed = True
    elif n == 17:
        if strncasecmp(p, b"transfer-encoding", 17) == 0:
            r.coded = r.coded or r.chunked or not said(value, b"chunked")
            r.chunked = True
    return 0


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
