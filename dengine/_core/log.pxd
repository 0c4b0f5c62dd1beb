# The log: records in segments, encoded once, written with one pwritev per batch, read through a
# read-only map.
#
# log decides when a record's bytes count as written and as synced; where they lie is decided by
# segments.pxd. It knows entries and files, not roles or terms' meaning. It is used under the GIL by
# the turn; jobs for the flusher carry all they need.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from dengine._core.flush cimport Marks
from dengine._core.segments cimport Segment, Segments
from dengine._core.types cimport Job, Position
from dengine._core.worker cimport Worker

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


cdef class Log(Segments):
    # set by who opens it
    cdef uint8_t strategy
    cdef uint64_t threshold                 # entries, MemFirst
    cdef uint64_t interval_us               # MemFirst; 0: sync at once
    cdef uint64_t max_unflushed_us

    cdef uint64_t synced                    # on disk up to here
    # newest no-op or configuration appended: counts only once synced
    cdef uint64_t noop
    cdef uint64_t first_noop                # oldest one that may not be synced
    # since when something written or submitted waits for a sync; 0
    cdef uint64_t unsynced_us
    cdef uint64_t bytes_written
    cdef Tail *oldest
    cdef Tail *filling
    cdef Tail *spare
    cdef bint must_roll                     # the last segment is not to be appended to
    cdef uint64_t late                      # number of the newest late SYNC job; 0: none
    cdef uint64_t late_epoch                # of its segment
    cdef uint64_t synced_epoch              # of the segment that the newest sync covered
    cdef uint64_t marked_epoch              # likewise, the sync before it: a mark says so
    cdef Marks marks

    # Changes. All raise StorageError.
    cdef uint64_t append(self, uint64_t term, uint8_t kind, const char *payload, size_t n) except 0
    # checked; as it came from the leader
    cdef int append_record(self, const char *record) except -1
    cdef int cut(self, uint64_t to) except -1
    # Brings what was appended to the file: inline, or as jobs. commit goes into the marks.
    cdef int write(self, Worker flusher, uint64_t commit, uint64_t now_us) except -1
    # A snapshot took the place of all records; nothing of them may be under way.
    cdef int restart(self, uint64_t index, uint64_t term, uint32_t crc) except -1
    # Entries up to `to` are in a snapshot: whole segments of them go. True: some did.
    # `spare` bytes of them stay for peers that lack more than `needed`.
    cdef bint compact(self, uint64_t to, uint64_t needed, uint64_t spare) except -1
    # Files of segments that are cut off go, once a mark on the disk names a newer one.
    cdef int bury(self) except -1
    cdef int finished(self, const Job *job, uint64_t now_us) except -1      # a job of the flusher's
    # May records of `size` bytes be appended, behind a cut if one is due? A full disk gives what is
    # prepared and the reserve.
    cdef bint takes(self, size_t size, bint cut) noexcept
    # How far the own log counts for acknowledgements, by the durability table.
    cdef uint64_t durable(self, uint64_t now_us) noexcept

    # Reads: a contiguous piece in memory from `first`, up to `last` and about max_bytes, at
    # least one record. Returns bytes, 0: not in memory. Valid until the next change.
    cdef size_t span(self, uint64_t first, uint64_t last, size_t max_bytes, const char **at,
                     uint64_t *count) noexcept
    cdef const char *record(self, uint64_t index) except NULL   # from memory or from its file
    cdef uint32_t crc_at(self, uint64_t index) except? 0xFFFFFFFF

    # private
    cdef uint64_t term_of(self, uint64_t index) except? 0
    cdef char *in_memory(self, Segment *s, uint64_t offset, size_t *room) noexcept
    cdef void note_noop(self) noexcept
    cdef char *place_for(self, size_t size) except NULL
    cdef int appended(self, size_t size, uint64_t term, uint32_t crc) except -1
    cdef int roll(self, size_t size) except -1
    cdef int open_tail(self, Segment *s) except -1
    cdef int write_inline(self, Tail *t, uint64_t commit) except -1
    cdef int submit(self, Worker flusher, uint64_t commit, uint64_t now_us) except -1
    cdef int ask_sync(self, Worker flusher, uint64_t commit, uint64_t now_us) except -1
    cdef int sync_before_roll(self, Worker flusher, Tail *t, uint64_t commit,
                              uint64_t now_us) except -1
    cdef void position(self, const Tail *t, uint64_t commit, Position *to) noexcept
    cdef void retire(self) noexcept
