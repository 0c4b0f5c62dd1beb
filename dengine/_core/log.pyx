"""Segments and their tail: where records lie, and which of them are written and synced.

The turn appends and calls `write` once per batch. In MemFirst the turn writes (a large batch goes
to the flusher), in DiskFirst the flusher writes and syncs. See log.pxd; recovery is recovery.pyx.
"""
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset, strerror

from dengine._core.codec cimport ENTRY_NOOP, Record, padded, record_encode
from dengine._core.crc cimport crc32c
from dengine._core.flush cimport publish, run, write_all
from dengine._core.types cimport (DISK_FIRST, JOB_PREPARE, JOB_SYNC, JOB_WRITE, MEM_FIRST,
                                  RECORD_HEADER, SEGMENT_DATA, SEGMENT_FIRST, WRITE_INLINE, iovec,
                                  unlikely)

from os import fsdecode

from dengine.errors import InvariantError, StorageError

cdef extern from "<fcntl.h>" nogil:
    int O_RDWR, O_CREAT, O_TRUNC, O_CLOEXEC, O_NOFOLLOW

cdef enum:
    UNIT = 8                    # records are aligned to it; offsets are kept in it
    HEADER_CRC_FROM = 16
    TAIL_FIRST = 64 << 10       # bytes a tail starts with
    MODE = 0o600
    ROOM = 16                   # jobs that one write may submit
    WAIT_US = 1000000

cdef uint64_t SEGMENT_MAGIC = 0x676573656E676E64    # "dngneseg"


def segment_name(uint64_t epoch) -> str:
    """The file name of a segment."""
    return f"{epoch:016x}.seg"


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
    free(s.offsets)
    free(s)


cdef int segment_note(Segment *s, uint64_t offset) except -1:
    cdef size_t capacity
    cdef uint32_t *offsets
    if unlikely(s.count == s.capacity):
        capacity = 2 * s.capacity if s.capacity else 1024
        offsets = <uint32_t *>realloc(s.offsets, capacity * sizeof(uint32_t))
        if offsets == NULL:
            raise MemoryError
        s.offsets = offsets
        s.capacity = capacity
    s.offsets[s.count] = <uint32_t>(offset // UNIT)
    s.count += 1
    return 0


cdef class Log:
    def __cinit__(self):
        self.segments = NULL
        self.dead = NULL
        self.prepared = NULL
        self.preparing = NULL
        self.oldest = NULL
        self.filling = NULL
        self.spare = NULL
        self.scratch = NULL
        memset(&self.marks, 0, sizeof(self.marks))
        self.marks.fd = -1

    def __dealloc__(self):
        cdef Tail *t = self.oldest
        cdef Tail *next
        cdef int i
        while t != NULL:
            next = t.next
            tail_free(t)
            t = next
        tail_free(self.spare)
        for i in range(self.count):
            segment_free(self.segments[i])
        for i in range(self.dead_count):
            segment_free(self.dead[i])
        free(self.segments)
        free(self.dead)
        free(self.prepared)
        free(self.preparing)
        free(self.scratch)

    cdef int open(self, const Io *io, bytes directory, uint64_t cluster, uint64_t incarnation,
                  uint8_t strategy, uint64_t segment_bytes, Worker preparer) except -1:
        self.io = io
        self.preparer = preparer
        self.directory = directory
        self.cluster = cluster
        self.incarnation = incarnation
        self.strategy = strategy
        self.segment_bytes = segment_bytes
        self.last_crc = crc32c(&cluster, sizeof(cluster), 0)
        self.next_epoch = 1
        self.next_size = min(<uint64_t>SEGMENT_FIRST, segment_bytes)
        self.must_roll = True
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
        if self.preparing != NULL:
            self.io.close(self.io.ctx, self.preparing.fd)
        return 0

    cdef int check(self, int error, str what) except -1:
        if unlikely(error):
            raise StorageError(
                f"{fsdecode(self.directory)}: the log could not be {what}: "
                f"{strerror(error).decode()}; the node stops; what was acknowledged is on the "
                "disks that acknowledged it; mend the disk and start again")
        return 0

    # ----------------------------------------------------------------------------------- append
    cdef uint64_t append(self, uint64_t term, uint8_t kind, const char *payload,
                         size_t n) except 0:
        cdef size_t size = padded(RECORD_HEADER + n)
        cdef char *at = self.place_for(size)
        cdef uint32_t crc = record_encode(at, term, self.last + 1, kind, payload, n, self.last_crc)
        self.appended(size, term, crc)
        if kind == ENTRY_NOOP:
            self.note_noop()
        return self.last

    cdef int append_record(self, const char *record) except -1:
        cdef const Record *r = <const Record *>record
        cdef size_t size = padded(r.length)
        if unlikely(r.index != self.last + 1):
            raise InvariantError(f"record {r.index} appended after {self.last}")
        memcpy(self.place_for(size), record, size)
        self.appended(size, r.term, r.crc)
        if r.kind == ENTRY_NOOP:
            self.note_noop()
        return 0

    cdef void note_noop(self) noexcept:
        if self.noop <= self.synced:
            self.first_noop = self.last
        self.noop = self.last

    cdef char *place_for(self, size_t size) except NULL:
        """Room for one record at the end of the tail; rolls where its segment has none."""
        cdef Tail *t = self.filling
        cdef size_t capacity
        cdef char *data
        if t == NULL or self.must_roll or t.segment.end + size > t.segment.size:
            self.roll(size)
            t = self.filling
        elif t.flying:
            self.open_tail(t.segment)
            t = self.filling
        elif t.written == t.size:               # all of it is in the file: start again behind it
            t.offset += t.size
            t.size = 0
            t.written = 0
        if unlikely(t.size + size > t.capacity):
            capacity = t.capacity if t.capacity else TAIL_FIRST
            while capacity < t.size + size:
                capacity *= 2
            data = <char *>realloc(t.data, capacity)
            if data == NULL:
                raise MemoryError
            t.data = data
            t.capacity = capacity
        return t.data + t.size

    cdef int appended(self, size_t size, uint64_t term, uint32_t crc) except -1:
        cdef Tail *t = self.filling
        segment_note(t.segment, t.segment.end)
        t.segment.end += size
        t.size += size
        self.last += 1
        self.last_term = term
        self.last_crc = crc
        t.last = self.last
        t.term = term
        t.crc = crc
        return 0

    cdef int roll(self, size_t size) except -1:
        """The next segment, anchored at the last entry; its header goes with its first batch."""
        cdef Segment *s
        cdef Job job
        if self.preparing != NULL:
            self.stalls += 1
            self.await_prepared()
        s = self.prepared
        self.prepared = NULL
        if s != NULL and SEGMENT_DATA + size > s.size:      # too small for this record
            self.io.unlink(self.io.ctx, self.directory + b"/" + segment_name(s.epoch).encode())
            self.io.close(self.io.ctx, s.fd)
            segment_free(s)
            s = NULL
        if s == NULL:
            self.stalls += self.count > 0
            s = self.new_segment(SEGMENT_DATA + size, &job)
            run(&job, self.io)
            self.check(job.error, "given a new segment")
        s.first = self.last + 1
        s.count = 0
        s.end = SEGMENT_DATA
        s.anchor_term = self.last_term
        s.anchor_crc = self.last_crc
        self.push(s)
        self.must_roll = False
        self.open_tail(s)
        cdef char *page = <char *>calloc(1, PAGE)
        if page == NULL:
            raise MemoryError
        header_encode(page, s, self.cluster, self.incarnation)
        self.filling.page = page
        return 0

    cdef int push(self, Segment *s) except -1:
        cdef Segment **segments
        cdef int old
        if self.count == self.capacity:
            self.capacity = 2 * self.capacity if self.capacity else 16
            segments = <Segment **>realloc(self.segments, self.capacity * sizeof(Segment *))
            if segments == NULL:
                raise MemoryError
            self.segments = segments
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

    cdef int open_tail(self, Segment *s) except -1:
        cdef Tail *t = self.spare
        self.spare = NULL
        if t == NULL:
            t = <Tail *>calloc(1, sizeof(Tail))
            if t == NULL:
                raise MemoryError
        t.segment = s
        t.offset = s.end
        t.size = 0
        t.written = 0
        t.last = 0
        t.flying = False
        t.page = NULL
        t.next = NULL
        if self.oldest == NULL:
            self.oldest = t
        else:
            self.filling.next = t
        self.filling = t
        return 0

    # -------------------------------------------------------------------------------------- cut
    cdef int cut(self, uint64_t to) except -1:
        """Entries above `to` are dead; nothing readable is overwritten: a new segment is opened."""
        cdef uint32_t crc = self.crc_at(to)
        cdef uint64_t term = self.term_of(to)
        cdef Segment *s
        cdef Segment **dead
        cdef Tail *t
        cdef uint64_t end
        while self.count and self.segments[self.count - 1].first > to + 1:
            dead = <Segment **>realloc(self.dead, (self.dead_count + 1) * sizeof(Segment *))
            if dead == NULL:
                raise MemoryError
            self.dead = dead
            self.count -= 1
            s = self.segments[self.count]
            s.count = 0
            self.dead[self.dead_count] = s
            self.dead_count += 1
        if self.count:
            s = self.segments[self.count - 1]
            if to + 1 - s.first < s.count:
                s.count = to + 1 - s.first
                s.end = (<uint64_t>s.offsets[s.count]) * UNIT
        t = self.oldest
        while t != NULL:
            if not t.flying and t.last > to:    # what is not written yet is not written at all
                end = t.segment.end if t.segment.count else t.offset
                t.size = end - t.offset if end > t.offset else 0
                if t.written > t.size:
                    t.written = t.size
                if t.size == 0:
                    free(t.page)
                    t.page = NULL
                t.last = to
                t.term = term
                t.crc = crc
            t = t.next
        self.scratch_first = 0
        self.last = to
        self.last_crc = crc
        self.last_term = term
        self.written = min(self.written, to)
        self.synced = min(self.synced, to)
        if self.synced == to:
            self.unsynced_us = 0
        if self.noop > to:                      # an older one may still wait
            self.noop = to if self.first_noop <= to else 0
        return self.roll(0)

    cdef uint64_t term_of(self, uint64_t index) except? 0:
        cdef Segment *s
        if index == 0:
            return 0
        s = self.holder(index)
        if s == NULL:
            return self.segments[0].anchor_term
        return (<const Record *>self.record(index)).term

    # ------------------------------------------------------------------------------------ write
    cdef int write(self, Worker flusher, uint64_t commit, uint64_t now_us) except -1:
        cdef Tail *t = self.oldest
        cdef size_t size = 0
        if not flusher.has_room(ROOM):
            return 0
        while t != NULL:
            if t.flying:
                return 0                        # one order: what is behind it waits for it
            size += t.size - t.written
            t = t.next
        if size == 0:
            if self.strategy == MEM_FIRST and self.written > self.synced:
                return self.ask_sync(flusher, commit, now_us)
            return 0
        if self.unsynced_us == 0:
            self.unsynced_us = now_us
        if self.strategy == DISK_FIRST or size > WRITE_INLINE:
            return self.submit(flusher, commit, now_us)
        t = self.oldest
        while t != NULL:
            if t.size > t.written:
                self.sync_before_roll(flusher, t, commit, now_us)
                self.write_inline(t, commit)
            t = t.next
        self.retire()
        return self.ask_sync(flusher, commit, now_us)

    cdef int write_inline(self, Tail *t, uint64_t commit) except -1:
        cdef iovec part
        cdef Position p
        if t.page != NULL:                      # the header goes first
            part.iov_base = t.page
            part.iov_len = PAGE
            self.check(write_all(self.io, t.segment.fd, &part, 1, 0), "written")
            free(t.page)
            t.page = NULL
        part.iov_base = t.data + t.written
        part.iov_len = t.size - t.written
        self.check(write_all(self.io, t.segment.fd, &part, 1, t.offset + t.written), "written")
        t.written = t.size
        self.written = t.last
        self.bytes_written += part.iov_len
        self.position(t, commit, &p)
        publish(&self.marks, &p)
        return 0

    cdef int submit(self, Worker flusher, uint64_t commit, uint64_t now_us) except -1:
        """One job per tail, in order; in DiskFirst each is synced before the next is written."""
        cdef Tail *t = self.oldest
        cdef Job *job
        while t != NULL and flusher.has_room(3):            # header, records, the segment before
            if t.size > t.written:
                self.sync_before_roll(flusher, t, commit, now_us)
                if t.page != NULL:              # the header first, with its own offset
                    job = flusher.slot()
                    job.kind = JOB_WRITE
                    job.fd = t.segment.fd
                    job.iov[0].iov_base = t.page
                    job.iov[0].iov_len = PAGE
                    job.parts = 1
                    flusher.submit()
                job = flusher.slot()
                job.kind = JOB_WRITE | (JOB_SYNC if self.strategy == DISK_FIRST else 0)
                job.fd = t.segment.fd
                job.parts = 1
                job.iov[0].iov_base = t.data + t.written
                job.iov[0].iov_len = t.size - t.written
                job.offset = t.offset + t.written
                job.owner = t
                job.from_us = now_us
                self.position(t, commit, &job.position)
                t.flying = True
                flusher.submit()
            t = t.next
        return 0

    cdef int sync_before_roll(self, Worker flusher, Tail *t, uint64_t commit,
                              uint64_t now_us) except -1:
        """MemFirst: a new segment's first batch follows a sync of the segment before it."""
        cdef Position before = self.marks.written
        cdef Tail *earlier = self.oldest
        cdef Segment *s
        cdef Job *job
        if t.page == NULL or self.strategy == DISK_FIRST:
            return 0
        while earlier != t:                     # submitted in the same batch
            if earlier.size > earlier.written:
                self.position(earlier, commit, &before)
            earlier = earlier.next
        s = self.segment_of(before.epoch)
        if s == NULL or before.index <= self.synced:    # NULL: it was cut off, nothing in it counts
            return 0
        job = flusher.slot()
        job.kind = JOB_SYNC
        job.fd = s.fd
        job.from_us = now_us
        job.position = before
        flusher.submit()
        return 0

    cdef int ask_sync(self, Worker flusher, uint64_t commit, uint64_t now_us) except -1:
        """MemFirst: while something is not synced, a sync that has not started is queued."""
        cdef bint urgent = (self.noop > self.synced or self.interval_us == 0
                            or self.written - self.synced >= self.threshold)
        cdef Job *job
        cdef Segment *s
        if self.late and not flusher.has_started(self.late):
            if urgent:
                flusher.hurry()
            return 0
        s = self.segment_of(self.marks.written.epoch)
        if s == NULL:
            return 0
        job = flusher.slot()
        job.kind = JOB_SYNC
        job.late = True
        job.fd = s.fd
        job.not_before_us = now_us if urgent else now_us + self.interval_us
        job.from_us = now_us
        job.position = self.marks.written
        self.late = flusher.submit()
        return 0

    cdef int finished(self, const Job *job, uint64_t now_us) except -1:
        cdef Tail *t = <Tail *>job.owner
        cdef uint64_t index = job.position.index
        self.check(job.error, "synced" if job.kind & JOB_SYNC else "written")
        if index:
            index = min(index, self.live_until(job.position.epoch))
        if job.kind & JOB_WRITE and t != NULL:
            t.flying = False
            t.written = t.size
            free(t.page)
            t.page = NULL
            self.bytes_written += job.iov[0].iov_len
            if index > self.written:
                self.written = index
            if self.segment_of(job.position.epoch) != NULL:
                publish(&self.marks, &job.position)
            self.retire()
        if job.kind & JOB_SYNC:
            if index > self.synced:
                self.synced = index
            self.unsynced_us = job.from_us if self.last > self.synced else 0
        return 0

    cdef uint64_t durable(self, uint64_t now_us) noexcept:
        cdef uint64_t index
        if self.strategy == DISK_FIRST:
            return self.synced
        index = self.written
        if self.noop > self.synced:             # the no-op of a term counts once it is synced
            index = min(index, max(self.first_noop - 1, self.synced))
        if self.unsynced_us and now_us > self.unsynced_us + self.max_unflushed_us:
            index = min(index, self.synced)
        return index

    cdef void position(self, const Tail *t, uint64_t commit, Position *to) noexcept:
        memset(to, 0, sizeof(Position))
        to.epoch = t.segment.epoch
        to.offset = t.offset + t.size
        to.index = t.last
        to.term = t.term
        to.crc = t.crc
        to.commit = min(commit, t.last)

    cdef void retire(self) noexcept:
        """Drops the tails before the newest that is wholly in the file; that one serves reads."""
        cdef Tail *t
        while (self.oldest.next != NULL and self.oldest.written == self.oldest.size
               and not self.oldest.flying and not self.oldest.next.flying
               and self.oldest.next.written == self.oldest.next.size):
            t = self.oldest
            self.oldest = t.next
            if self.spare == NULL and t.capacity <= WRITE_INLINE:
                self.spare = t
            else:
                tail_free(t)

    cdef uint64_t live_until(self, uint64_t epoch) noexcept:
        """The last entry in segments up to `epoch`: what was cut from them does not count."""
        cdef int i
        for i in range(self.count - 1, -1, -1):
            if self.segments[i].epoch <= epoch:
                return self.segments[i].first + self.segments[i].count - 1
        return self.segments[0].first - 1 if self.count else 0

    cdef Segment *segment_of(self, uint64_t epoch) noexcept:
        cdef int i
        for i in range(self.count - 1, -1, -1):
            if self.segments[i].epoch == epoch:
                return self.segments[i]
        return NULL

    # ---------------------------------------------------------------------------------- prepare
    cdef int plan(self) except -1:
        """The next segment is prepared when the active one is half full."""
        cdef Job *job
        cdef Segment *s
        if (self.prepared != NULL or self.preparing != NULL or self.count == 0
                or not self.preparer.has_room(1)):
            return 0
        s = self.segments[self.count - 1]
        if s.end * 2 < s.size:
            return 0
        job = self.preparer.slot()
        self.preparing = self.new_segment(0, job)
        job.tag = self.preparing.epoch
        self.preparing_job = job
        self.preparing_until = self.preparer.submit()
        return 0

    cdef int prepared_done(self, const Job *job) except -1:
        if self.preparing == NULL or job.tag != self.preparing.epoch:
            return 0                            # taken already, by a roll that could not wait
        self.check(job.error, "given the next segment")
        self.prepared = self.preparing
        self.preparing = NULL
        return 0

    cdef int await_prepared(self) except -1:
        """A stall: the log outran the preparer. Its thread needs no GIL: waiting here is safe."""
        if not self.preparer.started:
            self.preparer.run_inline()
        while not self.preparer.has_finished(self.preparing_until):
            self.preparer.wait(self.preparing_until, WAIT_US)
        return self.prepared_done(self.preparing_job)

    cdef Segment *new_segment(self, uint64_t least, Job *job) except NULL:
        """A file of the planned size, at least `least`, and the job that fills it with zeros."""
        cdef uint64_t size = self.next_size
        cdef uint64_t epoch = self.next_epoch
        cdef bytes new = self.directory + b"/" + segment_name(epoch).encode()
        cdef bytes temporary = new + b".new"
        cdef int fd
        if size < least:
            size = (least + PAGE - 1) // PAGE * PAGE
        fd = self.io.open(self.io.ctx, temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC
                          | O_NOFOLLOW, MODE)
        self.check(-fd if fd < 0 else 0, "given a new segment")
        self.next_epoch += 1
        self.preparing_path = temporary
        self.prepared_path = new
        memset(job, 0, sizeof(Job))
        job.kind = JOB_PREPARE
        job.fd = fd
        job.size = size
        job.path = self.preparing_path
        job.to = self.prepared_path
        job.directory = self.directory
        return segment_new(epoch, size, fd)

    # ------------------------------------------------------------------------------------ reads
    cdef Segment *holder(self, uint64_t index) noexcept:
        """The segment with record `index`; NULL: none has it."""
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

    cdef char *in_memory(self, Segment *s, uint64_t offset, size_t *room) noexcept:
        """The bytes at `offset`, and how many follow contiguously; NULL: only in the file."""
        cdef Tail *t = self.oldest
        cdef uint64_t limit = s.end
        while t != NULL:
            if t.segment == s and t.size:
                if t.offset <= offset < t.offset + t.size:
                    room[0] = t.offset + t.size - offset
                    return t.data + (offset - t.offset)
                if t.offset > offset and t.offset < limit:
                    limit = t.offset
            t = t.next
        room[0] = limit - offset
        return s.map + offset if s.map != NULL else NULL

    cdef size_t span(self, uint64_t first, uint64_t last, size_t max_bytes, const char **at,
                     uint64_t *count) noexcept:
        cdef Segment *s = self.holder(first)
        cdef size_t room
        cdef uint64_t offset
        if s == NULL:
            return 0
        offset = <uint64_t>s.offsets[first - s.first] * UNIT
        at[0] = self.in_memory(s, offset, &room)
        if at[0] == NULL:
            return 0
        return measure(s, first, last, min(room, max_bytes), count)

    cdef size_t place(self, uint64_t first, uint64_t last, size_t max_bytes, int *fd,
                      int64_t *offset, uint64_t *count) noexcept:
        cdef Segment *s = self.holder(first)
        if s == NULL:
            return 0
        fd[0] = s.fd
        offset[0] = <int64_t>s.offsets[first - s.first] * UNIT
        return measure(s, first, max(first, min(last, self.written)), max_bytes, count)

    cdef const char *record(self, uint64_t index) except NULL:
        cdef Segment *s = self.holder(index)
        cdef uint64_t offset, count
        cdef size_t room, size
        cdef int64_t got
        cdef char *at
        if unlikely(s == NULL):
            raise InvariantError(f"entry {index} is not in the log, which ends at {self.last}")
        offset = <uint64_t>s.offsets[index - s.first] * UNIT
        at = self.in_memory(s, offset, &room)
        if at != NULL:
            return at
        if not self.scratch_first <= index <= self.scratch_last or self.scratch_first == 0:
            if self.scratch == NULL:
                self.scratch = <char *>malloc(2 * SCRATCH)
                if self.scratch == NULL:
                    raise MemoryError
            size = measure(s, index, max(index, self.written), SCRATCH, &count)
            got = self.io.pread(self.io.ctx, s.fd, self.scratch, size, offset)
            self.check(0 if got == <int64_t>size else (<int>-got if got < 0 else 5), "read")
            self.scratch_first = index
            self.scratch_last = index + count - 1
        return self.scratch + (offset - <uint64_t>s.offsets[self.scratch_first - s.first] * UNIT)

    cdef uint32_t crc_at(self, uint64_t index) except? 0xFFFFFFFF:
        if index == self.last:
            return self.last_crc
        if self.count and index == self.segments[0].first - 1:
            return self.segments[0].anchor_crc
        return (<const Record *>self.record(index)).crc


cdef size_t measure(const Segment *s, uint64_t first, uint64_t last, size_t max_bytes,
                    uint64_t *count) noexcept:
    """Bytes of the records from `first` that fit into max_bytes, at least one; all in segment s."""
    cdef uint64_t low = first - s.first, high, middle, start, limit
    if last > s.first + s.count - 1:
        last = s.first + s.count - 1
    high = last - s.first
    start = <uint64_t>s.offsets[low] * UNIT
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


cdef void tail_free(Tail *t) noexcept:
    if t != NULL:
        free(t.data)
        free(t.page)
        free(t)


cdef void header_encode(char *page, const Segment *s, uint64_t cluster,
                        uint64_t incarnation) noexcept:
    cdef SegmentHeader *h = <SegmentHeader *>page
    h.magic = SEGMENT_MAGIC
    h.format = SEGMENT_FORMAT
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
    if out.format > SEGMENT_FORMAT:
        return 3
    if out.crc != crc32c(page + HEADER_CRC_FROM, sizeof(SegmentHeader) - HEADER_CRC_FROM, 0):
        return 2
    return 0
