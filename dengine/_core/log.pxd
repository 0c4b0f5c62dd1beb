# The log: records in segments, encoded once, written with one pwritev per batch, read through a
# read-only map.
#
# log decides where a record lies and when its bytes count as written and as synced. It knows
# entries and files, not roles or terms' meaning. It is used under the GIL by the turn; jobs for the
# flusher carry all they need.
#
# Segment file log/<epoch, 16 hex digits>.seg: page 0 the header, pages 1 and 2 the marks, then
# records.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from dengine._core.flush cimport Marks, Worker
from dengine._core.terms cimport Terms
from dengine._core.types cimport Io, Job, PAGE, Position

cdef enum:
    SEGMENT_FORMAT = 1
    SCRATCH = 1 << 20           # bytes read at once from a segment that is not mapped

cdef packed struct SegmentHeader:
    uint64_t magic
    uint32_t format
    uint32_t crc                # of what follows
    uint64_t size               # bytes of the file
    uint64_t cluster
    uint64_t incarnation        # of the data directory that it belongs to
    uint64_t epoch
    uint64_t anchor_index       # the entry before the first record
    uint64_t anchor_term
    uint32_t anchor_crc
    uint32_t zero

ctypedef struct Segment:
    uint64_t epoch
    uint64_t size               # bytes of the file
    int fd
    uint64_t first              # index of its first record
    uint64_t count              # live records
    uint64_t end                # offset after the last record
    uint64_t anchor_term
    uint32_t anchor_crc
    uint32_t *offsets           # of each record, in units of 8 bytes
    size_t capacity
    char *map                   # read-only, whole file; NULL: read with pread

ctypedef struct Tail:
    # Records of one segment that are not written yet, or just were. Appended to until it flies.
    Segment *segment
    uint64_t offset             # in the file, of data[0]
    size_t size
    size_t written              # bytes of it in the file
    size_t capacity
    char *data
    uint64_t last               # index of its last record; 0: none
    uint64_t term               # of that record
    uint32_t crc
    bint flying                 # a job has it: immutable
    char *page                  # header page to be written with it, or NULL
    Tail *next


cdef class Log:
    cdef const Io *io
    cdef readonly bytes directory
    cdef readonly uint64_t cluster
    cdef readonly uint64_t incarnation
    cdef uint8_t strategy
    cdef readonly uint64_t last             # newest index
    cdef readonly uint64_t last_term
    cdef readonly uint32_t last_crc
    cdef readonly uint64_t written          # in the page cache up to here
    cdef readonly uint64_t synced           # on disk up to here
    cdef readonly uint64_t noop             # newest no-op appended: counts only once synced
    cdef readonly uint64_t first_noop       # oldest one that may not be synced
    # since when something written or submitted waits for a sync; 0
    cdef readonly uint64_t unsynced_us
    cdef readonly uint64_t stalls           # rolls that had to wait for prepared space
    cdef readonly uint64_t bytes_written
    cdef uint64_t segment_bytes             # largest size
    cdef uint64_t threshold                 # entries, MemFirst
    cdef uint64_t interval_us               # MemFirst; 0: sync at once
    cdef uint64_t max_unflushed_us
    cdef Segment **segments                 # live ones, by epoch
    cdef int count
    cdef int capacity
    cdef Segment **dead                     # cut off; their files go at the next start
    cdef int dead_count
    cdef Segment *prepared
    cdef Segment *preparing
    cdef Job *preparing_job
    cdef uint64_t preparing_until           # its number
    cdef bytes preparing_path
    cdef bytes prepared_path
    cdef uint64_t next_epoch
    cdef uint64_t next_size
    cdef Tail *oldest
    cdef Tail *filling
    cdef Tail *spare
    cdef bint must_roll                     # the last segment is not to be appended to
    cdef uint64_t late                      # number of the newest late SYNC job; 0: none
    cdef Worker preparer
    cdef Marks marks
    cdef char *scratch
    cdef uint64_t scratch_first             # index of its first record; 0: empty
    cdef uint64_t scratch_last

    cdef int open(self, const Io *io, bytes directory, uint64_t cluster, uint64_t incarnation,
                  uint8_t strategy, uint64_t segment_bytes, Worker preparer) except -1
    cdef int close(self) except -1          # after the flusher has stopped

    # Changes. All raise StorageError.
    cdef uint64_t append(self, uint64_t term, uint8_t kind, const char *payload, size_t n) except 0
    # checked; as it came from the leader
    cdef int append_record(self, const char *record) except -1
    cdef int cut(self, uint64_t to) except -1
    # Brings what was appended to the file: inline, or as jobs. commit goes into the marks.
    cdef int write(self, Worker flusher, uint64_t commit, uint64_t now_us) except -1
    cdef int finished(self, const Job *job, uint64_t now_us) except -1      # a job of the flusher's
    # the next segment in time
    cdef int plan(self) except -1
    cdef int prepared_done(self, const Job *job) except -1
    # How far the own log counts for acknowledgements, by the durability table.
    cdef uint64_t durable(self, uint64_t now_us) noexcept

    # Reads: a contiguous piece in memory from `first`, up to `last` and about max_bytes, at
    # least one record. Returns bytes, 0: not in memory. Valid until the next change.
    cdef size_t span(self, uint64_t first, uint64_t last, size_t max_bytes, const char **at,
                     uint64_t *count) noexcept
    # Where that piece lies in its file.
    cdef size_t place(self, uint64_t first, uint64_t last, size_t max_bytes, int *fd, int64_t *offset,
                      uint64_t *count) noexcept
    cdef const char *record(self, uint64_t index) except NULL   # from memory or with pread
    cdef uint32_t crc_at(self, uint64_t index) except? 0xFFFFFFFF

    # private
    cdef Segment *holder(self, uint64_t index) noexcept
    cdef char *in_memory(self, Segment *s, uint64_t offset, size_t *room) noexcept
    cdef void note_noop(self) noexcept
    cdef char *place_for(self, size_t size) except NULL
    cdef int appended(self, size_t size, uint64_t term, uint32_t crc) except -1
    cdef int roll(self, size_t size) except -1
    cdef int open_tail(self, Segment *s) except -1
    cdef Segment *new_segment(self, uint64_t size, Job *job) except NULL
    cdef int write_inline(self, Tail *t, uint64_t commit) except -1
    cdef uint64_t live_until(self, uint64_t epoch) noexcept
    cdef Segment *segment_of(self, uint64_t epoch) noexcept
    cdef uint64_t term_of(self, uint64_t index) except? 0
    cdef int submit(self, Worker flusher, uint64_t commit, uint64_t now_us) except -1
    cdef int ask_sync(self, Worker flusher, uint64_t commit, uint64_t now_us) except -1
    cdef int sync_before_roll(self, Worker flusher, Tail *t, uint64_t commit,
                              uint64_t now_us) except -1
    cdef void position(self, const Tail *t, uint64_t commit, Position *to) noexcept
    cdef void retire(self) noexcept
    cdef void note_noop(self) noexcept
    cdef int await_prepared(self) except -1
    cdef int check(self, int error, str what) except -1
    cdef int push(self, Segment *s) except -1

# Pages of a segment <-> structs. header_decode: 0; 1: blank, never opened; 2: damaged; 3: a newer
# format.
cdef void header_encode(char *page, const Segment *s, uint64_t cluster, uint64_t incarnation) noexcept
cdef int header_decode(const char *page, SegmentHeader *out) noexcept

cdef Segment *segment_new(uint64_t epoch, uint64_t size, int fd) except NULL
cdef void segment_free(Segment *s) noexcept
cdef int segment_note(Segment *s, uint64_t offset) except -1        # one more record, at offset
