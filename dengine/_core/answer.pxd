# Bytes of answers: heads, JSON of values, problems. Knows no connection and no request.
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from dengine._core.types cimport Item, likely, unlikely

# What went wrong, one row of PROBLEMS each; NONE: 200.
cpdef enum Problem:
    NONE = 0
    BAD_REQUEST
    BAD_HOST
    BAD_FRAMING
    BAD_VERSION
    NO_UPGRADE
    BAD_TARGET
    BAD_QUERY
    BAD_JSON
    BAD_CONDITION
    EMPTY_KEY
    NO_TTL
    NO_SCAN
    BAD_IDEMPOTENCY
    NO_EXPECTATION
    NOT_FOUND
    NO_CHECK
    NO_KEY
    METHOD_KV
    METHOD_KEY
    METHOD_HEALTH
    TIMED_OUT
    CONFLICTED
    BODY_TOO_LARGE
    KEY_TOO_LARGE
    VALUE_TOO_LARGE
    LINE_TOO_LONG
    HEADERS_TOO_LARGE
    PROPOSED_NOTHING
    NO_LEADER
    HAS_STOPPED
    TOO_MANY_CONNECTIONS
    OUTCOME_UNKNOWN
    DISK_FULL
    KEY_REUSED
    NO_MORE_KEYS
    TOO_BUSY
    PROBLEMS                    # how many

cdef enum Persistence:          # what the answer says of the connection
    UNSAID = 0                  # HTTP/1.1, stays open
    CLOSE = 1
    KEEP_ALIVE = 2              # HTTP/1.0, stays open

ctypedef struct Shape:
    uint8_t persistence
    bint bare                   # HEAD: no body
    bint raw                    # a value as application/octet-stream, not as JSON

ctypedef struct Out:
    # A growing buffer. Zeroed: empty. Whoever holds it frees `data`.
    char *data
    size_t size                 # bytes in use
    size_t capacity             # bytes

cdef int grow(Out *out, size_t n) except -1

cdef inline int put(Out *out, const char *p, size_t n) except -1:
    if unlikely(out.capacity - out.size < n):
        grow(out, n)
    memcpy(out.data + out.size, p, n)
    out.size += n
    return 0

# The answer to a Waiter of this op that is told this; returns the Problem.
cdef int put_outcome(Out *out, Shape shape, uint8_t op, int status, uint64_t revision,
                     const Item *item) except -1
# revision: CONFLICTED the key's, NO_KEY the store's, else 0.
cdef int put_problem(Out *out, Shape shape, int problem, uint64_t revision) except -1
# Called about once a second: the Date of all answers.
cpdef int refresh_date() except -1
