# Frames <-> bytes, with checked access: this file is the specification of the peer protocol,
# version 1.
#
# Frame (little-endian): u32 length of what follows · u32 crc (CRC-32C of what follows it) ·
# u8 kind · u8 flags · u16 0 · u64 term · then by kind:
#    HELLO     u16 protocol, u64 cluster, u64 node, u64 incarnation, u64 to,
#              u64 last index (0: an empty log), u64 start, u64 nonce,
#              u64 index of the newest configuration that names its directory, 0: none
#                                                                                flags BULK
#    VOTE      u64 last index, u64 last term                                     flags PRE FORCED
#    VOTED     (no fields)                                     flags PRE GRANTED MARKED
#    APPEND    u64 prev index, u64 prev term, u32 prev crc, u64 commit, u64 round,
#              u64 last index, u32 count, records as in the log
#    HEARD     u64 round, u64 index, u64 index term            flags REJECTED DIVERGED
#    DURABLE   u64 index
#    FORWARD   u32 count, then per command u32 + bytes, session fields stamped
#    REFUSED   u32 count, then u64 sequences: these were not proposed            flags NO_ROOM
#    READ      u64 ticket                                                        flags LEASE_READ
#    GRANTED   u64 ticket, u64 index                                             flags REJECTED
#    PING
#    BYE       text: why the connection is closed                        flags OUTDATED REMOVED
#    OFFER     u64 index, u64 index term, u32 last crc, u32 header crc, u64 bytes: a snapshot
#    FETCH     u64 index, u32 header crc, u64 offset
#    PIECE     u64 index, u32 header crc, u64 offset, bytes of the snapshot; none: the file is gone
#    TIMEOUT_NOW  u64 last index, u64 last term: campaign, I gave up my lease
#    NAMED     u64 index of the configuration that names its directory now, as in HELLO
#
# Two connections between two nodes: FETCH and PIECE go over the second one (BULK in its HELLO), all
# else over the first.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from dengine._core.consensus cimport Message, Run
from dengine._core.types cimport iovec

cdef enum:
    PROTOCOL = 1
    FRAME_HEADER = 20
    PARTS = 64                  # pieces of one write to one peer

cdef enum FrameKind:            # 2 to 6, and 16, are raft's MessageKind
    FRAME_HELLO = 1
    FRAME_VOTE = 2
    FRAME_VOTED = 3
    FRAME_APPEND = 4
    FRAME_HEARD = 5
    FRAME_DURABLE = 6
    FRAME_FORWARD = 7
    FRAME_REFUSED = 8
    FRAME_READ = 9
    FRAME_GRANTED = 10
    FRAME_PING = 11
    FRAME_BYE = 12
    FRAME_OFFER = 13
    FRAME_FETCH = 14
    FRAME_PIECE = 15
    FRAME_TIMEOUT_NOW = 16
    FRAME_NAMED = 17

cdef enum:
    LEASE_READ = 1              # flag of FRAME_READ
    NO_ROOM = 1                 # flag of FRAME_REFUSED: for want of space, not of a leader
    BULK = 1                    # flag of FRAME_HELLO
    OUTDATED = 1                # flag of FRAME_BYE: the directory was started again after this one
    REMOVED = 2                 # flag of FRAME_BYE: no member, by the configuration that it names

cdef packed struct FrameHeader:
    uint32_t length
    uint32_t crc
    uint8_t kind
    uint8_t flags
    uint16_t zero
    uint64_t term

ctypedef struct Frame:          # a checked frame, borrowed
    uint8_t kind
    uint8_t flags
    uint64_t term
    const char *body            # after the header
    size_t size

ctypedef struct PieceFields:    # of FETCH, and of PIECE with its bytes, borrowed
    uint64_t index
    uint32_t header_crc
    uint64_t offset
    const char *bytes
    size_t size

ctypedef struct Hello:
    uint16_t protocol
    uint64_t cluster
    uint64_t node
    uint64_t incarnation
    uint64_t to
    uint64_t last
    uint64_t start              # of the directory: the sequence of the save that began this run
    uint64_t nonce              # of the process
    uint64_t config             # index of the newest configuration that names it; 0: none
    bint bulk

cdef enum FrameFault:
    FRAME_OK = 0
    FRAME_PART = 1              # more bytes are needed
    FRAME_LENGTH = 2            # out of range: not a dengine peer
    FRAME_CRC = 3
    FRAME_UNKNOWN = 4           # a kind or field of another version

# The first frame of n bytes at p; *used is its whole size, also (if known) for FRAME_PART.
cdef int frame_check(const char *p, size_t n, Frame *out, size_t *used) noexcept nogil


cdef class Outbox:
    # The frames of one turn for one peer: own bytes with borrowed pieces (records in the log)
    # between them. Borrowed pieces must stay until the box is gathered.
    cdef char *data
    cdef size_t size
    cdef size_t capacity
    cdef size_t opened                      # where the open frame starts
    cdef uint64_t total                     # bytes, with the pieces
    cdef int splices
    cdef size_t splice_at[PARTS]            # in data
    cdef const char *splice[PARTS]
    cdef size_t splice_size[PARTS]
    cdef size_t spliced                     # bytes borrowed by the open frame
    cdef int spliced_from
    cdef iovec parts[2 * PARTS + 1]

    cdef int begin(self, uint8_t kind, uint8_t flags, uint64_t term) except -1
    cdef int end(self) except -1
    cdef int put(self, const void *p, size_t n) except -1
    cdef int put_u16(self, uint16_t x) except -1
    cdef int put_u32(self, uint32_t x) except -1
    cdef int put_u64(self, uint64_t x) except -1
    cdef bint has_room(self, int pieces) noexcept
    cdef int borrow(self, const char *p, size_t n) noexcept
    cdef int message(self, const Message *m) except -1          # every kind but APPEND
    # opens; pieces and end() follow
    cdef int append(self, const Message *m, uint32_t prev_crc) except -1
    cdef int hello(self, const Hello *h) except -1
    cdef int gather(self) noexcept                               # fills parts, returns how many
    cdef void clear(self) noexcept
    cdef int reserve(self, size_t n) except -1

# Fields of a checked frame. -1: it does not hold what its kind says.
cdef int hello_decode(const Frame *f, Hello *out) noexcept nogil
cdef int piece_decode(const Frame *f, PieceFields *out) noexcept nogil
cdef int message_decode(const Frame *f, uint64_t peer, Message *out) noexcept nogil
# An append: *records points at its records; count and fields in `out`.
cdef int append_decode(const Frame *f, uint64_t peer, Message *out, uint32_t *prev_crc,
                       const char **records, size_t *size) noexcept nogil
