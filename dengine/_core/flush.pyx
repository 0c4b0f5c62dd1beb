"""Jobs: writes, syncs and marks, outside the GIL. See flush.pxd.

It decides what a mark says. It knows files and offsets; it knows no threads and no entries.
"""
from libc.errno cimport EIO
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from dengine._core.crc cimport crc32c
from dengine._core.fault cimport FAILPOINT, MUTANT
from dengine._core.types cimport (JOB_FREE, JOB_META, JOB_PREPARE, JOB_READ, JOB_REMOVE, JOB_SYNC,
                                  JOB_WRITE, PAGE, SEGMENT_DATA)

cdef extern from "<fcntl.h>" nogil:
    int O_RDWR, O_CREAT, O_CLOEXEC, O_NOFOLLOW

cdef enum:
    MARK_MAGIC = 0x6B72616D     # "mark"
    MODE = 0o600
    ZEROS = 64 << 10            # bytes of zeros per write: larger ones make large folios
    PACE = 1 << 20              # bytes of zeros per sync: syncs of the log wait for no more of them


cdef void mark_encode(char *page, const Position *p, uint64_t sequence) noexcept nogil:
    cdef MarkPage *m = <MarkPage *>page
    memset(page, 0, PAGE)
    m.magic = MARK_MAGIC
    m.sequence = sequence
    m.epoch = p.epoch
    m.offset = p.offset
    m.index = p.index
    m.term = p.term
    m.commit = p.commit
    m.record_crc = p.crc
    m.crc = crc32c(page + 8, sizeof(MarkPage) - 8, 0)


cdef int mark_decode(const char *page, Position *out, uint64_t *sequence) noexcept nogil:
    cdef const MarkPage *m = <const MarkPage *>page
    if m.magic != MARK_MAGIC or m.crc != crc32c(page + 8, sizeof(MarkPage) - 8, 0) or m.zero != 0:
        return -1
    memset(out, 0, sizeof(Position))
    out.epoch = m.epoch
    out.offset = m.offset
    out.index = m.index
    out.term = m.term
    out.commit = m.commit
    out.crc = m.record_crc
    sequence[0] = m.sequence
    return 0


cdef void publish(Marks *m, const Position *p) noexcept nogil:
    # A reader that meets a word of this copy sees the odd lock too: each word is a release of it.
    store_release(&m.written_lock, m.written_lock + 1)
    copy_release(&m.written, p, sizeof(Position))
    store_release(&m.written_lock, m.written_lock + 1)


cdef void read_written(Marks *m, Position *to) noexcept nogil:
    cdef uint64_t before
    while True:
        before = load_acquire(&m.written_lock)
        if before & 1:
            continue
        copy_acquire(to, &m.written, sizeof(Position))
        if load_acquire(&m.written_lock) == before:
            return


# ---------------------------------------------------------------------------------------- one job
cdef int write_all(const Io *io, int fd, const iovec *parts, int n, int64_t offset) noexcept nogil:
    cdef iovec rest[4]
    cdef int64_t wrote
    cdef int first = 0
    memcpy(rest, parts, n * sizeof(iovec))
    while first < n:
        wrote = io.pwritev(io.ctx, fd, rest + first, n - first, offset)
        if wrote < 0:
            return <int>-wrote
        if wrote == 0:
            return EIO
        offset += wrote
        while first < n and <size_t>wrote >= rest[first].iov_len:
            wrote -= rest[first].iov_len
            first += 1
        if first < n:
            rest[first].iov_base = <char *>rest[first].iov_base + wrote
            rest[first].iov_len -= wrote
    return 0


cdef int write_mark(Marks *m, const Io *io, int fd) noexcept nogil:
    """The older of the two mark pages of the segment behind fd gets the last completed sync."""
    cdef char page[PAGE]
    cdef iovec part
    mark_encode(page, &m.done, m.sequence + 1)
    part.iov_base = page
    part.iov_len = PAGE
    cdef int error = write_all(io, fd, &part, 1, PAGE * (1 + (m.sequence + 1) % (2 - MUTANT(78))))
    if error == 0:
        m.sequence += 1
        m.fresh = False
    return error


cdef uint64_t pages_between(const Position *synced, const Position *to) noexcept nogil:
    """Bytes of the whole pages with something new; a new segment has its header page besides."""
    cdef bint same = synced.epoch == to.epoch
    cdef uint64_t start = (synced.offset if same else <uint64_t>SEGMENT_DATA) // PAGE * PAGE
    if to.offset <= start:
        return 0
    return (to.offset - start + PAGE - 1) // PAGE * PAGE + (0 if same else PAGE)


cdef int sync(Job *job, const Io *io) noexcept nogil:
    cdef Marks *m = <Marks *>job.state
    cdef Position written
    cdef uint64_t start, epoch = m.done.epoch
    cdef bint marked
    cdef int error = 0, before = m.fd
    if job.late:
        start = io.now_us(io.ctx)
        read_written(m, &written)
        # the segments before it are synced already
        if written.epoch == job.position.epoch or MUTANT(75):
            job.position = written
            job.from_us = start
    if MUTANT(35):
        m.done = job.position
        m.fresh = True
    marked = m.fresh
    if marked:
        error = write_mark(m, io, job.fd)
    if error == 0:
        start = io.now_us(io.ctx)
        error = FAILPOINT(b"flush.sync") or (0 if MUTANT(36) else -io.fdatasync(io.ctx, job.fd))
        job.took_us = io.now_us(io.ctx) - start
        if error and not MUTANT(97):
            lied(m, io)
    if error == 0:
        store_release(&m.sync_bytes, m.sync_bytes + PAGE * marked
                      + pages_between(&m.done, &job.position))
        m.done = job.position
        m.fd = job.fd
        m.fresh = True
        store_release(&m.syncs, m.syncs + 1)
        store_release(&m.sync_us, m.sync_us + job.took_us)
        if job.took_us > m.longest_us:
            store_release(&m.longest_us, job.took_us)
        if epoch != m.done.epoch and before >= 0 and not MUTANT(134):
            error = write_mark(m, io, before)       # the segment before names the new one
            m.fresh = True
    return error


cdef void lied(Marks *m, const Io *io) noexcept nogil:
    cdef HardState *h = m.hard
    cdef iovec part
    cdef int slot, fd, error = 0
    if h == NULL:
        return
    m.hard = NULL                               # once: every later job fails
    h.doubt(h.page)
    part.iov_base = h.page
    part.iov_len = PAGE
    for slot in range(2):
        if error == 0:
            error = write_all(io, h.fd, &part, 1, slot * PAGE)
        if error == 0:
            error = -io.fdatasync(io.ctx, h.fd)
    if error:
        fd = io.open(io.ctx, h.notice, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, MODE)
        if fd >= 0:
            io.close(io.ctx, fd)


cdef int prepare(Job *job, const Io *io) noexcept nogil:
    """Zeros from start to end: later writes and syncs then change no metadata of the file."""
    cdef iovec part
    cdef uint64_t at = 0
    cdef int error = 0
    part.iov_base = calloc(1, ZEROS)
    if part.iov_base == NULL:
        return 12                                   # ENOMEM
    if job.old != NULL:
        error = -io.rename(io.ctx, job.old, job.path)
        if MUTANT(133):
            at = job.size
    while at < job.size and error == 0:
        part.iov_len = ZEROS if job.size - at > ZEROS else job.size - at
        error = FAILPOINT(b"prepare.write") or write_all(io, job.fd, &part, 1, at)
        at += part.iov_len
        if error == 0 and at % PACE == 0 and at < job.size:
            error = -io.fdatasync(io.ctx, job.fd)
    free(part.iov_base)
    if error == 0:
        error = -io.fdatasync(io.ctx, job.fd)
    if error == 0:
        error = -io.rename(io.ctx, job.path, job.to)
    if error == 0:
        error = FAILPOINT(b"prepare.renamed") or (
            0 if MUTANT(38) else -io.sync_dir(io.ctx, job.directory))
    if error:                                   # at once: the disk may be full of it
        io.unlink(io.ctx, job.path)
        io.close(io.ctx, job.fd)
    return error


cdef int read_all(Job *job, const Io *io) noexcept nogil:
    cdef size_t got = 0
    cdef int64_t n
    while got < job.iov[0].iov_len:
        n = io.pread(io.ctx, job.fd, <char *>job.iov[0].iov_base + got, job.iov[0].iov_len - got,
                     job.offset + got)
        if n < 0:
            return <int>-n
        if n == 0:
            return EIO
        got += n
    return 0


cdef void run(Job *job, const Io *io) noexcept nogil:
    cdef Marks *m = <Marks *>job.state
    job.error = m.failed if m != NULL else 0
    if job.error == 0 and job.kind & (JOB_WRITE | JOB_META):
        job.error = FAILPOINT(b"flush.write") or write_all(
            io, job.fd, job.iov, job.parts, job.offset)
    if job.error == 0 and job.kind & JOB_META and not MUTANT(37):
        job.error = -io.fdatasync(io.ctx, job.fd) or FAILPOINT(b"meta.slot")
        if m != NULL and m.hard != NULL:
            memcpy(m.hard.page, job.iov[0].iov_base, PAGE)
    if job.error == 0 and job.kind & JOB_SYNC:
        job.error = ((sync(job, io) or FAILPOINT(b"flush.synced")) if m != NULL
                     else -io.fdatasync(io.ctx, job.fd))
    # a sync behind it would cover what is not there
    if m != NULL and job.error and not MUTANT(79):
        m.failed = job.error
    if job.kind & JOB_PREPARE:
        job.error = prepare(job, io)
    if job.kind & JOB_READ:
        job.error = read_all(job, io)
    if job.kind & JOB_REMOVE:                   # one that stays does no harm
        FAILPOINT(b"log.remove")
        io.unlink(io.ctx, job.path)
        if job.fd >= 0:
            io.close(io.ctx, job.fd)
    if job.kind & JOB_FREE:
        job.release(job.owner)
        job.release = NULL


cdef int refresh(Marks *m, const Io *io) noexcept nogil:
    if not m.fresh or m.fd < 0 or m.failed:
        return 0
    m.failed = write_mark(m, io, m.fd)
    if m.failed == 0:
        m.failed = -io.fdatasync(io.ctx, m.fd)
        if m.failed:
            lied(m, io)
    return m.failed
