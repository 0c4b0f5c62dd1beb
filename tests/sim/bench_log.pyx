"""The log with flusher and recovery, and the hard state, as the turn drives them: step by step.

On a Disk, or on the real kernel (disk None). The workers have no thread until `start`.
"""
import os

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memset
from libc.stdlib cimport free

from dengine._core.codec cimport Record, padded
from dengine._core.flush cimport Marks, lied, load_acquire, refresh
from dengine._core.kernel cimport kernel
from dengine._core.log cimport Log
from dengine._core.meta cimport Meta
from dengine._core.recovery cimport Base, Found, Scan, recover
from dengine._core.terms cimport Terms
from dengine._core.types cimport JOB_META, JOB_SYNC, JOB_WRITE, PAGE, Io, Job
from dengine._core.worker cimport Worker
from tests.sim.disk cimport Disk

cdef enum:
    IDLE_US = 10000
    WAIT_US = 10000000


cdef class LogBench:
    """One log from its opening to its end. After a crash of the disk it is dropped, not closed."""
    cdef readonly Disk disk
    cdef const Io *io
    cdef Log log
    cdef Worker flusher
    cdef Worker preparer
    cdef readonly Found found
    cdef str directory

    def __init__(self, Disk disk, str directory="log", *, int strategy=0, int segment_bytes=1 << 14,
                 int threshold=100, int interval_us=20000, int max_unflushed_us=200000,
                 uint64_t cluster=7, uint64_t incarnation=9, bint alone=True):
        self.disk = disk
        self.io = kernel() if disk is None else &disk.io
        self.directory = directory
        self.flusher = Worker()
        self.preparer = Worker()
        self.log = Log()
        self.log.open(self.io, directory.encode(), cluster, incarnation, segment_bytes,
                      self.preparer)
        self.log.strategy = strategy
        self.log.threshold = threshold
        self.log.interval_us = interval_us
        self.log.max_unflushed_us = max_unflushed_us
        self.flusher.open(self.io, &self.log.marks, IDLE_US)
        self.preparer.open(self.io, NULL, 0)
        names = sorted(os.listdir(directory)) if disk is None else disk.names(directory)
        cdef Base base
        memset(&base, 0, sizeof(base))
        cdef Scan scan = recover(self.log, names, &base, 0, alone, None)
        scan.finish()
        self.found = scan.found

    # ------------------------------------------------------------------------------- changes
    def append(self, uint64_t term, uint8_t kind, bytes payload not None) -> int:
        return self.log.append(term, kind, payload, len(payload))

    def append_record(self, bytes record not None):
        self.log.append_record(record)

    def cut(self, uint64_t to):
        self.log.cut(to)

    def write(self, uint64_t commit=0):
        """Inline, or as jobs; then the next segment is planned."""
        self.log.write(self.flusher, commit, self.io.now_us(self.io.ctx))
        self.log.plan()

    def run(self, int n=1 << 30) -> int:
        """Up to n jobs of the flusher; how many there were."""
        cdef int i
        for i in range(n):
            if not self.flusher.run_one():
                return i
        return n

    def run_preparer(self) -> int:
        return self.preparer.run_one()

    def reap(self) -> int:
        """Takes back what the workers finished."""
        cdef Job *job = self.flusher.take()
        cdef uint64_t now = self.io.now_us(self.io.ctx)
        cdef int n = 0
        while job != NULL:
            self.log.finished(job, now)
            self.flusher.give_back()
            n += 1
            job = self.flusher.take()
        if load_acquire(&self.flusher.ring.failed):
            self.log.check(<int>self.flusher.ring.failed, "synced")
        job = self.preparer.take()
        while job != NULL:
            self.log.prepared_done(job)
            self.preparer.give_back()
            n += 1
            job = self.preparer.take()
        return n

    def settle(self, uint64_t commit=0):
        """Everything appended is written and synced, as at a clean stop, and so are the marks."""
        while self.log.synced < self.log.last:
            self.write(commit)
            self.flusher.hurry()
            self.finish_jobs()
        self.refresh()

    def finish_jobs(self):
        """Waits for the flusher's thread, or does its work here; then takes the jobs back."""
        cdef uint64_t number = self.flusher.ring.head
        if self.flusher.started:
            with nogil:
                self.flusher.wait(number, WAIT_US)
        else:
            self.run()
        self.reap()

    def refresh(self) -> int:
        """The mark of the last sync, as after a while of idleness."""
        return refresh(&self.log.marks, self.io)

    def start(self, int event_fd=-1):
        self.flusher.start("flusher", event_fd)
        self.preparer.start("preparer", -1)

    def stop(self):
        self.flusher.stop()
        self.preparer.stop()

    def hurry(self):
        self.flusher.hurry()

    def close(self):
        self.stop()
        self.log.close()

    # --------------------------------------------------------------------------------- state
    def durable(self) -> int:
        return self.log.durable(self.io.now_us(self.io.ctx))

    @property
    def last(self) -> int:
        return self.log.last

    @property
    def last_term(self) -> int:
        return self.log.last_term

    @property
    def last_crc(self) -> int:
        return self.log.last_crc

    @property
    def written(self) -> int:
        return self.log.written

    @property
    def synced(self) -> int:
        return self.log.synced

    @property
    def stalls(self) -> int:
        return self.log.stalls

    @property
    def unsynced_us(self) -> int:
        return self.log.unsynced_us

    @property
    def jobs(self) -> int:
        """Jobs of the flusher that were not run."""
        return self.flusher.ring.head - load_acquire(&self.flusher.ring.done)

    @property
    def next_job(self) -> tuple | None:
        """(kind, late, index, epoch) of the oldest job that was not run."""
        if not self.jobs:
            return None
        cdef Job *job = &self.flusher.ring.jobs[self.flusher.ring.done % 64]
        return job.kind, bool(job.late), job.position.index, job.position.epoch

    @property
    def terms(self) -> Terms:
        return self.found.terms

    @property
    def segments(self) -> list[tuple[int, int, int, int, int]]:
        """(epoch, size, first, count, end) of the live segments."""
        return [(self.log.segments[i].epoch, self.log.segments[i].size, self.log.segments[i].first,
                 self.log.segments[i].count, self.log.segments[i].end)
                for i in range(self.log.count)]

    @property
    def tails(self) -> int:
        """How many tails are kept in memory."""
        cdef int n = 0
        t = self.log.oldest
        while t != NULL:
            n += 1
            t = t.next
        return n

    # --------------------------------------------------------------------------------- reads
    def record(self, uint64_t index) -> bytes:
        """The record with its padding."""
        cdef const char *at = self.log.record(index)
        return at[:padded((<const Record *>at).length)]

    def records(self) -> list[bytes]:
        cdef uint64_t first = self.segments[0][2] if self.log.count else 1
        return [self.record(i) for i in range(first, self.log.last + 1)]

    def crc_at(self, uint64_t index) -> int:
        return self.log.crc_at(index)

    def span(self, uint64_t first, uint64_t last, size_t max_bytes) -> tuple[bytes, int] | None:
        """(bytes, how many records) of a piece in memory."""
        cdef const char *at
        cdef uint64_t count
        cdef size_t n = self.log.span(first, last, max_bytes, &at, &count)
        return (at[:n], count) if n else None

    def place(self, uint64_t first, uint64_t last, size_t max_bytes):
        """(epoch, offset, bytes, how many records) of a piece in its file."""
        cdef int fd, i
        cdef int64_t offset
        cdef uint64_t count
        cdef size_t n = self.log.place(first, last, max_bytes, &fd, &offset, &count)
        for i in range(self.log.count):
            if n and self.log.segments[i].fd == fd:
                return self.log.segments[i].epoch, offset, n, count
        return None


cdef class MetaBench:
    """The file `meta` and its saves, one job at a time, as turn.save submits them."""
    cdef readonly Disk disk
    cdef Meta meta
    cdef Marks marks
    cdef Worker flusher
    cdef readonly uint64_t version
    cdef readonly uint64_t saved        # newest version that messages may rely on

    def __init__(self, Disk disk not None, str directory="node", *, bint create=False,
                 uint64_t cluster=7, uint64_t node=1, uint64_t incarnation=9,
                 bytes boot_id=bytes(16), bint mem_first=False):
        self.disk = disk
        self.meta = Meta()
        self.flusher = Worker()
        self.marks.fd = -1
        self.marks.hard = &self.meta.hard
        self.flusher.open(&disk.io, &self.marks, 0)
        if create:
            self.meta.create(&disk.io, directory.encode(), cluster, node, incarnation, boot_id,
                             mem_first)
        else:
            self.meta.open(&disk.io, directory.encode())

    def __dealloc__(self):
        cdef uint64_t i
        if self.flusher is not None:
            for i in range(self.flusher.ring.taken, self.flusher.ring.head):
                free(self.flusher.ring.jobs[i % 64].owner)

    def save(self, uint64_t term, uint64_t vote) -> int:
        """Submits both writes; the version that `saved` reaches once messages may rely on it."""
        cdef char *page = self.meta.page(term, vote)
        cdef Job *job
        cdef int slot
        self.version += 1
        for slot in range(2):
            job = self.flusher.slot()
            job.kind = JOB_META
            job.fd = self.meta.fd
            job.iov[0].iov_base = page
            job.iov[0].iov_len = PAGE
            job.parts = 1
            job.offset = slot * PAGE
            job.version = self.version
            job.owner = page if slot else NULL
            self.flusher.submit()
        return self.version

    def run(self) -> int:
        """One job; its errno."""
        cdef Job *job
        cdef int error = 0
        self.flusher.run_one()
        job = self.flusher.take()
        if job == NULL:
            return 0
        error = job.error
        if job.owner != NULL:
            free(job.owner)
        elif error == 0:
            self.saved = job.version
        self.flusher.give_back()
        return error

    def save_now(self):
        self.meta.save_now()

    def begin(self, bytes boot_id not None, bint mem_first):
        self.meta.begin(boot_id, mem_first, True)

    def doubt(self):
        self.meta.doubt()

    def end(self, uint64_t known=0):
        self.meta.end(known)

    def lie(self):
        """A sync of the log failed: the flusher saves what the next start must know."""
        lied(&self.marks, &self.disk.io)

    def close(self):
        self.meta.close()

    @property
    def state(self) -> dict[str, int]:
        return {"cluster": self.meta.state.cluster, "node": self.meta.state.node,
                "incarnation": self.meta.state.incarnation, "term": self.meta.state.term,
                "vote": self.meta.state.vote, "sequence": self.meta.state.sequence,
                "dirty": self.meta.state.dirty, "doubt": self.meta.state.doubt,
                "known": self.meta.state.known}


WRITE, SYNC = JOB_WRITE, JOB_SYNC
