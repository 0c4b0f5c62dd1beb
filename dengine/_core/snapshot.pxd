# Snapshots: one generation of the store, and what the engine knows beside it, in one file.
#
# The file snapshot/<index of the last entry in it, 16 hex digits>.snap, little-endian, format 1:
#   header   page 0, SnapshotHeader; the rest of the page is zero
#   frames   SnapshotFrame, then `stored` bytes. An lz4 block of `raw` bytes if the flag says so; a
#            frame that lz4 does not make smaller is stored as it is. In this order:
#     ENGINE   bytes that only the engine understands, in pieces
#     ANSWERS  results under an Idempotency-Key (idempotency.pxd, Kept), oldest first
#     MACHINE  items of the store in key order (items.pxd); none is divided
#     FOOTER   SnapshotFooter; the file ends behind it
#
# The checksum of a frame is seeded with the one of the frame before it, the first with the
# header's: the footer's covers all of the file. A file without its footer is no snapshot.
#
# Writer and reader work in steps of about one frame and hold the GIL only between what takes time;
# memory is a few frames. They know no log, no sessions and no thread: one at a time calls `step`.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from dengine._core.idempotency cimport Answers, Idempotency
from dengine._core.kv cimport KV, Pin
from dengine._core.tree cimport Cursor, Node
from dengine._core.types cimport Io, Item, Work

cdef enum:
    SNAPSHOT_FORMAT = 1

cdef enum FrameKind:
    ENGINE = 1
    MACHINE = 2
    FOOTER = 3
    ANSWERS = 4

cdef enum:
    PACKED = 1                  # flag: lz4

cdef packed struct SnapshotHeader:
    uint64_t magic
    uint32_t format
    uint32_t crc                # of the page behind it, seeded with the format: in every format
    uint64_t cluster
    uint64_t incarnation        # of the data directory that wrote it
    uint64_t index              # of the last entry that is in it
    uint64_t term               # of that entry
    uint32_t last_crc           # of its record
    uint32_t zero
    uint64_t revision           # of the store
    uint64_t keys
    uint64_t engine_bytes

cdef packed struct SnapshotFrame:
    uint32_t crc                # of what follows and the stored bytes, after the frame before
    uint32_t stored             # bytes in the file, at most `raw`
    uint32_t raw                # bytes before lz4, at most SNAPSHOT_FRAME_MAX
    uint8_t kind
    uint8_t flags
    uint16_t zero

cdef packed struct SnapshotFooter:
    uint64_t frames             # before it
    uint64_t raw_bytes          # in them, before lz4
    uint64_t keys


cdef class SnapshotWriter(Work):
    cdef const Io *io
    cdef bytes directory
    cdef bytes path                         # the final name
    cdef bytes temporary                    # until all of it is on the disk: `path`.new
    cdef int fd                             # -1: closed
    cdef int stage                          # Stage
    cdef bytes engine                       # its first `engine_at` bytes are written
    cdef size_t engine_at
    cdef Answers answers                    # None: there are none
    cdef Node *root                         # held until close
    cdef Cursor at
    cdef const Item *item                   # the next one, borrowed from `root`
    cdef char *raw                          # one frame, SNAPSHOT_FRAME_MAX bytes
    cdef uint32_t crc                       # of the newest frame
    cdef uint64_t synced                    # of the bytes written
    cdef SnapshotFooter footer              # so far
    cdef SnapshotReader reader              # of the verification; None before
    cdef uint64_t term                      # as in the header
    cdef uint32_t last_crc
    cdef uint32_t header_crc
    cdef list old                           # names that go when it is complete; the caller's to set

    # The snapshot `header.index` in `directory`. The caller fills in cluster, incarnation, index,
    # term and last_crc. `pin` may be dropped afterwards. No system call: the first step creates
    # the file, instead of one that a writer left.
    cdef int open(self, const Io *io, bytes directory, const SnapshotHeader *header, bytes engine,
                  Answers answers, Pin pin) except -1
    # One frame written, or one read back. False: the snapshot is complete, its name durable. Raises
    # StorageError, CorruptionError (it was not read back as it was written): then nothing is left
    # of it.
    cpdef bint step(self) except -1
    # Any time, also twice. An unfinished file is removed.
    cpdef int close(self) except -1

    # private
    cdef int create(self) except -1
    cdef int write_next(self) except -1
    cdef int write_frame(self, uint8_t kind, const char *raw, size_t n) except -1
    cdef int finish(self) except -1
    cdef int sync(self) except -1
    cdef int publish(self) except -1
    cdef int check(self, int error, str what) except -1


cdef class SnapshotReader:
    cdef const Io *io
    cdef bytes path
    cdef int fd                             # -1: closed
    cdef SnapshotHeader header
    cdef bytes engine                       # complete after the last step of a load
    cdef Idempotency idempotency            # likewise
    cdef KV into                            # None: it is only verified
    cdef uint64_t size                      # bytes of the file
    cdef uint64_t at                        # offset of the next frame
    cdef uint32_t crc                       # of the newest frame
    cdef char *stored                       # one frame, SNAPSHOT_FRAME_MAX bytes
    cdef list parts                         # of `engine`
    cdef uint64_t engine_bytes              # so far
    cdef SnapshotFooter found               # so far
    cdef char *last_key                     # of the newest item, MAX_KEY bytes
    cdef uint32_t last_size

    # Opens a file and checks its header. `into`: a new store that it is loaded into, or None. After
    # an error the store is worth nothing. Raises StorageError, CorruptionError, FormatError.
    cdef int open(self, const Io *io, bytes path, KV into) except -1
    # One frame; False: the footer agrees with all of them. To put the items of a frame into a store
    # it holds the GIL for about a millisecond.
    cpdef bint step(self) except -1
    cpdef int close(self) except -1

    # private
    cdef int read_header(self) except -1
    cdef int read_frame(self, SnapshotFrame *f) except -1
    cdef bytes unpack(self, const SnapshotFrame *f)
    cdef int items(self, const char *raw, size_t n) except -1
    cdef int load(self, const char *raw, size_t n) except -1
    cdef int results(self, const char *raw, size_t n) except -1
    cdef int finish(self, const SnapshotFrame *f, const char *raw) except -1
    cdef int read(self, void *to, size_t n, uint64_t offset) except -1
    cdef int corrupt(self, str what) except -1
    cdef int newer(self, str what) except -1
    cdef int check(self, int error, str what) except -1


# Unlinks names in `directory`; what cannot be unlinked is there for the next time.
cdef int remove(const Io *io, bytes directory, list names) except -1
