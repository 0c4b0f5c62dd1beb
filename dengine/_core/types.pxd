# Structs, the four borders, and every limit of the core.
#
# What two modules share is declared here and nowhere else. Nothing here allocates or decides.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "native.h" nogil:
    bint likely(bint)
    bint unlikely(bint)


# ---------------------------------------------------------------- limits, each with its reason
cdef enum:
    MAX_MEMBERS = 16            # slots in every per-member array; a cluster has 3 to 7 voters
    MAX_KEY = 4096              # bytes; a key is compared at every level of the tree
    MAX_VALUE = 1 << 20         # bytes; one value must fit one frame beside its key
    MAX_COMMAND = MAX_KEY + MAX_VALUE + 256
    RECORD_HEADER = 32          # bytes before the payload of a record
    MAX_RECORD = RECORD_HEADER + MAX_COMMAND
    PAGE = 4096                 # header, marks and meta slots lie in blocks of their own
    SEGMENT_DATA = 3 * PAGE     # header and two marks come before the first record
    SEGMENT_FIRST = 1 << 20     # bytes of a new log's first segment
    # bytes of zeros that a full disk cannot take away: more than one frame of any kind brings, so a
    # log that finds the disk full in the middle of one goes on to its end
    RESERVE = 4 << 20
    RESERVE_NOOPS = 64 << 10    # bytes of it that no-ops of later terms may need, and nobody else
    SMALL = 512                 # bytes of records that may be no-ops
    FULL_AGAIN_US = 1000000     # a full disk is tried again this often
    FRAME_ENTRIES = 1 << 20     # bytes of entries in one append frame, or one entry
    FRAME_MAX = FRAME_ENTRIES + MAX_RECORD + 4096   # bytes after the length field
    WINDOW_FRAMES = 16          # append frames in flight to one peer
    WINDOW_BYTES = 4 << 20      # bytes in flight to one peer
    WRITE_INLINE = 256 << 10    # bytes; a larger batch goes to the flusher also in MemFirst
    PENDING = 4096              # writes of one node in flight: the ring of its session
    APPLY_ENTRIES = 1000        # entries in one slice of apply
    APPLY_US = 1000             # microseconds in one slice of apply
    IDEMPOTENCY_MAX = 1 << 21   # results under an Idempotency-Key: 20 s of 100,000 writes/s, 140 MB
    TICK_US = 100000            # between two entries that carry the time
    JUMP = 1000000000           # revisions left out where acknowledged entries may be lost
    JOBS = 64                   # slots of a ring between turn and worker
    RUNS = 64                   # changes of term inside one append frame
    # bytes that close a frame of a snapshot; lz4 gains nothing above, and copies what it returns
    # while it holds the GIL
    SNAPSHOT_FRAME = 256 << 10
    ITEM_HEADER = 40            # bytes before the key of an item in a snapshot
    # before lz4: the last item of a frame may be the largest
    SNAPSHOT_FRAME_MAX = SNAPSHOT_FRAME + ITEM_HEADER + MAX_KEY + MAX_VALUE
    SNAPSHOT_ENGINE = 2 << 20   # bytes: 16 sessions of 4,096 results, 17 each, and a configuration
    SNAPSHOT_SYNC = 8 << 20     # bytes written between two syncs: syncs of the log wait for them
    SNAPSHOTS = 2               # kept: if the newest is damaged, there is one more
    SNAPSHOT_RETRY_US = 10000000    # after one that the disk did not take: it may be full for long
    PIECE = 256 << 10           # bytes of a snapshot in one frame: no turn reads or sends more
    PIECE_EVERY_US = 2500       # between two while there are writes: 100 MB/s
    PIECE_AGAIN_US = 1000000    # one that did not come is asked for again: longer than a slow disk


# ---------------------------------------------------------------- shared structs
ctypedef struct Item:
    # One version of one key. Immutable once published; `refs` is atomic, the last one frees.
    int32_t refs
    uint32_t key_size           # bytes
    uint32_t value_size         # bytes
    uint32_t _zero
    uint64_t create_revision
    uint64_t mod_revision
    uint64_t version            # 1 at creation, +1 at each put
    uint64_t lease              # 0: none
    char data[0]                # the key, then the value


ctypedef struct Position:
    # A place in the log that a sync covers: the end of record `index`.
    uint64_t epoch              # of the segment
    uint64_t offset             # in its file, after the record
    uint64_t index
    uint64_t term
    uint64_t commit
    uint32_t crc                # of record `index`
    uint32_t _zero


cdef enum Status:               # what a Waiter is told
    OK = 0
    MISSING = 1                 # a read or delete found no such key
    CONFLICT = 2                # a compare failed: nothing was changed
    NOT_PROPOSED = 3            # never reached a leader: safe to repeat
    UNKNOWN = 4                 # may or may not be applied
    UNAVAILABLE = 5             # a read found no leader before its deadline
    STOPPED = 6                 # the node has stopped
    NO_SPACE = 7                # never proposed: the disks of a majority are full
    MISMATCH = 8                # another request under a used Idempotency-Key: nothing was changed
    KEYS_FULL = 9               # no room for one more Idempotency-Key: nothing was changed
    OVERLOADED = 10             # too much waits already: nothing was begun


cdef enum Policy:               # of a read
    LINEARIZABLE = 0
    LEASE = 1
    EVENTUAL = 2


cdef enum Strategy:
    DISK_FIRST = 0
    MEM_FIRST = 1


# ---------------------------------------------------------------- border 1: where a result goes
cdef class Waiter:
    # One request under way. The turn holds a reference from submit to done.
    cdef public uint64_t deadline_us    # CLOCK_BOOTTIME
    cdef uint64_t sequence              # of the write in this node's session; 0: not proposed yet
    cdef bint sent                      # a leader has it, and did not refuse it
    cdef bint doubtful                  # likewise, one before the leader of now
    cdef uint8_t op                     # codec.Op; GET for a read
    cdef uint8_t policy                 # Policy, of a read
    cdef bytes key                      # of a read
    cdef bytes command                  # of a write: codec's bytes, session fields still zero

    # Called once, after the state has changed, outside the part of the turn that may not run
    # Python. `item` is borrowed for the call, NULL where there is no value. `revision`: of a write
    # its own (CONFLICT: the key's), of a read the store's.
    cdef int done(self, int status, uint64_t revision, const Item *item) except -1


# ---------------------------------------------------------------- border 2: one peer connection
cdef class Link:
    # Bytes are copied or sent before send returns. Never raises for a broken connection: the owner
    # hears of it as link_down. At most one send per link and turn.
    cdef int send(self, const iovec *parts, int n) except -1
    cdef int close(self) except -1


# ---------------------------------------------------------------- border 3: turn to worker
cdef enum JobKind:
    JOB_WRITE = 1               # bits: pwritev of iov at offset
    JOB_SYNC = 2                # mark, fdatasync; covers `position`
    JOB_META = 4                # one meta slot: pwritev and fdatasync, no mark
    # zeros from offset 0 to `size`, fdatasync, rename path to `to`, sync_dir; where that fails,
    # path is removed and fd closed
    JOB_PREPARE = 8
    JOB_READ = 16               # pread of iov[0] at offset
    JOB_REMOVE = 32             # unlink path, close fd (or -1): of a large file that takes long
    JOB_FREE = 64               # release owner: a whole store takes long


ctypedef struct Job:
    uint8_t kind
    # SYNC: may wait until `not_before_us`, then covers what is written by then
    bint late
    int fd
    int error                   # out: errno, 0 when done
    int parts
    iovec iov[3]                # owned by the turn, immutable until the job is taken back
    int64_t offset
    uint64_t size
    uint64_t version            # META: the hard state's version
    void *owner                 # the turn's own: the Tail that the job is for
    void *owned                 # freed with the job, when it is given back or never taken
    void (*release)(void *) noexcept nogil      # FREE: of owner, also where the job is never run
    uint64_t tag                # the turn's own
    const char *path            # PREPARE: owned by the turn like iov
    const char *old             # likewise: a file that becomes `path` first; or NULL
    const char *to
    const char *directory
    uint64_t not_before_us
    # SYNC: what it does not cover was written after this time; out when late
    uint64_t from_us
    uint64_t took_us            # out: time in the sync
    Position position           # SYNC: what it covers; out when late
    void *state                 # flush.Marks of the log


cdef class Work:
    # What a thread beside the node does step by step (a snapshot is written, or loaded): until it
    # says False or raises; then the thread calls `close`, and the turn hears of it.
    cdef readonly uint64_t index            # of the snapshot
    cdef readonly uint64_t size             # bytes of it
    cdef readonly bint complete
    cdef bint ended                         # the thread is done with it

    cpdef bint step(self) except -1
    cpdef int close(self) except -1


# ---------------------------------------------------------------- border 4: the kernel
ctypedef struct Io:
    # Every call returns -errno on failure. `ctx` is the first argument of each.
    void *ctx
    int (*open)(void *ctx, const char *path, int flags, int mode) noexcept nogil
    int (*close)(void *ctx, int fd) noexcept nogil
    int64_t (*pwritev)(void *ctx, int fd, const iovec *parts, int n, int64_t offset) noexcept nogil
    int64_t (*pread)(void *ctx, int fd, void *to, size_t n, int64_t offset) noexcept nogil
    int (*fdatasync)(void *ctx, int fd) noexcept nogil
    int (*rename)(void *ctx, const char *old, const char *new) noexcept nogil
    int (*unlink)(void *ctx, const char *path) noexcept nogil
    int (*sync_dir)(void *ctx, const char *path) noexcept nogil
    int64_t (*size)(void *ctx, int fd) noexcept nogil
    int (*drop)(void *ctx, int fd, int64_t offset, int64_t n) noexcept nogil    # cached pages
    # read-only; NULL: no
    void *(*map)(void *ctx, int fd, size_t n) noexcept nogil
    int (*unmap)(void *ctx, void *at, size_t n) noexcept nogil
    uint64_t (*now_us)(void *ctx) noexcept nogil                                # CLOCK_BOOTTIME
    # for watchdogs, both or neither (NULL): CPU time of the thread; a clock to a few ms, for 5 ns
    uint64_t (*cpu_us)(void *ctx) noexcept nogil
    uint64_t (*coarse_us)(void *ctx) noexcept nogil
