"""What threads share in _core, driven by C threads that never hold the GIL.

The caller is the turn: it submits jobs, publishes what is written, changes the store, pins it. The
worker's own thread runs the jobs; waiters wait for them; walkers read pinned trees and drop the
last references. Whether it is a race is ThreadSanitizer's to say; besides, each thread checks what
it was promised. `plant` breaks one rule on purpose.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from dengine._core.flush cimport Marks, load_acquire, publish, store_release
from dengine._core.kv cimport KV, Pin
from dengine._core.tree cimport (Cursor, Node, item_drop, item_hold, tree_drop, tree_hold,
                                 tree_next, tree_seek)
from dengine._core.types cimport (JOB_SYNC, JOB_WRITE, JOBS, Io, Item, Job, Position, iovec)
from dengine._core.worker cimport Ring, Worker, pthread_t

from tests.sim.store import check

cdef extern from "<pthread.h>" nogil:
    int pthread_create(pthread_t *, void *, void *(*)(void *) noexcept nogil, void *)
    int pthread_join(pthread_t, void **)

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *to)
    int nanosleep(const timespec *how_long, timespec *rest)
    int CLOCK_MONOTONIC

cdef enum:
    WALKERS = 3
    WAITERS = 2
    BOXES = 4                   # pins on their way to each walker
    KEYS = 300                  # enough for a tree of two levels that splits and merges
    LINE = 64                   # bytes of one written record
    SEGMENT = 3 * 4096          # bytes before the records: header and marks
    FILE = SEGMENT + 64 * LINE  # JOBS records
    WAIT_US = 2000

cdef enum Plant:
    SOUND = 0
    UNLOCKED = 1                # what is written is changed without its lock
    UNCOUNTED = 2               # a reference is taken without the atomic
    LATE_CHANGE = 3             # a job is changed after it was submitted

PLANTS = {"": SOUND, "written": UNLOCKED, "refs": UNCOUNTED, "job": LATE_CHANGE}

ctypedef struct Walker:
    pthread_t thread
    Node *box[BOXES]            # a pin each, or NULL: given with release, taken with acquire
    uint64_t stop
    uint64_t walked             # pins; read after the thread has ended
    uint64_t wrong              # trees that were not as when they were pinned

ctypedef struct Waiting:
    pthread_t thread
    Ring *ring
    uint64_t stop
    uint64_t waits

cdef Worker waited = None       # set while waiters run


# ---------------------------------------------------------------------------- a disk for the ring
ctypedef struct Memory:
    char *bytes                 # FILE of them: what the turn's buffers held when they were written
    uint64_t now_us
    uint64_t syncs


cdef int64_t memory_write(void *ctx, int fd, const iovec *parts, int n,
                          int64_t offset) noexcept nogil:
    cdef Memory *m = <Memory *>ctx
    cdef int64_t total = 0
    cdef int i
    for i in range(n):
        if offset + total + <int64_t>parts[i].iov_len > FILE:
            return -5
        memcpy(m.bytes + offset + total, parts[i].iov_base, parts[i].iov_len)
        total += parts[i].iov_len
    return total


cdef int memory_sync(void *ctx, int fd) noexcept nogil:
    cdef timespec short_while
    short_while.tv_sec = 0
    short_while.tv_nsec = 20000
    nanosleep(&short_while, NULL)
    (<Memory *>ctx).syncs += 1
    return 0


cdef uint64_t memory_now_us(void *ctx) noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000 + <uint64_t>t.tv_nsec // 1000


# ---------------------------------------------------------------------------- the other threads
cdef void *walk(void *argument) noexcept nogil:
    cdef Walker *w = <Walker *>argument
    cdef Cursor at
    cdef const Item *item
    cdef Item *kept = NULL
    cdef Node *root
    cdef uint64_t seen, found
    cdef int i
    while not load_acquire(&w.stop):
        for i in range(BOXES):
            root = <Node *>load_acquire(<uint64_t *>&w.box[i])
            if root == NULL:
                continue
            seen = 0
            item = tree_seek(root, &at, NULL, 0)
            while item != NULL:
                # the value repeats the key: an item overwritten in place would show
                memcpy(&found, item.data + item.key_size, sizeof(found))
                w.wrong += found != item.mod_revision or item.key_size != 8
                seen += 1
                if seen == 7:                   # held beyond the pin, as a result is
                    if kept != NULL:
                        item_drop(kept)
                    kept = <Item *>item
                    item_hold(kept)
                item = tree_next(&at)
            tree_drop(root)
            w.walked += 1
            store_release(<uint64_t *>&w.box[i], 0)
    if kept != NULL:
        item_drop(kept)
    return NULL


cdef void *wait(void *argument) noexcept nogil:
    cdef Waiting *w = <Waiting *>argument
    while not load_acquire(&w.stop):
        waited.wait(load_acquire(&w.ring.head), WAIT_US)
        w.waits += 1
    return NULL


# ---------------------------------------------------------------------------- the turn
cdef class Turning:
    """The state of one run, on the side of the caller."""
    cdef KV kv
    cdef Worker worker
    cdef Marks marks
    cdef Memory memory
    cdef Io io
    cdef char *lines                # JOBS * LINE: one buffer per slot of the ring
    cdef uint64_t must_cover[JOBS]  # by job: what its late sync was promised to see
    cdef Walker walkers[WALKERS]
    cdef Waiting waiters[WAITERS]
    cdef uint64_t random
    cdef uint64_t index
    cdef uint64_t late
    cdef int plant
    cdef readonly uint64_t jobs
    cdef readonly uint64_t pins
    cdef readonly uint64_t broken   # promises

    def __cinit__(self, uint64_t seed, int plant):
        memset(&self.marks, 0, sizeof(self.marks))
        memset(&self.memory, 0, sizeof(self.memory))
        memset(&self.io, 0, sizeof(self.io))
        memset(self.walkers, 0, sizeof(self.walkers))
        memset(self.waiters, 0, sizeof(self.waiters))
        self.lines = <char *>calloc(JOBS, LINE)
        self.memory.bytes = <char *>calloc(1, FILE)
        self.io.ctx = &self.memory
        self.io.pwritev = memory_write
        self.io.fdatasync = memory_sync
        self.io.now_us = memory_now_us
        self.marks.written.epoch = 1
        self.random = seed * 2 + 1
        self.plant = plant
        self.kv = KV()
        self.worker = Worker()
        self.worker.open(&self.io, &self.marks, 300)

    def __dealloc__(self):
        free(self.lines)
        free(self.memory.bytes)

    cdef uint64_t draw(self, uint64_t below) noexcept:
        self.random = self.random * 6364136223846793005ULL + 1442695040888963407ULL
        return (self.random >> 33) % below

    cdef int start(self) except -1:
        global waited
        cdef int i
        self.worker.start("flusher", -1)
        waited = self.worker
        for i in range(WALKERS):
            pthread_create(&self.walkers[i].thread, NULL, walk, &self.walkers[i])
        for i in range(WAITERS):
            self.waiters[i].ring = self.worker.ring
            pthread_create(&self.waiters[i].thread, NULL, wait, &self.waiters[i])
        return 0

    cdef int stop(self) except -1:
        global waited
        cdef int i, b
        for i in range(WALKERS):
            store_release(&self.walkers[i].stop, 1)
            pthread_join(self.walkers[i].thread, NULL)
            for b in range(BOXES):              # what no walker took any more
                tree_drop(self.walkers[i].box[b])
            self.broken += self.walkers[i].wrong
        for i in range(WAITERS):
            store_release(&self.waiters[i].stop, 1)
            pthread_join(self.waiters[i].thread, NULL)
        self.worker.stop()
        self.reap()
        waited = None
        return 0

    # ------------------------------------------------------------------------------- ring, marks
    cdef int write(self) except -1:
        """A batch: bytes in a buffer that is the job's until it is taken back."""
        cdef uint64_t slot = self.worker.ring.head % JOBS
        cdef Job *job = self.worker.slot()
        self.index += 1
        memset(self.lines + slot * LINE, <int>self.index & 0xFF, LINE)
        job.kind = JOB_WRITE | (JOB_SYNC if self.draw(8) == 0 else 0)
        job.iov[0].iov_base = self.lines + slot * LINE
        job.iov[0].iov_len = LINE
        job.parts = 1
        job.offset = SEGMENT + slot * LINE
        self.place(&job.position)
        self.worker.submit()
        if self.plant == LATE_CHANGE:
            self.lines[slot * LINE] += 1
        return 0

    cdef void place(self, Position *p) noexcept:
        memset(p, 0, sizeof(Position))
        p.epoch = 1
        p.index = self.index
        p.offset = SEGMENT + self.index * LINE
        p.crc = <uint32_t>self.index

    cdef int write_inline(self) except -1:
        """MemFirst: the turn wrote; a late sync that has not begun covers it, else a new one."""
        cdef Position p
        cdef Job *job
        self.index += 1
        self.place(&p)
        if self.plant == UNLOCKED:
            self.marks.written = p
        else:
            publish(&self.marks, &p)
        if self.late and not self.worker.has_started(self.late):
            self.must_cover[self.late % JOBS] = self.index
            if self.draw(4) == 0:
                self.worker.hurry()
            return 0
        job = self.worker.slot()
        job.kind = JOB_SYNC
        job.late = True
        job.not_before_us = memory_now_us(NULL) + self.draw(3000)
        job.position = p
        self.late = self.worker.submit()
        self.must_cover[self.late % JOBS] = self.index
        return 0

    cdef int reap(self) except -1:
        cdef Job *job = self.worker.take()
        while job != NULL:
            self.jobs += 1
            if job.error:
                self.broken += 1
            if job.late:
                self.broken += (job.position.index
                                < self.must_cover[(self.worker.ring.taken + 1) % JOBS])
                self.broken += job.position.crc != <uint32_t>job.position.index
            self.worker.give_back()
            job = self.worker.take()
        return 0

    # ------------------------------------------------------------------------------- store, pins
    cdef int change(self) except -1:
        cdef uint64_t key = self.draw(KEYS) * 0x9E3779B97F4A7C15ULL
        cdef uint64_t revision = self.kv.revision + 1
        if self.draw(3):
            self.kv.put(<char *>&key, 8, <char *>&revision, 8, 0)
        else:
            self.kv.delete(<char *>&key, 8)
        return 0

    cdef int pin(self) except -1:
        """To a walker whose box is empty; dropped there."""
        cdef Walker *w = &self.walkers[self.draw(WALKERS)]
        cdef int box = <int>self.draw(BOXES)
        cdef Pin pin
        if load_acquire(<uint64_t *>&w.box[box]):
            return 0
        pin = self.kv.pin()
        if pin.root == NULL:
            return 0
        if self.plant == UNCOUNTED:
            pin.root.refs += 1
        else:
            tree_hold(pin.root)
        store_release(<uint64_t *>&w.box[box], <uint64_t>pin.root)
        self.pins += 1
        return 0

    cdef int turn(self) except -1:
        cdef int _
        if self.worker.has_room(2):
            if self.draw(2):
                self.write()
            if self.draw(2):
                self.write_inline()
        self.reap()
        for _ in range(<int>self.draw(30)):
            self.change()
        for _ in range(<int>self.draw(WALKERS)):       # of one tree: who drops the last?
            self.pin()
        return 0


def run(double seconds, uint64_t seed=1, str plant="") -> dict:
    """Drives all of it; what was done. Raises AssertionError if a promise was broken."""
    cdef Turning t = Turning(seed, PLANTS[plant])
    cdef uint64_t until = memory_now_us(NULL) + <uint64_t>(seconds * 1e6)
    cdef uint64_t turns = 0
    cdef timespec pause
    cdef int i
    pause.tv_sec = 0
    t.start()
    try:
        while memory_now_us(NULL) < until:
            t.turn()
            turns += 1
            if t.draw(20) == 0:                 # the worker runs dry, and becomes idle
                pause.tv_nsec = <long>t.draw(1000000)
                with nogil:
                    nanosleep(&pause, NULL)
    finally:
        t.stop()
    check(t.kv)
    if t.broken:
        raise AssertionError(f"{t.broken} promises to another thread were broken")
    return {"turns": turns, "jobs": t.jobs, "syncs": t.memory.syncs, "pins": t.pins,
            "walked": sum([t.walkers[i].walked for i in range(WALKERS)]),
            "waits": sum([t.waiters[i].waits for i in range(WAITERS)])}


# ------------------------------------------------------------------------- faults for the others
ctypedef void (*Release)(void *) noexcept nogil
cdef Release give = free                # the compiler would see through free itself


def over_read(int n) -> int:
    """One byte beyond a block of n."""
    cdef char *block = <char *>malloc(n)
    cdef int value
    memset(block, 1, n)
    value = block[n]
    free(block)
    return value


def use_after_free(int n) -> int:
    """A byte of a block of n that is no longer ours."""
    cdef char *block = <char *>malloc(n)
    memset(block, 1, n)
    give(block)
    return block[n - 1]


def misaligned(int n) -> int:
    """A number at an odd place of a block of n."""
    cdef char *block = <char *>malloc(n)
    cdef int value
    (<uint64_t *>(block + 1))[0] = n
    value = block[1]
    free(block)
    return value
