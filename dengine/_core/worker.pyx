"""Workers: when a job runs, and how the turn hears of it. See worker.pxd.

It decides when a thread waits and for what; it knows no files but those it is told to remove.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from dengine._core.flush cimport fence_full, load_acquire, refresh, run, store_release
from dengine._core.types cimport JOB_FREE, JOB_REMOVE, unlikely

from dengine.errors import InvariantError, StorageError

cdef extern from "<unistd.h>" nogil:
    int64_t write(int fd, const void *p, size_t n)

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


cdef bint await_work(Ring *r) noexcept nogil:
    """Until the next job may run, which this thread is busy with then; refreshes the mark after a
    while of idleness. False: stop."""
    cdef uint64_t done
    cdef timespec deadline
    cdef Job *job
    cdef uint64_t now
    cdef bint ready = False, going = True
    pthread_mutex_lock(&r.lock)
    while going and not ready:
        done = r.done
        if r.busy:
            pthread_cond_wait(&r.finished, &r.lock)
        elif load_acquire(&r.head) > done:
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
                    and load_acquire(&r.head) == done == r.done and not r.busy):
                r.busy = True
                pthread_mutex_unlock(&r.lock)
                brush_up(r)
                pthread_mutex_lock(&r.lock)
                r.busy = False
        else:
            pthread_cond_wait(&r.work, &r.lock)
    r.busy = ready
    pthread_mutex_unlock(&r.lock)
    return going


cdef void do_next(Ring *r) noexcept nogil:
    """By who is busy."""
    cdef uint64_t done = r.done, one = 1
    cdef Job *job = &r.jobs[done % JOBS]
    if job.late:
        store_release(&r.hurry, 0)
    store_release(&r.started, done + 1)
    fence_full()                                    # has_started: what it published, run sees
    run(job, r.io)
    pthread_mutex_lock(&r.lock)
    store_release(&r.done, done + 1)
    r.busy = False
    pthread_cond_broadcast(&r.finished)
    pthread_mutex_unlock(&r.lock)
    if r.event_fd >= 0:
        write(r.event_fd, &one, sizeof(one))


cdef void *loop(void *argument) noexcept nogil:
    cdef Ring *r = <Ring *>argument
    while await_work(r):
        do_next(r)
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
        if not self.started or self.quiet:
            store_release(&self.ring.head, self.ring.head + 1)
            return self.ring.head
        pthread_mutex_lock(&self.ring.lock)
        store_release(&self.ring.head, self.ring.head + 1)
        pthread_cond_signal(&self.ring.work)
        pthread_mutex_unlock(&self.ring.lock)
        return self.ring.head

    cdef int remove(self, bytes path, int fd) except -1:
        cdef size_t n = PyBytes_GET_SIZE(path) + 1
        cdef char *owned = <char *>malloc(n)
        cdef Job *job
        if owned == NULL:
            raise MemoryError
        memcpy(owned, PyBytes_AS_STRING(path), n)
        job = self.slot()
        job.kind = JOB_REMOVE
        job.fd = fd
        job.path = owned
        job.owned = owned
        self.submit()
        return 0

    cdef int release(self, void *owner, void (*release)(void *) noexcept nogil) except -1:
        cdef Job *job = self.slot()
        job.kind = JOB_FREE
        job.owner = owner
        job.release = release
        self.submit()
        return 0

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
        cdef Job *job = &self.ring.jobs[self.ring.taken % JOBS]
        free(job.owned)
        if job.release != NULL:                     # it was never run
            job.release(job.owner)
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

    cdef void kick(self) noexcept:
        self.quiet = False
        if self.started and self.ring.head != load_acquire(&self.ring.done):
            pthread_mutex_lock(&self.ring.lock)
            pthread_cond_signal(&self.ring.work)
            pthread_mutex_unlock(&self.ring.lock)

    cdef bint run_here(self) noexcept nogil:
        cdef Ring *r = self.ring
        cdef bint mine
        pthread_mutex_lock(&r.lock)
        mine = (not r.busy and load_acquire(&r.head) > r.done
                and not r.jobs[r.done % JOBS].late)
        r.busy |= mine
        pthread_mutex_unlock(&r.lock)
        if mine:
            do_next(r)
        return mine

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
