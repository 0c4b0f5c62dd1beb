# From bytes to one request at a time, within limits. Knows no answers and no store.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from dengine._core.answer cimport Shape

cdef enum Kind:                 # what the counters tell apart
    OTHER = 0
    GET_KEY = 1                 # HEAD too
    POST_KEY = 2
    PUT_KEY = 3
    DELETE_KEY = 4
    KINDS = 5

cdef enum Phase:                # of a connection's input
    IDLE = 0                    # between requests
    HEAD = 1                    # a request line or headers have begun
    BODY = 2
    ENDED = 3                   # nothing more is parsed
    LEAVING = 4                 # all answers are written: the peer closes, or the sweep does

cdef enum Condition:
    UNCONDITIONAL = 0
    IF_REVISION = 1             # the key's mod_revision equals `revision`; 0: it does not exist
    IF_EXISTS = 2

ctypedef struct Request:
    # One request as far as it was read. Zeroed at its first byte.
    uint8_t kind
    uint8_t policy              # of a GET
    uint8_t condition
    uint8_t problem             # to be answered instead, once the whole request is read; 0: none
    uint64_t revision           # of the condition
    Shape shape                 # of the answer
    # counted as they come
    uint32_t line_bytes         # of the target
    uint32_t headers
    uint32_t header_bytes
    # what was said, checked when the head is complete
    uint32_t hosts
    bint length_said            # Content-Length; the parser refuses a second one
    bint chunked                # Transfer-Encoding, exactly chunked
    bint coded                  # Transfer-Encoding, anything else
    bint connection_said
    bint upgrade_said
    uint32_t keyed              # Idempotency-Key, how often
    bint expects                # 100-continue
    uint64_t length             # bytes of the body, as announced

ctypedef struct Limits:
    # Of one request. Counted here, as it comes: the parser has none.
    uint32_t line_bytes         # of the target
    uint32_t header_bytes       # names, values and four bytes for each
    uint32_t headers
    size_t body_bytes
    size_t key_bytes
    size_t value_bytes
    uint8_t policy              # of a GET that names none
    bint last                   # the server drains: each request is its connection's last

# A command under an Idempotency-Key.
cdef bytes under(bytes idempotency, bytes command)


cdef class RequestReader:
    cdef const Limits *limits   # set by the subclass
    cdef object parser          # httptools.HttpRequestParser; it holds bound methods of this object
    cdef object feed            # parser.feed_data
    cdef Request request        # as far as it was read
    cdef bytes target
    cdef bytes key              # None: of a POST, or there is a problem
    cdef bytes idempotency      # of a write: its Idempotency-Key; None
    cdef object body            # None; bytes when it came in one piece, else bytearray
    cdef size_t body_bytes
    cdef uint8_t phase
    cdef uint8_t fault          # Problem that stopped the parser; 0: none
    cdef uint32_t events        # callbacks of the parser, modulo 2^32
    cdef size_t quiet           # bytes since the newest: what the parser may be hoarding

    cdef int open(self) except -1
    cdef int close(self) except -1
    # Parses n bytes; returns a Problem after which nothing more can be parsed, or 0.
    cdef int take(self, object data, size_t n) except -1
    # No more requests: what was begun is forgotten, the answer given now closes the connection.
    cdef int end(self) except -1
    # The command that the write just read asks for; None: request.problem says why not.
    cdef bytes command(self)
    cdef int head_fault(self, bint stays, bytes method) except -1
    # What a subclass does when the whole request is read, and when its body may be sent.
    cdef int asked(self) except -1
    cdef int proceed(self) except -1
