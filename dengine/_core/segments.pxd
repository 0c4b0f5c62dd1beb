# Segments: where records lie.
#
# Files of one directory, each with a header and an anchor, hold the records of one chain. Which
# file is next, how large it is and who fills it with zeros is decided here, and where a record is
# found again. It knows no tail, no sync and no strategy: log.pxd does.
#
# Segment file log/<epoch, 16 hex digits>.seg: page 0 the header, pages 1 and 2 the marks, then
# records. log/reserve: zeros, the next segment where the disk has no room for one.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from dengine._core.types cimport Io, Job, unlikely
from dengine._core.worker cimport Worker

cdef enum:
    UNIT = 8                    # records are aligned to it; offsets are kept in it
    SEGMENT_FORMAT = 1

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
    uint32_t format             # of one that a start found
    uint32_t *offsets           # of each record, in units of 8 bytes
    size_t capacity
    char *map                   # read-only, whole file; NULL: read with pread


cdef class Segments:
    cdef const Io *io
    cdef bytes directory
    cdef uint64_t cluster
    cdef uint64_t incarnation
    cdef uint64_t last                      # newest index
    cdef uint64_t last_term
    cdef uint32_t last_crc
    cdef uint64_t written                   # in the files, that is in the page cache, up to here
    cdef uint64_t stalls                    # rolls that had to wait for prepared space
    cdef uint64_t stall_us                  # how long, together
    cdef uint64_t recycled                  # segments made of old ones
    cdef uint64_t blocked_us                # in system calls that may block, stalls among them
    cdef uint64_t segment_bytes             # largest size
    cdef Segment **segments                 # live ones, by epoch
    cdef int count
    cdef size_t capacity
    cdef Segment **dead                     # cut off; their files go at the next start
    cdef int dead_count
    cdef size_t dead_capacity
    cdef Segment *prepared
    cdef Segment *preparing
    cdef Job *preparing_job
    cdef uint64_t preparing_until           # its number
    cdef bytes preparing_path
    cdef bytes preparing_old
    cdef bytes prepared_path
    cdef uint64_t next_epoch
    cdef uint64_t next_size
    cdef Segment *reserve                   # its epoch is 0 until it is taken
    # the next segment or the reserve could not be prepared: nothing but what is prepared is there
    cdef bint full
    cdef uint64_t again_us                  # full: not tried before
    cdef uint64_t fulls                     # times that it was
    cdef Worker preparer
    cdef char *scratch                      # records read from a file
    cdef uint64_t scratch_first             # index of the first one; 0: empty
    cdef uint64_t scratch_last

    cdef int open(self, const Io *io, bytes directory, uint64_t cluster, uint64_t incarnation,
                  uint64_t segment_bytes, Worker preparer) except -1
    cdef int close(self) except -1          # after the flusher has stopped
    cdef int check(self, int error, str what) except -1         # raises StorageError
    # At the start: the reserve is there from now on, or the log is full.
    cdef int keep_reserve(self) except -1

    # Changes
    # A segment with room for one record of `size` bytes, anchored at the last entry.
    cdef Segment *roll_to(self, size_t size) except NULL
    cdef int push(self, Segment *s) except -1
    cdef int keep(self, uint64_t to) except -1                  # what is above `to` is dead
    cdef int cut_off(self) except -1                            # the newest segment is dead
    # A segment that nothing needs any more and no list holds: its file goes, in the preparer.
    cdef int remove(self, Segment *s) except -1
    cdef uint64_t first(self) noexcept                          # index of the oldest record
    # the next segment in time
    cdef int plan(self) except -1
    cdef int prepared_done(self, const Job *job) except -1
    cdef int await_prepared(self) except -1
    cdef Segment *new_segment(self, uint64_t least, Job *job) except? NULL
    cdef Segment *begin(self, uint64_t epoch, uint64_t size, Job *job) except? NULL
    cdef Segment *prepare(self, uint64_t epoch, uint64_t size, int fd, Job *job) except NULL
    cdef int submit_prepare(self, Segment *s, Job *job) except -1
    cdef bint recycle(self, const Segment *s) except -1
    cdef Segment *at_once(self, uint64_t least) except NULL
    cdef Segment *take_reserve(self, uint64_t least) except NULL
    cdef int no_room(self, int error, str what) except -1
    cdef bytes path(self, uint64_t epoch)

    # Reads
    cdef Segment *holder(self, uint64_t index) noexcept         # NULL: none has that record
    cdef Segment *segment_of(self, uint64_t epoch) noexcept
    cdef uint64_t live_until(self, uint64_t epoch) noexcept
    # Where records from `first` lie in their file, up to `last` and about max_bytes, at least one.
    # Returns bytes, 0: none is there.
    cdef size_t place(self, uint64_t first, uint64_t last, size_t max_bytes, int *fd,
                      int64_t *offset, uint64_t *count) noexcept
    # A record of `s` read with pread, and those behind it. Valid until the next call.
    cdef const char *from_file(self, const Segment *s, uint64_t index) except NULL


cdef size_t measure(const Segment *s, uint64_t first, uint64_t last, size_t max_bytes,
                    uint64_t *count) noexcept

# Pages of a segment <-> structs. header_decode: 0; 1: blank, never opened; 2: damaged; 3: a newer
# format.
cdef void header_encode(char *page, const Segment *s, uint64_t cluster,
                        uint64_t incarnation) noexcept
cdef int header_decode(const char *page, SegmentHeader *out) noexcept

cdef Segment *segment_new(uint64_t epoch, uint64_t size, int fd) except NULL
cdef void segment_free(Segment *s) noexcept
cdef int segment_grow(Segment *s) except -1

cdef inline uint64_t offset_of(const Segment *s, uint64_t index) noexcept:
    """Where its record `index` starts in the file."""
    return <uint64_t>s.offsets[index - s.first] * UNIT

cdef inline int segment_note(Segment *s, uint64_t offset) except -1:
    """One more record, at `offset`."""
    if unlikely(s.count == s.capacity):
        segment_grow(s)
    s.offsets[s.count] = <uint32_t>(offset // UNIT)
    s.count += 1
    return 0
