# Entries and commands <-> bytes, with checked access. The bytes of a record are the same on disk
# and on the wire.
#
# Record (little-endian, 8-byte aligned):
#    0 u32 length    whole record without padding; 0: nothing more here
#    4 u32 crc       CRC-32C of bytes [8, length), seeded with the previous record's crc
#    8 u64 term     16 u64 index     24 u8 kind   25 u8 flags (0)   26 u16 0
#   28 u32 raw length (0)   32 payload
#
# Command (payload of an ENTRY_COMMAND): u8 op, u64 session, u64 sequence, u64 floor,
# then length-prefixed fields:
#    PUT, PUT_IF     [PUT_IF: u8 compare, u64 revision] u64 lease (0), u32 + key, u32 + value
#    DELETE, .._IF   [DELETE_IF: u8 compare, u64 revision] u32 + key
#    REGISTER        u64 node, u64 incarnation, u64 nonce
# with KEYED in op: before these fields u64, u64 hash of the Idempotency-Key, u64 of the request
#
# Payload of an ENTRY_NOOP: nothing, or u64 by how much the revision jumps. Of an ENTRY_TICK: u64
# replicated time in ms, u64 time of before which results under an Idempotency-Key may go. Of an
# ENTRY_CONFIG: see members.pxd.
from cpython.bytes cimport PyBytes_CheckExact
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from dengine._core.types cimport likely

cdef enum EntryKind:
    ENTRY_NOOP = 1
    ENTRY_COMMAND = 2
    ENTRY_CONFIG = 3
    ENTRY_TICK = 4

cdef enum Op:
    GET = 0                     # never in a command: the op of a Waiter that reads
    PUT = 1
    DELETE = 2
    PUT_IF = 3
    DELETE_IF = 4
    REGISTER = 16

cdef enum:
    KEYED = 64                  # bit of op

cdef enum Compare:
    IS_REVISION = 0             # the key's mod_revision equals `revision`; 0: it does not exist
    EXISTS = 1

cdef enum:
    COMMAND_HEADER = 25         # op, session, sequence, floor

cdef packed struct Record:
    uint32_t length
    uint32_t crc
    uint64_t term
    uint64_t index
    uint8_t kind
    uint8_t flags
    uint16_t zero
    uint32_t raw_length

ctypedef struct Reader:
    # Bounds are checked by each take_*: after the first failure `bad` stays set and zeros are
    # returned.
    const uint8_t *at
    const uint8_t *end
    bint bad

cdef inline void read_from(Reader *r, const char *p, size_t n) noexcept nogil:
    r.at = <const uint8_t *>p
    r.end = r.at + n
    r.bad = False

cdef inline const char *take_bytes(Reader *r, size_t n) noexcept nogil:
    cdef const char *at = <const char *>r.at
    if n > <size_t>(r.end - r.at):
        r.bad = True
        r.at = r.end
        return NULL
    r.at += n
    return at

cdef inline uint8_t take_u8(Reader *r) noexcept nogil:
    cdef const char *at = take_bytes(r, 1)
    return 0 if at == NULL else (<const uint8_t *>at)[0]

cdef inline uint16_t take_u16(Reader *r) noexcept nogil:
    cdef uint16_t x = 0
    cdef const char *at = take_bytes(r, sizeof(x))
    if at != NULL:
        memcpy(&x, at, sizeof(x))
    return x

cdef inline uint32_t take_u32(Reader *r) noexcept nogil:
    cdef uint32_t x = 0
    cdef const char *at = take_bytes(r, sizeof(x))
    if at != NULL:
        memcpy(&x, at, sizeof(x))
    return x

cdef inline uint64_t take_u64(Reader *r) noexcept nogil:
    cdef uint64_t x = 0
    cdef const char *at = take_bytes(r, sizeof(x))
    if at != NULL:
        memcpy(&x, at, sizeof(x))
    return x

ctypedef struct Writer:
    # Writes into a buffer that the caller made large enough; `bad` is set instead of an overrun.
    uint8_t *at
    uint8_t *end
    bint bad

cdef inline void give_bytes(Writer *w, const void *p, size_t n) noexcept nogil:
    if n > <size_t>(w.end - w.at):
        w.bad = True
        w.at = w.end
        return
    memcpy(w.at, p, n)
    w.at += n

cdef inline void give_u8(Writer *w, uint8_t x) noexcept nogil:
    give_bytes(w, &x, sizeof(x))

cdef inline void give_u16(Writer *w, uint16_t x) noexcept nogil:
    give_bytes(w, &x, sizeof(x))

cdef inline void give_u32(Writer *w, uint32_t x) noexcept nogil:
    give_bytes(w, &x, sizeof(x))

cdef inline void give_u64(Writer *w, uint64_t x) noexcept nogil:
    give_bytes(w, &x, sizeof(x))

ctypedef struct Command:
    uint8_t op
    uint8_t compare
    uint64_t session
    uint64_t sequence
    uint64_t floor
    uint64_t revision
    uint64_t lease
    uint64_t node               # REGISTER
    uint64_t incarnation
    uint64_t nonce
    bint keyed
    uint64_t idempotency[2]     # KEYED
    uint64_t print
    const char *key
    uint32_t key_size
    const char *value
    uint32_t value_size

# A key or value that a user gave: bytes, or str as UTF-8. TypeError.
cdef bytes bytes_of(object x)

cdef inline bytes text(object x):
    return <bytes>x if likely(PyBytes_CheckExact(x)) else bytes_of(x)

# 0; -1: not a command of this format; -2: an op of a newer format.
cdef int command_decode(const char *p, size_t n, Command *out) noexcept nogil
# The payload of a write, session fields zero (session.stamp fills them in). Raises TooLargeError.
cdef bytes encode_put(bytes key, bytes value)
cdef bytes encode_delete(bytes key)
cdef bytes encode_put_if(bytes key, bytes value, int compare, uint64_t revision)
cdef bytes encode_delete_if(bytes key, int compare, uint64_t revision)
# A copy of such a command under an Idempotency-Key: `digest` are the 24 bytes of its hashes.
cdef bytes encode_keyed(bytes command, bytes digest)
cdef bytes encode_register(uint64_t node, uint64_t incarnation, uint64_t nonce)
# Writes the session fields into a copy of a command at `at` (its record's payload).
cdef void stamp(char *at, uint64_t session, uint64_t sequence, uint64_t floor) noexcept nogil
cdef bytes encode_jump(uint64_t jump)
cdef bytes encode_tick(uint64_t clock_ms, uint64_t horizon_ms)
# -1: it is none
cdef int jump_decode(const char *p, size_t n, uint64_t *jump) noexcept nogil
cdef int tick_decode(const char *p, size_t n, uint64_t *clock_ms,
                     uint64_t *horizon_ms) noexcept nogil

cdef inline size_t padded(size_t n) noexcept nogil:
    return (n + 7) & ~<size_t>7

# Why the n bytes at p do not begin with a valid record that continues (index - 1, term, crc); 0:
# they do.
cdef enum RecordFault:
    RECORD_OK = 0
    RECORD_END = 1              # length 0
    RECORD_SHORT = 2            # fewer bytes than it says
    RECORD_LENGTH = 3           # out of range
    RECORD_CRC = 4
    RECORD_ORDER = 5            # index or term does not continue the chain
    RECORD_KIND = 6             # a kind, flag or field of a newer format

cdef int record_check(const char *p, size_t n, uint64_t index, uint64_t term,
                      uint32_t crc) noexcept nogil
# Writes header, payload and padding at `to`; padded(RECORD_HEADER + n) bytes. Returns the record's
# crc.
cdef uint32_t record_encode(char *to, uint64_t term, uint64_t index, uint8_t kind,
                            const char *payload, size_t n, uint32_t crc) noexcept nogil
