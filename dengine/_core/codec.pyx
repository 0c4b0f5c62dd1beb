"""Entries and commands to bytes and back.

This module decides what the bytes of a record and a command mean. It does not know where they come
from or go to: every reader is told how many bytes it may look at.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy, memset

from dengine._core.crc cimport crc32c
from dengine._core.types cimport MAX_KEY, MAX_RECORD, MAX_VALUE, RECORD_HEADER, unlikely

from dengine.errors import TooLargeError

cdef enum:
    CRC_FROM = 8                # length and crc themselves are not covered (length by its use)
    KEYED_BYTES = 24            # hashes of an Idempotency-Key and of the request

cdef packed struct CommandHeader:
    uint8_t op
    uint64_t session
    uint64_t sequence
    uint64_t floor


cdef uint32_t record_encode(char *to, uint64_t term, uint64_t index, uint8_t kind,
                            const char *payload, size_t n, uint32_t crc) noexcept nogil:
    cdef Record *r = <Record *>to
    cdef size_t length = RECORD_HEADER + n
    r.length = <uint32_t>length
    r.term = term
    r.index = index
    r.kind = kind
    r.flags = 0
    r.zero = 0
    r.raw_length = 0
    if payload != NULL:
        memcpy(to + RECORD_HEADER, payload, n)
    memset(to + length, 0, padded(length) - length)
    r.crc = crc32c(to + CRC_FROM, length - CRC_FROM, crc)
    return r.crc


cdef int record_check(const char *p, size_t n, uint64_t index, uint64_t term,
                      uint32_t crc) noexcept nogil:
    cdef const Record *r = <const Record *>p
    if n < sizeof(uint32_t):
        return RECORD_SHORT
    if r.length == 0:
        return RECORD_END
    if r.length < RECORD_HEADER or r.length > MAX_RECORD:
        return RECORD_LENGTH
    if padded(r.length) > n:
        return RECORD_SHORT
    if crc32c(p + CRC_FROM, r.length - CRC_FROM, crc) != r.crc:
        return RECORD_CRC
    if r.index != index or r.term < term or r.term == 0:
        return RECORD_ORDER
    if (r.kind < ENTRY_NOOP or r.kind > ENTRY_TICK or r.flags != 0 or r.zero != 0
            or r.raw_length != 0):
        return RECORD_KIND
    return RECORD_OK


# ------------------------------------------------------------------------------------- commands
cdef uint8_t take_hashes(Reader *r, uint8_t op, Command *out) noexcept nogil:
    """Of a command under an Idempotency-Key. Returns its op."""
    out.keyed = True
    out.idempotency[0] = take_u64(r)
    out.idempotency[1] = take_u64(r)
    out.print = take_u64(r)
    return op & ~KEYED


cdef int command_decode(const char *p, size_t n, Command *out) noexcept nogil:
    cdef const CommandHeader *h = <const CommandHeader *>p
    cdef Reader r
    cdef uint8_t op
    if unlikely(n < COMMAND_HEADER):
        return -1
    read_from(&r, p + COMMAND_HEADER, n - COMMAND_HEADER)
    op = h.op
    out.session = h.session
    out.sequence = h.sequence
    out.floor = h.floor
    out.key = NULL
    out.value = NULL
    out.key_size = 0
    out.value_size = 0
    out.keyed = False
    if unlikely(op & KEYED):
        op = take_hashes(&r, op, out)
        r.bad |= op == REGISTER
    out.op = op
    if op >= PUT and op <= DELETE_IF:
        if op >= PUT_IF:
            out.compare = take_u8(&r)
            out.revision = take_u64(&r)
            r.bad |= out.compare > EXISTS
        if op == PUT or op == PUT_IF:
            out.lease = take_u64(&r)
            r.bad |= out.lease != 0
        out.key_size = take_u32(&r)
        out.key = take_bytes(&r, out.key_size)
        if op == PUT or op == PUT_IF:
            out.value_size = take_u32(&r)
            out.value = take_bytes(&r, out.value_size)
        r.bad |= out.key_size == 0 or out.key_size > MAX_KEY or out.value_size > MAX_VALUE
    elif op == REGISTER:
        out.node = take_u64(&r)
        out.incarnation = take_u64(&r)
        out.nonce = take_u64(&r)
    else:
        return -2
    return -1 if r.bad or r.at != r.end else 0


cdef inline bytes blank(size_t n, Writer *w):
    """An uninitialised command of n bytes and a writer behind its zeroed session fields."""
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n)
    w.at = <uint8_t *>PyBytes_AS_STRING(out)
    w.end = w.at + n
    w.bad = False
    memset(w.at, 0, COMMAND_HEADER)
    return out


cdef bytes bytes_of(object x):
    if isinstance(x, str):
        return (<str>x).encode("utf-8")
    if isinstance(x, (bytes, bytearray, memoryview)):
        return bytes(x)
    raise TypeError(f"keys and values are bytes or str, not {type(x).__name__}")


cdef int check_size(bytes key, bytes value) except -1:
    if PyBytes_GET_SIZE(key) == 0:
        raise TooLargeError("the key is empty: nothing was written; a key has 1 to 4096 bytes")
    if PyBytes_GET_SIZE(key) > MAX_KEY:
        raise TooLargeError(
            f"the key has {len(key)} bytes, the limit is {MAX_KEY}: nothing was written; "
            "use a shorter key")
    if value is not None and PyBytes_GET_SIZE(value) > MAX_VALUE:
        raise TooLargeError(
            f"the value has {len(value)} bytes, the limit is {MAX_VALUE}: nothing was written; "
            "split it over several keys")
    return 0


cdef bytes encode(uint8_t op, uint8_t compare, uint64_t revision, bytes key, bytes value):
    cdef bint puts = op == PUT or op == PUT_IF
    if unlikely(key is None or (puts and value is None)):
        raise TypeError("keys and values are bytes")
    check_size(key, value)
    cdef size_t k = PyBytes_GET_SIZE(key)
    cdef size_t v = 0 if value is None else PyBytes_GET_SIZE(value)
    cdef bint conditional = op >= PUT_IF
    cdef Writer w
    cdef bytes out = blank(COMMAND_HEADER + (9 if conditional else 0) + 4 + k
                           + (12 + v if puts else 0), &w)
    w.at[0] = op
    w.at += COMMAND_HEADER
    if conditional:
        give_u8(&w, compare)
        give_u64(&w, revision)
    if puts:
        give_u64(&w, 0)
    give_u32(&w, <uint32_t>k)
    give_bytes(&w, PyBytes_AS_STRING(key), k)
    if puts:
        give_u32(&w, <uint32_t>v)
        give_bytes(&w, PyBytes_AS_STRING(value), v)
    return out


cdef bytes encode_put(bytes key, bytes value):
    return encode(PUT, 0, 0, key, value)


cdef bytes encode_delete(bytes key):
    return encode(DELETE, 0, 0, key, None)


cdef bytes encode_put_if(bytes key, bytes value, int compare, uint64_t revision):
    return encode(PUT_IF, compare, revision, key, value)


cdef bytes encode_delete_if(bytes key, int compare, uint64_t revision):
    return encode(DELETE_IF, compare, revision, key, None)


cdef bytes encode_keyed(bytes command, bytes digest):
    cdef size_t n = PyBytes_GET_SIZE(command)
    cdef Writer w
    cdef bytes out = blank(n + KEYED_BYTES, &w)
    w.at[0] = PyBytes_AS_STRING(command)[0] | KEYED
    w.at += COMMAND_HEADER
    give_bytes(&w, PyBytes_AS_STRING(digest), KEYED_BYTES)
    give_bytes(&w, PyBytes_AS_STRING(command) + COMMAND_HEADER, n - COMMAND_HEADER)
    return out


cdef bytes encode_register(uint64_t node, uint64_t incarnation, uint64_t nonce):
    cdef Writer w
    cdef bytes out = blank(COMMAND_HEADER + 24, &w)
    w.at[0] = REGISTER
    w.at += COMMAND_HEADER
    give_u64(&w, node)
    give_u64(&w, incarnation)
    give_u64(&w, nonce)
    return out


cdef void stamp(char *at, uint64_t session, uint64_t sequence, uint64_t floor) noexcept nogil:
    memcpy(at + 1, &session, 8)
    memcpy(at + 9, &sequence, 8)
    memcpy(at + 17, &floor, 8)


# ------------------------------------------------------------------------------- configurations
cdef bytes encode_jump(uint64_t jump):
    return PyBytes_FromStringAndSize(<const char *>&jump, sizeof(jump))


cdef int jump_decode(const char *p, size_t n, uint64_t *jump) noexcept nogil:
    if n != sizeof(uint64_t):
        return -1
    memcpy(jump, p, n)
    return 0


cdef bytes encode_tick(uint64_t clock_ms, uint64_t horizon_ms):
    cdef uint64_t[2] both = [clock_ms, horizon_ms]
    return PyBytes_FromStringAndSize(<const char *>both, sizeof(both))


cdef int tick_decode(const char *p, size_t n, uint64_t *clock_ms,
                     uint64_t *horizon_ms) noexcept nogil:
    cdef Reader r
    read_from(&r, p, n)
    clock_ms[0] = take_u64(&r)
    horizon_ms[0] = take_u64(&r)
    return -1 if r.bad or r.at != r.end or horizon_ms[0] > clock_ms[0] else 0
