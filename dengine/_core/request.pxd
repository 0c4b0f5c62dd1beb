# What a request line and its headers ask for. Knows no connection and no store.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from dengine._core.answer cimport Shape

cdef enum Kind:                 # what the counters tell apart
    OTHER = 0
    GET_KEY = 1                 # HEAD too
    POST_KEY = 2
    PUT_KEY = 3
    DELETE_KEY = 4
    KINDS = 5

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
    bint keyed                  # Idempotency-Key
    bint expects                # 100-continue
    uint64_t length             # bytes of the body, as announced

# Notes one header.
cdef int take_header(Request *r, bytes name, bytes value) except -1
# Decides kind, policy and problem. Returns the key; None on POST and where there is a problem.
cdef bytes take_target(Request *r, bytes method, bytes target)
