"""The tail of the log: what is appended, and which of it is written and synced. See log.pxd.

The turn appends and calls `write` once per batch. In MemFirst the turn writes (a large batch goes
to the flusher), in DiskFirst the flusher writes and syncs. Recovery is recovery.pyx.
"""
cimport cython
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset

from dengine._core.codec cimport ENTRY_CONFIG, ENTRY_NOOP, Record, padded, record_encode
from dengine._core.fault cimport FAILPOINT, MUTANT
from dengine._core.flush cimport publish, write_all
from dengine._core.memory cimport grown
from dengine._core.segments cimport header_encode, measure, offset_of, segment_note
from dengine._core.types cimport (DISK_FIRST, JOB_SYNC, JOB_WRITE, MEM_FIRST, PAGE, RECORD_HEADER,
                                  RESERVE_NOOPS, SEGMENT_DATA, SMALL, WRITE_INLINE, iovec, likely,
                                  unlikely)
from dengine._core.watch cimport coarse_us

from dengine.errors import InvariantError

cdef enum:
    TAIL_FIRST = 64 << 10       # bytes a tail starts with
    ROOM = 16                   # jobs that one write may submit


@cython.final
cdef class Log(Segments):
    def __cinit__(self):
        self.oldest = NULL
        self.filling = NULL
        self.spare = NULL
        self.must_roll = True
        memset(&self.marks, 0, sizeof(self.marks))
        self.marks.fd = -1

    def __dealloc__(self):
        cdef Tail *t = self.oldest
        cdef Tail *next
        while t != NULL:
            next = t.next
            tail_free(t)
            t = next
        tail_free(self.spare)

    # ----------------------------------------------------------------------------------- append
    cdef uint64_t append(self, uint64_t term, uint8_t kind, const char *payload,
                         size_t n) except 0:
        cdef size_t size = padded(RECORD_HEADER + n)
        cdef char *at = self.place_for(size)
        cdef uint32_t crc = record_encode(at, term, self.last + 1, kind, payload, n, self.last_crc)
        self.appended(size, term, crc)
        if kind == ENTRY_NOOP or (kind == ENTRY_CONFIG and not MUTANT(163)):
            self.note_noop()
        return self.last

    cdef int append_record(self, const char *record) except -1:
        cdef const Record *r = <const Record *>record
        cdef size_t size = padded(r.length)
        if unlikely(r.index != self.last + 1):
            raise InvariantError(f"record {r.index} appended after {self.last}")
        memcpy(self.place_for(size), record, size)
        self.appended(size, r.term, r.crc)
        if r.kind == ENTRY_NOOP or (r.kind == ENTRY_CONFIG and not MUTANT(163)):
            self.note_noop()
        return 0

    cdef void note_noop(self) noexcept:
        if self.noop <= self.synced or MUTANT(71):
            self.first_noop = self.last
        self.noop = self.last

    cdef char *place_for(self, size_t size) except NULL:
        """Room for one record at the end of the tail; rolls where its segment has none."""
        cdef Tail *t = self.filling
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
            t.data = <char *>grown(t.data, t.size + size, &t.capacity, 1, TAIL_FIRST)
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
        """The next segment; its header goes with its first batch."""
        cdef Segment *s = self.roll_to(size)
        cdef char *page
        self.must_roll = False
        self.open_tail(s)
        page = <char *>calloc(1, PAGE)
        if page == NULL:
            raise MemoryError
        header_encode(page, s, self.cluster, self.incarnation)
        self.filling.page = page
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
        free(t.page)                            # a spare one that no record followed
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
        cdef Tail *t
        cdef uint64_t end
        self.keep(to)
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
        self.last = to
        self.last_crc = crc
        self.last_term = term
        self.written = min(self.written, to)
        self.synced = self.synced if MUTANT(32) else min(self.synced, to)
        if self.synced == to:
            self.unsynced_us = 0
        if self.noop > to:                      # an older one may still wait
            self.noop = to if self.first_noop <= to and not MUTANT(72) else 0
        return self.roll(0)

    cdef uint64_t term_of(self, uint64_t index) except? 0:
        cdef Segment *s
        if index == 0:
            return 0
        s = self.holder(index)
        if s == NULL:
            return self.segments[0].anchor_term
        return (<const Record *>self.record(index)).term

    # ---------------------------------------------------------------------------------- compact
    cdef bint compact(self, uint64_t to, uint64_t needed, uint64_t spare) except -1:
        cdef uint64_t bytes = 0
        cdef Segment *s
        cdef int _, n = 0
        cdef bint some = False
        while n + 1 < self.count and self.segments[n + 1].first <= to + 1:
            bytes += self.segments[n].size
            n += 1
        for _ in range(n):
            s = self.segments[0]
            # The flusher may still hold the file of the newest sync, the tail serves reads.
            if (s.epoch >= self.synced_epoch or not self.preparer.has_room(ROOM)
                    or (self.oldest != NULL and self.oldest.segment.epoch <= s.epoch)):
                break
            if self.segments[1].first - 1 > needed and bytes <= spare:
                break
            bytes -= s.size
            self.remove(s)
            self.count -= 1
            memmove(self.segments, self.segments + 1, self.count * sizeof(Segment *))
            some = True
        return some

    cdef int restart(self, uint64_t index, uint64_t term, uint32_t crc) except -1:
        cdef Tail *t
        while self.oldest != NULL:
            t = self.oldest
            self.oldest = t.next
            tail_free(t)
        self.filling = NULL
        while self.count:
            self.cut_off()
        self.last = self.written = self.synced = index
        self.last_term = term
        self.last_crc = crc
        self.noop = self.first_noop = self.unsynced_us = 0
        self.must_roll = True
        return 0

    cdef int bury(self) except -1:
        while (self.dead_count and self.dead[self.dead_count - 1].epoch < self.marked_epoch
               and self.preparer.has_room(ROOM)):
            self.dead_count -= 1
            self.remove(self.dead[self.dead_count])
        return 0

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
        while t != NULL and flusher.has_room(2):            # the segment before, ask_sync's own
            if t.size > t.written:
                self.sync_before_roll(flusher, t, commit, now_us)
                self.write_inline(t, commit)
            t = t.next
        self.retire()
        return self.ask_sync(flusher, commit, now_us)

    cdef int write_inline(self, Tail *t, uint64_t commit) except -1:
        cdef iovec part
        cdef Position p
        cdef uint64_t start = coarse_us(self.io)
        if t.page != NULL:                      # the header goes first
            part.iov_base = t.page
            part.iov_len = PAGE
            self.check(write_all(self.io, t.segment.fd, &part, 1, 0), "written")
            free(t.page)
            t.page = NULL
        part.iov_base = t.data + t.written
        part.iov_len = t.size - t.written
        self.check(FAILPOINT(b"log.write") or write_all(
            self.io, t.segment.fd, &part, 1, t.offset + t.written), "written")
        self.blocked_us += coarse_us(self.io) - start
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
                job.kind = JOB_WRITE
                if self.strategy == DISK_FIRST and (t.next == NULL or not MUTANT(77)):
                    job.kind |= JOB_SYNC
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
        if t.page == NULL or self.strategy == DISK_FIRST or MUTANT(31):
            return 0
        while earlier != t:                     # submitted in the same batch
            if earlier.size > earlier.written and not MUTANT(73):
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
        if (self.late and (self.late_epoch == self.marks.written.epoch or MUTANT(74))
                and not flusher.has_started(self.late)):
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
        self.late_epoch = self.marks.written.epoch      # it covers no other segment
        self.late = flusher.submit()
        return 0

    cdef int finished(self, const Job *job, uint64_t now_us) except -1:
        cdef Tail *t = <Tail *>job.owner
        cdef uint64_t index = job.position.index
        if not MUTANT(34):
            self.check(job.error, "synced" if job.kind & JOB_SYNC else "written")
        if MUTANT(76) and job.late:
            index = self.written
        if index:
            index = index if MUTANT(33) else min(index, self.live_until(job.position.epoch))
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
            if self.synced_epoch == job.position.epoch:
                self.marked_epoch = job.position.epoch
            self.synced_epoch = job.position.epoch
            if index > self.synced:
                self.synced = index
            self.unsynced_us = job.from_us if self.last > self.synced else 0
        return 0

    cdef bint takes(self, size_t size, bint cut) noexcept:
        cdef Segment *next = self.prepared if self.prepared != NULL else self.reserve
        cdef Segment *active
        cdef uint64_t room = 0
        if likely(not self.full) or MUTANT(128):
            return True
        if next != NULL:
            room = next.size - SEGMENT_DATA
        if not cut and self.count and not self.must_roll:
            active = self.segments[self.count - 1]
            room = max(room, active.size - active.end)
        return size + (0 if size <= SMALL else RESERVE_NOOPS) <= room

    cdef uint64_t durable(self, uint64_t now_us) noexcept:
        cdef uint64_t index
        if self.strategy == DISK_FIRST:
            return self.synced
        index = self.written if not MUTANT(70) else self.last
        if self.noop > self.synced and not MUTANT(29):       # it counts once it is synced
            index = min(index, max(self.first_noop - 1, self.synced))
        if (self.unsynced_us and now_us > self.unsynced_us + self.max_unflushed_us
                and not MUTANT(30)):
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

    # ------------------------------------------------------------------------------------ reads
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
        offset = offset_of(s, first)
        at[0] = self.in_memory(s, offset, &room)
        if at[0] == NULL:
            return 0
        return measure(s, first, last, min(room, max_bytes), count)

    cdef const char *record(self, uint64_t index) except NULL:
        cdef Segment *s = self.holder(index)
        cdef size_t room
        cdef char *at
        if unlikely(s == NULL):
            raise InvariantError(f"entry {index} is not in the log, which ends at {self.last}")
        at = self.in_memory(s, offset_of(s, index), &room)
        if at == NULL:
            return self.from_file(s, index)
        return at

    cdef uint32_t crc_at(self, uint64_t index) except? 0xFFFFFFFF:
        if index == self.last:
            return self.last_crc
        if self.count and index == self.segments[0].first - 1:
            return self.segments[0].anchor_crc
        return (<const Record *>self.record(index)).crc


cdef void tail_free(Tail *t) noexcept:
    if t != NULL:
        free(t.data)
        free(t.page)
        free(t)
