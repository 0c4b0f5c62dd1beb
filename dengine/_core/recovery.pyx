"""Recovery of the log: what is accepted is what the disk returns after a sync.

It decides which records live, which are a torn tail, and what is corruption by headers,
anchors and marks. It runs once, before the first message; it knows no consensus.
"""
import re
from os import fsdecode, fsencode

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from dengine._core.codec cimport (ENTRY_CONFIG, RECORD_END, RECORD_KIND, RECORD_OK, Record, padded,
                                  record_check)
from dengine._core.fault cimport FAILPOINT, FORMAT, MUTANT
from dengine._core.flush cimport lied, mark_decode, refresh
from dengine._core.segments cimport (SEGMENT_FORMAT, UNIT, Segment, SegmentHeader, header_decode,
                                     offset_of, segment_free, segment_new, segment_note)
from dengine._core.types cimport MAX_RECORD, PAGE, SEGMENT_DATA

from dengine._core.segments import segment_name
from dengine.errors import CorruptionError, FormatError

cdef extern from "<fcntl.h>" nogil:
    int O_RDWR, O_CLOEXEC, O_NOFOLLOW

cdef enum:
    WINDOW = 4 << 20            # bytes read at once; more than the largest record

EPOCH_MAX = 1 << 48             # a segment each millisecond for 8,000 years
FAULTS = {2: "is cut short", 3: "has an impossible length", 4: "does not match its checksum",
          5: "does not continue the log"}


cdef class Scan:
    def __cinit__(self):
        self.found = Found()
        self.configs = []
        self.loose = set()
        self.window = <char *>malloc(WINDOW)
        if self.window == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.window)

    cdef int run(self, list names, uint64_t known) except -1:
        cdef list epochs = sorted(int(n.removesuffix('.seg'), 16) for n in names
                                  if re.fullmatch(r"[0-9a-f]{16}\.seg", n))
        if max(epochs, default=0) > EPOCH_MAX:
            raise FormatError(f"{self.name(max(epochs))} is none of this node's segments: nothing "
                              "was changed; move it out of the directory")
        cdef list opened = []
        self.stale = [n for n in names if n.endswith(".seg.new") or n == "reserve.new"]
        for epoch in epochs:
            opened.append((epoch, self.open(epoch)))
        for epoch, fd in opened:
            self.read_marks(epoch, fd)
        dead = self.dead(opened)
        for i, (epoch, fd) in enumerate(opened):
            if epoch in dead:
                self.leave(epoch)
            else:
                self.segment(epoch, fd, i == len(opened) - 1)
        return self.judge(known)

    cdef int judge(self, uint64_t known) except -1:
        """Is all there that a mark, the hard state or the name of a snapshot proves?"""
        cdef Position *mark = &self.found.mark
        cdef uint64_t end
        if self.base.index and not self.holds_base():
            if self.log.last:
                self.found.notes.append(
                    f"the log, which ends at entry {self.log.last}, does not lead to the snapshot "
                    f"of entry {self.base.index}: it starts anew behind that")
            self.restart(self.base.index, self.base.term, self.base.crc)
        end = self.log.last
        self.found.commit = min(self.found.mark.commit, end)
        self.found.configs = self.configs
        if not self.proved and mark.index > self.base.index:
            self.corrupt(self.fault or f"{self.name(mark.epoch)} is missing, but a completed sync "
                         f"proves entries up to {mark.index} in it")
        if end < known and not MUTANT(111):
            self.corrupt(f"{fsdecode(self.log.directory)} ends at entry {end}, but entry {known} "
                         "was on this disk when the hard state was saved: a segment is missing or "
                         "cut short")
        if end < self.base.newest and not MUTANT(121):
            self.corrupt(f"the snapshot of entry {self.base.newest} is damaged, and "
                         f"{fsdecode(self.log.directory)} ends at entry {end}")
        return 0

    cdef int suspect(self, str what) except -1:
        """Something that is proven is bad. It may still be that nothing of it counts."""
        if self.fault is None:
            self.fault = what
        return 0

    cdef int corrupt(self, str what) except -1:
        """Of several faults the first is told: the others follow from it."""
        if self.alone:
            raise CorruptionError(f"{what}; nothing was changed; restore the directory from a "
                                  "backup, or let `dengine repair` go on with what is left")
        if not self.found.corrupt:
            self.found.notes.append(f"{what}; the log is good up to entry {self.log.last}, the "
                                    "rest comes from the leader again")
        self.found.corrupt = True
        return 0

    cdef str name(self, uint64_t epoch):
        return f"{fsdecode(self.log.directory)}/{segment_name(epoch)}"

    cdef int open(self, uint64_t epoch) except -1:
        """Opens and syncs a segment: what is read afterwards is what the disk holds."""
        path = fsencode(self.name(epoch))
        cdef int fd = self.log.io.open(self.log.io.ctx, path, O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0)
        self.log.check(-fd if fd < 0 else 0, "opened")
        self.loose.add(fd)
        cdef int error = 0 if MUTANT(42) else -self.log.io.fdatasync(self.log.io.ctx, fd)
        if error:
            lied(&self.log.marks, self.log.io)
        self.log.check(error, "synced")
        if epoch >= self.log.next_epoch and not MUTANT(82):
            self.log.next_epoch = epoch + 1
        return fd

    cdef int read(self, int fd, char *to, size_t n, uint64_t offset) except -1:
        """n bytes at offset; zeros where the file ends before."""
        cdef int64_t got
        cdef size_t have = 0
        while have < n:
            got = self.log.io.pread(self.log.io.ctx, fd, to + have, n - have, offset + have)
            self.log.check(<int>-got if got < 0 else 0, "read")
            if got == 0:
                memset(to + have, 0, n - have)
                break
            have += got
        return 0

    cdef int read_marks(self, uint64_t epoch, int fd) except -1:
        cdef Position p
        cdef uint64_t sequence
        cdef int i
        for i in range(2):
            self.read(fd, self.window, PAGE, PAGE * (1 + i))
            if mark_decode(self.window, &p, &sequence) == 0 and sequence > self.found.sequence:
                self.found.mark = p
                self.found.sequence = sequence
                if p.epoch >= self.log.next_epoch:      # its file is gone, its name is used
                    self.log.next_epoch = p.epoch + 1
        return 0

    cdef set dead(self, list opened):
        """Epochs of which a newer, proven anchor leaves nothing: they are not read."""
        cdef SegmentHeader h
        cdef uint64_t lowest = <uint64_t>-1
        cdef set dead = set()
        for epoch, fd in reversed(opened):
            self.read(fd, self.window, PAGE, 0)
            if (epoch <= self.found.mark.epoch and header_decode(self.window, &h) == 0
                    and self.ours(&h, epoch)):
                if h.anchor_index >= lowest:
                    dead.add(epoch)
                lowest = min(lowest, h.anchor_index)
        return dead

    cdef bint ours(self, const SegmentHeader *h, uint64_t epoch) noexcept:
        return (h.cluster == self.log.cluster and h.incarnation == self.log.incarnation
                and h.epoch == epoch)

    cdef int leave(self, uint64_t epoch) except -1:
        """Nothing in this segment is live: it is removed at the end."""
        self.stale.append(segment_name(epoch))
        return 0

    cdef int segment(self, uint64_t epoch, int fd, bint newest) except -1:
        cdef SegmentHeader h
        cdef Segment *s
        cdef int fault
        cdef bint proven = epoch <= self.found.mark.epoch
        cdef int64_t size = self.log.io.size(self.log.io.ctx, fd)
        self.log.check(<int>-size if size < 0 else 0, "read")
        # not proven: from the disk, not from the cache
        if epoch >= self.found.mark.epoch and not MUTANT(43):
            self.log.io.drop(self.log.io.ctx, fd, 0, size)
        self.read(fd, self.window, PAGE, 0)
        fault = header_decode(self.window, &h)
        if fault == 3:
            raise FormatError(f"{self.name(epoch)} is of a newer format: nothing was changed; use "
                              "the dengine version that wrote it, or a later one")
        if (fault == 1 and newest and size >= SEGMENT_DATA and not proven
                and self.blank(fd, 0, size)):   # a lost header can leave records behind
            self.log.prepared = segment_new(epoch, size, fd)    # zeros, ready to be used
            self.loose.discard(fd)
            return 0
        if fault == 0 and not self.ours(&h, epoch):
            raise FormatError(f"{self.name(epoch)} belongs to another node, cluster or place in "
                              "the log: nothing was changed; move it out of the directory")
        if fault == 0 and h.size != <uint64_t>size:
            fault = 2
        if fault or not (self.reaches(&h) or self.starts_anew(&h)):
            # A blank one of a lower epoch was prepared and passed over: the next anchor tells.
            if proven and (fault != 1 or epoch == self.found.mark.epoch):
                self.suspect(f"{self.name(epoch)}: its header "
                             f"{'is damaged' if fault else 'does not continue the log'}, but a "
                             f"completed sync proves entries up to {self.found.mark.index}")
            elif fault != 1:
                self.found.notes.append(f"{segment_name(epoch)} was never synced and is left out")
            return self.leave(epoch)
        s = segment_new(epoch, size, fd)
        s.format = h.format
        s.first = h.anchor_index + 1
        s.anchor_term = h.anchor_term
        s.anchor_crc = h.anchor_crc
        self.keep_to(h.anchor_index, h.anchor_term, h.anchor_crc)
        self.log.push(s)
        self.loose.discard(fd)
        return self.records(s)

    cdef bint reaches(self, const SegmentHeader *h) except -1:
        """Does the chain hold the entry that this segment is anchored at?"""
        if h.anchor_index > self.log.last:
            return False
        if self.found.terms.at(h.anchor_index) != h.anchor_term and not MUTANT(45):
            return False
        return self.log.crc_at(h.anchor_index) == h.anchor_crc or MUTANT(44)

    cdef bint starts_anew(self, const SegmentHeader *h) except -1:
        """What is before it is not needed: the snapshot holds it, up to this anchor at least.
        Whether the chain that begins here is the snapshot's, `judge` sees."""
        if self.base.index == 0 or h.anchor_index > self.base.index or self.holds_base():
            return False
        self.restart(h.anchor_index, h.anchor_term, h.anchor_crc)
        return True

    cdef bint holds_base(self) except -1:
        """Does the chain lead through the last entry of the snapshot?"""
        return (self.log.last >= self.base.index
                and (MUTANT(114) or self.found.terms.at(self.base.index) == self.base.term)
                and (MUTANT(114) or self.log.crc_at(self.base.index) == self.base.crc))

    cdef int restart(self, uint64_t index, uint64_t term, uint32_t crc) except -1:
        """The chain begins behind this entry."""
        while self.log.count:
            self.drop()
        self.found.terms = Terms(index, term)
        self.configs = []
        self.log.scratch_first = 0
        self.log.last = index
        self.log.last_term = term
        self.log.last_crc = crc
        return 0

    cdef int drop(self) except -1:
        """The newest segment holds nothing live."""
        cdef Segment *s
        self.log.count -= 1
        s = self.log.segments[self.log.count]
        self.stale.append(segment_name(s.epoch))
        if s.map != NULL:
            self.log.io.unmap(self.log.io.ctx, s.map, s.size)
        self.log.io.close(self.log.io.ctx, s.fd)
        segment_free(s)
        return 0

    cdef int keep_to(self, uint64_t index, uint64_t term, uint32_t crc) except -1:
        """Records above a newer anchor are dead."""
        cdef Segment *s
        if index == self.log.last or MUTANT(46):
            return 0
        while self.log.count and self.log.segments[self.log.count - 1].first > index + 1:
            self.drop()
        if self.log.count:
            s = self.log.segments[self.log.count - 1]
            if index + 1 - s.first < s.count:
                s.count = index + 1 - s.first
                s.end = offset_of(s, index + 1)
        self.found.terms.cut(index)
        self.configs = [i for i in self.configs if i <= index]
        self.log.scratch_first = 0
        self.log.last = index
        self.log.last_term = term
        self.log.last_crc = crc
        return 0

    cdef int records(self, Segment *s) except -1:
        """Follows the chain through one segment, to its end or the first bad record."""
        cdef uint64_t base = 0, have = 0        # the window: file bytes [base, base + have)
        cdef const char *at
        cdef const Record *r
        cdef int fault
        while True:
            if s.end + MAX_RECORD + UNIT > base + have and base + have < s.size:
                base = s.end
                have = min(<uint64_t>WINDOW, s.size - base)
                self.read(s.fd, self.window, have, base)
                if self.progress is not None:
                    self.progress(have)
            at = self.window + (s.end - base)
            if s.end + sizeof(uint32_t) > s.size:
                fault = RECORD_END
                break
            fault = record_check(at, base + have - s.end, self.log.last + 1, self.log.last_term,
                                 self.log.last_crc)
            if fault != RECORD_OK:
                break
            r = <const Record *>at
            segment_note(s, s.end)
            s.end += padded(r.length)
            self.found.terms.append(r.term, 1)
            if r.kind == ENTRY_CONFIG:
                self.configs.append(r.index)
            self.log.last += 1
            self.log.last_term = r.term
            self.log.last_crc = r.crc
        if fault == RECORD_KIND:
            raise FormatError(f"{self.name(s.epoch)}, offset {s.end}: entry {self.log.last + 1} is "
                              "of a kind that this version does not know: nothing was changed; use "
                              "the dengine version that wrote it, or a later one")
        if s.epoch == self.found.mark.epoch:
            self.proved = s.end >= self.found.mark.offset or MUTANT(81)
        if s.epoch == self.found.mark.epoch and not self.proved:
            self.suspect(f"{self.name(s.epoch)}, offset {s.end}: entry {self.log.last + 1} "
                         f"{FAULTS.get(fault, 'is missing')}, but a completed sync proves entries "
                         f"up to {self.found.mark.index}")
        elif fault != RECORD_END:
            self.found.notes.append(f"{segment_name(s.epoch)}, offset {s.end}: a torn tail after "
                                    f"entry {self.log.last} is cut: it {FAULTS[fault]}")
        return 0

    cdef int finish(self) except -1:
        cdef Segment *s
        cdef Log log = self.log
        log.written = log.last
        log.synced = log.last
        log.marks.sequence = self.found.sequence
        if log.count == 0:
            return self.tidy()
        s = log.segments[log.count - 1]
        # nothing readable is overwritten: go on in place; this version's records, under its header
        if MUTANT(47) or (s.format == FORMAT(SEGMENT_FORMAT)
                          and self.blank(s.fd, s.end, s.size)):
            log.must_roll = False
            log.open_tail(s)
        log.marks.done.epoch = s.epoch
        log.marks.done.offset = s.end
        log.marks.done.index = log.last
        log.marks.done.term = log.last_term
        log.marks.done.crc = log.last_crc
        log.marks.done.commit = self.found.commit
        log.marks.written = log.marks.done
        log.marks.fd = s.fd
        log.synced_epoch = s.epoch
        log.marks.fresh = True
        return self.tidy()

    cdef int tidy(self) except -1:
        """Removes what is dead; the names that stay are durable before anything relies on them."""
        cdef Log log = self.log
        if self.stale and not MUTANT(83):       # the newest mark may lie in them, or name them
            log.check(refresh(&log.marks, log.io), "synced")
        FAILPOINT(b"recovery.tidy")
        for name in self.stale:
            path = log.directory + b"/" + name.encode()
            if self.found.corrupt and not name.endswith(".new"):
                log.io.rename(log.io.ctx, path, path + b".corrupt")     # whoever wants to look
            else:
                log.io.unlink(log.io.ctx, path)
        return log.check(-log.io.sync_dir(log.io.ctx, log.directory), "synced")

    cdef bint blank(self, int fd, uint64_t at, uint64_t size) except -1:
        """Is the file zero from `at` to its end?"""
        cdef size_t n, i
        while at < size:
            n = min(<uint64_t>WINDOW, size - at)
            self.read(fd, self.window, n, at)
            for i in range(n):
                if self.window[i]:
                    return False
            at += n
        return True


cdef Scan recover(Log log, list names, const Base *base, uint64_t known, bint alone,
                  object progress):
    cdef Scan scan = Scan()
    scan.progress = progress
    scan.log = log
    scan.base = base[0]
    scan.alone = alone
    try:
        scan.run(names, known)
    finally:
        for fd in scan.loose:
            log.io.close(log.io.ctx, fd)
    return scan


cdef class Found:
    def __cinit__(self):
        self.terms = Terms()
        self.notes = []
        memset(&self.mark, 0, sizeof(self.mark))
