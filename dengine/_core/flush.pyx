"""The flusher: writes, syncs and marks, outside the GIL and in submission order.

It decides when a job runs and what a mark says. It knows files and offsets; it knows no entries.
"""
from libc.errno cimport EIO
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from dengine._core.crc cimport crc32c
from dengine._core.fault cimport FAILPOINT, MUTANT
from dengine._core.types cimport (JOB_META, JOB_PREPARE, JOB_READ, JOB_REMOVE, JOB_SYNC, JOB_WRITE,
                                  PAGE, SEGMENT_DATA, unlikely)

from dengine.errors import InvariantError, StorageError

cdef extern from "<unistd.h>" nogil:
    int64_t write(int fd, const void *p, size_t n)

cdef extern from "<fcntl.h>" nogil:
    int O_RDWR, O_CREAT, O_CLOEXEC, O_NOFOLLOW

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *to)
    int CLOCK_MONOTONIC

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t *)
    int pthread_sigmask(int how, const sigset_t *new, sigset_t *old)
    int SIG_SETMASK

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_condattr_t:
        pass
    int pthread_create(pthread_t *, void *, void *(*)(void *) noexcept nogil, void *)
    int pthread_join(pthread_t, void **)
    int pthread_mutex_init(pthread_mutex_t *, void *)
    int pthread_mutex_destroy(pthread_mutex_t *)
    int pthread_mutex_lock(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)
    int pthread_condattr_init(pthread_condattr_t *)
    int pthread_condattr_setclock(pthread_condattr_t *, int)
    int pthread_cond_init(pthread_cond_t *, pthread_condattr_t *)
    int pthread_cond_destroy(pthread_cond_t *)
    int pthread_cond_wait(pthread_cond_t *, pthread_mutex_t *)
    int pthread_cond_timedwait(pthread_cond_t *, pthread_mutex_t *, const timespec *)
    int pthread_cond_signal(pthread_cond_t *)
    int pthread_cond_broadcast(pthread_cond_t *)

cdef enum:
    MARK_MAGIC = 0x6B72616D     # "mark"
    MODE = 0o600
    ZEROS = 64 << 10            # bytes of zeros per write: larger ones make large folios


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
    cdef uint64_t start
    cdef bint marked
    cdef int error = 0
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
    while at < job.size and error == 0:
        part.iov_len = ZEROS if job.size - at > ZEROS else job.size - at
        error = FAILPOINT(b"prepare.write") or write_all(io, job.fd, &part, 1, at)
        at += part.iov_len
    free(part.iov_base)
    if error == 0:
        error = -io.fdatasync(io.ctx, job.fd)
    if error == 0:
        error = -io.rename(io.ctx, job.path, job.to)
    if error == 0:
        error = FAILPOINT(b"prepare.renamed") or (
            0 if MUTANT(38) else -io.sync_dir(io.ctx, job.directory))
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
        io.close(io.ctx, job.fd)


cdef int refresh(Marks *m, const Io *io) noexcept nogil:
    if not m.fresh or m.fd < 0 or m.failed:
        return 0
    m.failed = write_mark(m, io, m.fd)
    if m.failed == 0:
        m.failed = -io.fdatasync(io.ctx, m.fd)
        if m.failed:
            lied(m, io)
    return m.failed


# ------------------------------------------------------------------------------------- the thread
cdef void until(timespec *to, uint64_t us) noexcept nogil:
    """`us` from now on the clock of the condition variables."""
    clock_gettime(CLOCK_MONOTONIC, to)
    to.tv_sec += us // 1000000
    to.tv_nsec += (us % 1000000) * 1000
    if to.tv_nsec >= 1000000000:
        to.tv_sec += 1
        to.tv_nsec -= 1000000000


cdef void brush_up(Ring *r) noexcept nogil:
    """Refreshes the mark; a failed sync is final here too: the kernel reports it only once."""
    cdef int error = refresh(r.marks, r.io)
    cdef uint64_t one = 1
    r.marks.fresh = False
    if error:
        store_release(&r.failed, error)
        if r.event_fd >= 0:
            write(r.event_fd, &one, sizeof(one))


cdef bint await_work(Ring *r, uint64_t done) noexcept nogil:
    """Until the next job may run; refreshes the mark after a while of idleness. False: stop."""
    cdef timespec deadline
    cdef Job *job
    cdef uint64_t now
    cdef bint ready = False, going = True
    pthread_mutex_lock(&r.lock)
    while going and not ready:
        if load_acquire(&r.head) > done:
            job = &r.jobs[done % JOBS]
            now = r.io.now_us(r.io.ctx)
            if (not job.late or now >= job.not_before_us or load_acquire(&r.hurry)
                    or load_acquire(&r.head) > done + 1 or load_acquire(&r.stop)):
                ready = True
            else:
                until(&deadline, job.not_before_us - now)
                pthread_cond_timedwait(&r.work, &r.lock, &deadline)
        elif load_acquire(&r.stop):
            going = False
        elif r.idle_us and r.marks.fresh and r.marks.fd >= 0:
            until(&deadline, r.idle_us)
            if (pthread_cond_timedwait(&r.work, &r.lock, &deadline)
                    and load_acquire(&r.head) == done):
                pthread_mutex_unlock(&r.lock)
                brush_up(r)
                pthread_mutex_lock(&r.lock)
        else:
            pthread_cond_wait(&r.work, &r.lock)
    pthread_mutex_unlock(&r.lock)
    return going


cdef void *loop(void *argument) noexcept nogil:
    cdef Ring *r = <Ring *>argument
    cdef uint64_t done = r.done, one = 1
    cdef Job *job
    while await_work(r, done):
        job = &r.jobs[done % JOBS]
        if job.late:
            store_release(&r.hurry, 0)
        store_release(&r.started, done + 1)
        fence_full()                                # has_started: what it published, run sees
        run(job, r.io)
        done += 1
        pthread_mutex_lock(&r.lock)
        store_release(&r.done, done)
        pthread_cond_broadcast(&r.finished)
        pthread_mutex_unlock(&r.lock)
        if r.event_fd >= 0:
            write(r.event_fd, &one, sizeof(one))
    if r.idle_us:
        brush_up(r)
    return NULL


cdef class Worker:
    def __cinit__(self):
        cdef pthread_condattr_t attributes
        self.ring = <Ring *>calloc(1, sizeof(Ring))
        if self.ring == NULL:
            raise MemoryError
        self.ring.event_fd = -1
        pthread_mutex_init(&self.ring.lock, NULL)
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(&self.ring.work, &attributes)
        pthread_cond_init(&self.ring.finished, &attributes)

    def __dealloc__(self):
        if self.started:
            return                                  # never freed under a running thread
        while self.ring.taken != self.ring.head:    # what nobody took back
            self.give_back()
        pthread_cond_destroy(&self.ring.work)
        pthread_cond_destroy(&self.ring.finished)
        pthread_mutex_destroy(&self.ring.lock)
        free(self.ring)

    cdef int open(self, const Io *io, Marks *marks, uint64_t idle_us) except -1:
        self.ring.io = io
        self.ring.marks = marks
        self.ring.idle_us = idle_us
        return 0

    cdef int start(self, str name, int event_fd) except -1:
        cdef sigset_t every, before
        self.ring.event_fd = event_fd
        sigfillset(&every)                          # signals belong to the application's threads
        pthread_sigmask(SIG_SETMASK, &every, &before)
        cdef int error = pthread_create(&self.ring.thread, NULL, loop, self.ring)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        if error:
            raise StorageError(f"the {name} thread could not be started (errno {error})")
        self.started = True
        return 0

    cdef int stop(self) except -1:
        if not self.started:
            if self.ring.idle_us:                   # what its thread would do
                self.run_inline()
                brush_up(self.ring)
            return 0
        with nogil:
            pthread_mutex_lock(&self.ring.lock)
            store_release(&self.ring.stop, 1)
            pthread_cond_signal(&self.ring.work)
            pthread_mutex_unlock(&self.ring.lock)
            pthread_join(self.ring.thread, NULL)
        self.started = False
        return 0

    cdef bint has_room(self, int n) noexcept:
        return self.ring.head + n - self.ring.taken <= JOBS

    cdef bint idle(self) noexcept:
        return self.ring.head == load_acquire(&self.ring.done)

    cdef Job *slot(self) except NULL:
        if unlikely(not self.has_room(1)):
            raise InvariantError("the ring of jobs is full")
        cdef Job *job = &self.ring.jobs[self.ring.head % JOBS]
        memset(job, 0, sizeof(Job))
        job.state = self.ring.marks
        return job

    cdef uint64_t submit(self) noexcept:
        if not self.started:
            store_release(&self.ring.head, self.ring.head + 1)
            return self.ring.head
        pthread_mutex_lock(&self.ring.lock)
        store_release(&self.ring.head, self.ring.head + 1)
        pthread_cond_signal(&self.ring.work)
        pthread_mutex_unlock(&self.ring.lock)
        return self.ring.head

    cdef bint has_started(self, uint64_t number) noexcept:
        fence_full()
        return load_acquire(&self.ring.started) >= number

    cdef bint has_finished(self, uint64_t number) noexcept:
        return load_acquire(&self.ring.done) >= number

    cdef void hurry(self) noexcept:
        if load_acquire(&self.ring.hurry):
            return
        store_release(&self.ring.hurry, 1)
        pthread_mutex_lock(&self.ring.lock)
        pthread_cond_signal(&self.ring.work)
        pthread_mutex_unlock(&self.ring.lock)

    cdef Job *take(self) noexcept:
        if self.ring.taken == load_acquire(&self.ring.done):
            return NULL
        return &self.ring.jobs[self.ring.taken % JOBS]

    cdef void give_back(self) noexcept:
        free(self.ring.jobs[self.ring.taken % JOBS].owned)
        self.ring.taken += 1

    cdef int wait(self, uint64_t number, uint64_t for_us) noexcept nogil:
        cdef timespec deadline
        cdef int late = 0
        until(&deadline, for_us)
        pthread_mutex_lock(&self.ring.lock)
        while load_acquire(&self.ring.done) < number and late == 0:
            late = pthread_cond_timedwait(&self.ring.finished, &self.ring.lock, &deadline)
        pthread_mutex_unlock(&self.ring.lock)
        return late

    cdef int run_one(self) except -1:
        """The oldest job that was not run, in this thread: 1, or 0 when there is none."""
        if self.started:
            raise InvariantError("run_one beside a running thread")
        if self.ring.done == self.ring.head:
            return 0
        self.ring.started = self.ring.done + 1
        run(&self.ring.jobs[self.ring.done % JOBS], self.ring.io)
        self.ring.done += 1
        return 1

    cdef int run_inline(self) except -1:
        while self.run_one():
            pass
        return 0
