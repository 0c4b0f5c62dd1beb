# What the worker threads run: one job at a time, without the GIL. It knows nothing of threads, see
# worker.pxd.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from dengine._core.types cimport Io, Job, PAGE, Position, iovec

cdef extern from "native.h" nogil:
    uint64_t load_acquire(const uint64_t *at)
    void store_release(uint64_t *at, uint64_t x)
    void fence_full()
    void copy_release(void *to, const void *from_, uint64_t n)
    void copy_acquire(void *to, const void *from_, uint64_t n)

ctypedef struct HardState:
    # What it takes to save doubt at once when a sync fails. Owned by whoever runs the jobs.
    int fd                      # of the file `meta`
    char page[PAGE]             # the slot that was saved last
    void (*doubt)(char *page) noexcept nogil        # makes it the next slot, in doubt
    const char *notice          # a file on no disk, for when that cannot be saved either

ctypedef struct Marks:
    # Owned by whoever runs the jobs, except `written`.
    Position done               # last completed sync
    int fd                      # of the segment that `done` lies in
    bint fresh                  # `done` stands in no mark yet
    # errno of the first write or sync that failed: nothing is tried after it
    int failed
    HardState *hard             # NULL: nobody is to know
    uint64_t sequence           # of the newest mark
    uint64_t syncs              # counters: written with release, read by the turn with acquire
    uint64_t sync_bytes         # of the pages that syncs had to bring to the device, marks too
    uint64_t sync_us
    uint64_t longest_us
    # What is written, by the turn, for late syncs: a sequence lock (odd while it changes). Only the
    # turn may read `written` itself.
    uint64_t written_lock
    Position written

cdef void publish(Marks *m, const Position *p) noexcept nogil               # the turn
cdef void read_written(Marks *m, Position *to) noexcept nogil               # the flusher

# Does one job; its outcome is in job.error. A mark is written before the sync, of the sync before
# it.
cdef void run(Job *job, const Io *io) noexcept nogil
# Every byte of up to 4 parts; 0 or an errno. A short write goes on where it stopped.
cdef int write_all(const Io *io, int fd, const iovec *parts, int n, int64_t offset) noexcept nogil
# Brings the mark up to date; nothing to do unless marks.fresh. Returns 0 or an errno.
cdef int refresh(Marks *m, const Io *io) noexcept nogil
# A sync failed: what this node acknowledged may be gone, and its next start must know.
cdef void lied(Marks *m, const Io *io) noexcept nogil

cdef packed struct MarkPage:
    uint32_t magic
    uint32_t crc                # of what follows
    uint64_t sequence
    uint64_t epoch
    uint64_t offset
    uint64_t index
    uint64_t term
    uint64_t commit
    uint32_t record_crc
    uint32_t zero

# One mark as it lies on disk, and its check: 0 when p holds a valid mark.
cdef void mark_encode(char *page, const Position *p, uint64_t sequence) noexcept nogil
cdef int mark_decode(const char *page, Position *out, uint64_t *sequence) noexcept nogil
