"""Segments: which file is next, and where a record lies. See segments.pxd."""
from libc.errno cimport EDQUOT, EFBIG, ENOSPC
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset, strerror

from dengine._core.crc cimport crc32c
from dengine._core.fault cimport FORMAT, MUTANT
from dengine._core.flush cimport run
from dengine._core.memory cimport grown
from dengine._core.types cimport (FULL_AGAIN_US, JOB_PREPARE, PAGE, RESERVE, SEGMENT_DATA,
                                  SEGMENT_FIRST)

from os import fsdecode

from dengine.errors import StorageError

cdef extern from "<fcntl.h>" nogil:
    int O_RDWR, O_CREAT, O_TRUNC, O_CLOEXEC, O_NOFOLLOW

cdef enum:
    HEADER_CRC_FROM = 16
    MODE = 0o600
    SCRATCH = 1 << 20           # bytes read at once from a segment that is not mapped
    WAIT_US = 1000000

cdef uint64_t SEGMENT_MAGIC = 0x676573656E676E64    # "dngneseg"


def segment_name(uint64_t epoch) -> str:
    """The file name of a segment; epoch 0: of the reserve."""
    return f"{epoch:016x}.seg" if epoch else "reserve"


cdef class Segments:
    def __cinit__(self):
        self.segments = NULL
        self.dead = NULL
        self.prepared = NULL
        self.preparing = NULL
        self.reserve = NULL
        self.scratch = NULL

    def __dealloc__(self):
        cdef int i
        for i in range(self.count):
            segment_free(self.segments[i])
        for i in range(self.dead_count):
            segment_free(self.dead[i])
        free(self.segments)
        free(self.dead)
        segment_free(self.prepared)
        segment_free(self.preparing)
        segment_free(self.reserve)
        free(self.scratch)

    cdef int open(self, const Io *io, bytes directory, uint64_t cluster, uint64_t incarnation,
                  uint64_t segment_bytes, Worker preparer) except -1:
        self.io = io
        self.preparer = preparer
        self.directory = directory
        self.cluster = cluster
        self.incarnation = incarnation
        self.segment_bytes = segment_bytes
        self.last_crc = crc32c(&cluster, sizeof(cluster), 0)
        self.next_epoch = 1
        self.next_size = min(<uint64_t>SEGMENT_FIRST, segment_bytes)
        return 0

    cdef int close(self) except -1:
        cdef Segment *s
        cdef int i
        for i in range(self.count + self.dead_count):
            s = self.segments[i] if i < self.count else self.dead[i - self.count]
            if s.map != NULL:
                self.io.unmap(self.io.ctx, s.map, s.size)
                s.map = NULL
            if s.fd >= 0:
                self.io.close(self.io.ctx, s.fd)
                s.fd = -1
        if self.prepared != NULL:
            self.io.close(self.io.ctx, self.prepared.fd)
        if self.preparing != NULL and self.preparing_job.error == 0:
            self.io.close(self.io.ctx, self.preparing.fd)
        if self.reserve != NULL:
            self.io.close(self.io.ctx, self.reserve.fd)
        return 0

    cdef int check(self, int error, str what) except -1:
        if unlikely(error):
            raise StorageError(
                f"{fsdecode(self.directory)}: the log could not be {what}: "
                f"{strerror(error).decode()}; the node stops; what was acknowledged is on the "
                "disks that acknowledged it; mend the disk and start again")
        return 0

    # ------------------------------------------------------------------------------------- roll
    cdef Segment *roll_to(self, size_t size) except NULL:
        cdef Segment *s
        cdef uint64_t start = self.io.now_us(self.io.ctx), took
        cdef bint stalled = self.preparing != NULL
        if stalled:
            self.await_prepared()
        s = self.prepared
        self.prepared = NULL
        if s != NULL and SEGMENT_DATA + size > s.size:      # too small for this record
            self.io.unlink(self.io.ctx, self.path(s.epoch))
            self.io.close(self.io.ctx, s.fd)
            segment_free(s)
            s = NULL
        if s == NULL:
            stalled |= self.count > 0
            s = self.at_once(SEGMENT_DATA + size)
        took = self.io.now_us(self.io.ctx) - start
        self.blocked_us += took
        if stalled:
            self.stalls += 1
            self.stall_us += took
        s.first = self.last + 1
        s.count = 0
        s.end = SEGMENT_DATA
        s.anchor_term = self.last_term
        s.anchor_crc = self.last_crc
        self.push(s)
        return s

    cdef int push(self, Segment *s) except -1:
        cdef int old
        self.segments = <Segment **>grown(self.segments, self.count + 1, &self.capacity,
                                          sizeof(Segment *), 16)
        self.segments[self.count] = s
        self.count += 1
        s.map = <char *>self.io.map(self.io.ctx, s.fd, s.size)      # NULL: it is read with pread
        old = self.count - 3                    # the active one and the one before stay mapped
        if old >= 0 and self.segments[old].map != NULL:
            self.io.unmap(self.io.ctx, self.segments[old].map, self.segments[old].size)
            self.segments[old].map = NULL
        if s.size * 2 > self.next_size:
            self.next_size = s.size * 2
        if self.next_size > self.segment_bytes:
            self.next_size = self.segment_bytes
        return 0

    cdef int keep(self, uint64_t to) except -1:
        cdef Segment *s
        while self.count and self.segments[self.count - 1].first > to + 1:
            self.cut_off()
        if self.count:
            s = self.segments[self.count - 1]
            if to + 1 - s.first < s.count:
                s.count = to + 1 - s.first
                s.end = offset_of(s, to + 1)
        self.scratch_first = 0
        return 0

    cdef int cut_off(self) except -1:
        cdef Segment *s
        self.dead = <Segment **>grown(self.dead, self.dead_count + 1, &self.dead_capacity,
                                      sizeof(Segment *), 16)
        self.count -= 1
        s = self.segments[self.count]
        s.count = 0
        self.dead[self.dead_count] = s
        self.dead_count += 1
        self.scratch_first = 0
        return 0

    cdef uint64_t first(self) noexcept:
        return self.segments[0].first if self.count else self.last + 1

    cdef int remove(self, Segment *s) except -1:
        if s.map != NULL:
            self.io.unmap(self.io.ctx, s.map, s.size)
        if not self.recycle(s):
            self.preparer.remove(self.path(s.epoch), s.fd)
        segment_free(s)
        self.scratch_first = 0
        return 0

    # ---------------------------------------------------------------------------------- prepare
    cdef int plan(self) except -1:
        """The next segment is prepared when the active one is half full; after a full disk it is
        prepared at once, and the reserve too."""
        cdef uint64_t start
        cdef Job *job
        cdef Segment *s
        if ((self.prepared != NULL and not self.full) or self.preparing != NULL
                or not self.preparer.has_room(1)):
            return 0
        if unlikely(self.full):
            if self.io.now_us(self.io.ctx) < self.again_us or MUTANT(127):
                return 0
        elif self.count == 0:
            return 0
        else:
            s = self.segments[self.count - 1]
            if s.end * 2 < s.size:
                return 0
        job = self.preparer.slot()
        start = self.io.now_us(self.io.ctx)
        s = self.new_segment(0, job) if self.prepared == NULL else self.begin(0, RESERVE, job)
        self.blocked_us += self.io.now_us(self.io.ctx) - start
        if s == NULL:
            return self.no_room(job.error, "given the next segment")
        return self.submit_prepare(s, job)

    cdef int submit_prepare(self, Segment *s, Job *job) except -1:
        self.preparing = s
        job.tag = s.epoch
        self.preparing_job = job
        self.preparing_until = self.preparer.submit()
        return 0

    cdef bint recycle(self, const Segment *s) except -1:
        """The file of one that nothing needs becomes the next, where that is due: no block of the
        disk changes hands."""
        cdef Job *job
        cdef Segment *next
        if (self.prepared != NULL or self.preparing != NULL or s.size != self.next_size
                or not self.preparer.has_room(1)):
            return False
        job = self.preparer.slot()
        next = self.prepare(self.next_epoch, s.size, s.fd, job)
        self.next_epoch += 1
        self.preparing_old = self.path(s.epoch)
        job.old = self.preparing_old
        self.submit_prepare(next, job)
        self.recycled += 1
        return True

    cdef int prepared_done(self, const Job *job) except -1:
        cdef Segment *s = self.preparing
        if s == NULL or job.tag != s.epoch:
            return 0                            # taken already, by a roll that could not wait
        self.preparing = NULL
        if job.error:
            segment_free(s)
            return self.no_room(job.error, "given the next segment")
        if s.epoch:
            self.prepared = s
        else:
            self.reserve = s
        if unlikely(self.full):
            self.again_us = 0
            self.full = self.prepared == NULL or self.reserve == NULL
        return 0

    cdef int await_prepared(self) except -1:
        """A stall: the log outran the preparer. Its thread needs no GIL: waiting here is safe."""
        if not self.preparer.started:
            self.preparer.run_inline()
        while not self.preparer.has_finished(self.preparing_until):
            self.preparer.wait(self.preparing_until, WAIT_US)
        return self.prepared_done(self.preparing_job)

    cdef bytes path(self, uint64_t epoch):
        return self.directory + b"/" + segment_name(epoch).encode()

    cdef Segment *new_segment(self, uint64_t least, Job *job) except? NULL:
        """A file of the planned size, at least `least`, and the job that fills it with zeros."""
        cdef uint64_t size = self.next_size
        if size < least:
            size = (least + PAGE - 1) // PAGE * PAGE
        self.next_epoch += 1
        return self.begin(self.next_epoch - 1, size, job)

    cdef Segment *begin(self, uint64_t epoch, uint64_t size, Job *job) except? NULL:
        """Likewise, whatever it is for. NULL: there is no file, job.error says why."""
        cdef int fd = self.io.open(self.io.ctx, self.path(epoch) + b".new", O_RDWR | O_CREAT
                                   | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, MODE)
        if fd < 0:
            job.error = -fd
            return NULL
        return self.prepare(epoch, size, fd, job)

    cdef Segment *prepare(self, uint64_t epoch, uint64_t size, int fd, Job *job) except NULL:
        self.prepared_path = self.path(epoch)
        self.preparing_path = self.prepared_path + b".new"
        memset(job, 0, sizeof(Job))
        job.kind = JOB_PREPARE
        job.fd = fd
        job.size = size
        job.path = self.preparing_path
        job.to = self.prepared_path
        job.directory = self.directory
        return segment_new(epoch, size, fd)

    # -------------------------------------------------------------------------------- full disk
    cdef Segment *at_once(self, uint64_t least) except NULL:
        """A new segment while the turn waits; where the disk has no room, the reserve."""
        cdef Segment *s = NULL
        cdef Job job
        if not self.full:
            s = self.new_segment(least, &job)
            if s != NULL:
                run(&job, self.io)
                if job.error == 0:
                    return s
                segment_free(s)
            if self.reserve == NULL:
                self.check(job.error, "given a new segment")
            self.no_room(job.error, "given a new segment")
        return self.take_reserve(least)

    cdef Segment *take_reserve(self, uint64_t least) except NULL:
        cdef Segment *s = self.reserve
        if s == NULL or s.size < least:
            self.check(ENOSPC, "given a new segment")
        s.epoch = self.next_epoch
        self.next_epoch += 1
        self.check(-self.io.rename(self.io.ctx, self.path(0), self.path(s.epoch)),
                   "given its reserve")
        self.check(-self.io.sync_dir(self.io.ctx, self.directory), "given its reserve")
        self.reserve = NULL
        return s

    cdef int no_room(self, int error, str what) except -1:
        """A full disk stops no node: it goes on with what is prepared, and tries again."""
        if error != ENOSPC and error != EDQUOT and error != EFBIG:
            return self.check(error, what)
        self.full = True
        self.again_us = self.io.now_us(self.io.ctx) + FULL_AGAIN_US
        self.next_size = min(<uint64_t>RESERVE, self.segment_bytes)
        return 0

    cdef int keep_reserve(self) except -1:
        cdef Job job
        cdef Segment *s
        cdef int fd = self.io.open(self.io.ctx, self.path(0), O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0)
        if fd >= 0 and self.io.size(self.io.ctx, fd) == RESERVE:
            self.reserve = segment_new(0, RESERVE, fd)
            return 0
        if fd >= 0:
            self.io.close(self.io.ctx, fd)
        s = self.begin(0, RESERVE, &job)
        if s != NULL:
            run(&job, self.io)
            if job.error == 0:
                self.reserve = s
                return 0
            segment_free(s)
        self.no_room(job.error, "given its reserve")
        self.again_us = 0
        return 0

    # ------------------------------------------------------------------------------------ reads
    cdef Segment *holder(self, uint64_t index) noexcept:
        cdef int low = 0, high = self.count - 1, middle
        cdef Segment *s
        if self.count == 0 or index > self.last or index < self.segments[0].first:
            return NULL
        if index >= self.segments[high].first:
            return self.segments[high]
        while low < high:
            middle = (low + high + 1) >> 1
            if self.segments[middle].first <= index:
                low = middle
            else:
                high = middle - 1
        s = self.segments[low]
        return s if index - s.first < s.count else NULL

    cdef Segment *segment_of(self, uint64_t epoch) noexcept:
        cdef int i
        for i in range(self.count - 1, -1, -1):
            if self.segments[i].epoch == epoch:
                return self.segments[i]
        return NULL

    cdef uint64_t live_until(self, uint64_t epoch) noexcept:
        """The last entry in segments up to `epoch`: what was cut from them does not count."""
        cdef int i
        for i in range(self.count - 1, -1, -1):
            if self.segments[i].epoch <= epoch:
                return self.segments[i].first + self.segments[i].count - 1
        return self.segments[0].first - 1 if self.count else 0

    cdef size_t place(self, uint64_t first, uint64_t last, size_t max_bytes, int *fd,
                      int64_t *offset, uint64_t *count) noexcept:
        cdef Segment *s = self.holder(first)
        if s == NULL:
            return 0
        fd[0] = s.fd
        offset[0] = <int64_t>offset_of(s, first)
        if not MUTANT(80):
            last = max(first, min(last, self.written))
        return measure(s, first, last, max_bytes, count)

    cdef const char *from_file(self, const Segment *s, uint64_t index) except NULL:
        cdef uint64_t count
        cdef size_t size
        cdef int64_t got
        if not self.scratch_first <= index <= self.scratch_last or self.scratch_first == 0:
            if self.scratch == NULL:
                self.scratch = <char *>malloc(2 * SCRATCH)
                if self.scratch == NULL:
                    raise MemoryError
            size = measure(s, index, max(index, self.written), SCRATCH, &count)
            got = self.io.pread(self.io.ctx, s.fd, self.scratch, size, offset_of(s, index))
            self.check(0 if got == <int64_t>size else (<int>-got if got < 0 else 5), "read")
            self.scratch_first = index
            self.scratch_last = index + count - 1
        return self.scratch + (offset_of(s, index) - offset_of(s, self.scratch_first))


cdef size_t measure(const Segment *s, uint64_t first, uint64_t last, size_t max_bytes,
                    uint64_t *count) noexcept:
    """Bytes of the records from `first` that fit into max_bytes, at least one; all in segment s."""
    cdef uint64_t low = first - s.first, high, middle, start, limit
    if last > s.first + s.count - 1:
        last = s.first + s.count - 1
    high = last - s.first
    start = offset_of(s, first)
    limit = start + max_bytes
    while low < high:                           # the last record that ends within the limit
        middle = (low + high + 1) >> 1
        if record_end(s, middle) <= limit:
            low = middle
        else:
            high = middle - 1
    count[0] = low - (first - s.first) + 1
    return record_end(s, low) - start


cdef inline uint64_t record_end(const Segment *s, uint64_t i) noexcept:
    return <uint64_t>s.offsets[i + 1] * UNIT if i + 1 < s.count else s.end


cdef void header_encode(char *page, const Segment *s, uint64_t cluster,
                        uint64_t incarnation) noexcept:
    cdef SegmentHeader *h = <SegmentHeader *>page
    h.magic = SEGMENT_MAGIC
    h.format = FORMAT(SEGMENT_FORMAT)
    h.size = s.size
    h.cluster = cluster
    h.incarnation = incarnation
    h.epoch = s.epoch
    h.anchor_index = s.first - 1
    h.anchor_term = s.anchor_term
    h.anchor_crc = s.anchor_crc
    h.crc = crc32c(page + HEADER_CRC_FROM, sizeof(SegmentHeader) - HEADER_CRC_FROM, 0)


cdef int header_decode(const char *page, SegmentHeader *out) noexcept:
    """0; 1: blank, never opened; 2: damaged; 3: a newer format."""
    cdef int i
    memcpy(out, page, sizeof(SegmentHeader))
    for i in range(PAGE):
        if page[i] != 0:
            break
    else:
        return 1
    if out.magic != SEGMENT_MAGIC:
        return 2
    if out.format > FORMAT(SEGMENT_FORMAT):
        return 3
    if out.crc != crc32c(page + HEADER_CRC_FROM, sizeof(SegmentHeader) - HEADER_CRC_FROM, 0):
        return 2
    return 0


cdef Segment *segment_new(uint64_t epoch, uint64_t size, int fd) except NULL:
    cdef Segment *s = <Segment *>calloc(1, sizeof(Segment))
    if s == NULL:
        raise MemoryError
    s.epoch = epoch
    s.size = size
    s.fd = fd
    s.end = SEGMENT_DATA
    return s


cdef void segment_free(Segment *s) noexcept:
    if s != NULL:
        free(s.offsets)
        free(s)


cdef int segment_grow(Segment *s) except -1:
    s.offsets = <uint32_t *>grown(s.offsets, s.count + 1, &s.capacity, sizeof(uint32_t), 1024)
    return 0
