"""One operation of the core, again and again: what tests/guard.py counts the instructions of.

Each class or function does exactly n of one thing, from fixed bytes and seeds, on files that are no
files: a write is taken at once, so that no kernel is measured. It decides nothing about figures.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from dengine._core.apply cimport Machine
from dengine._core.codec cimport (ENTRY_COMMAND, Record, encode_put, padded, record_check,
                                  record_encode)
from dengine._core.consensus cimport Message, Options, Run
from dengine._core.crc cimport crc32c
from dengine._core.kv cimport KV, Pin
from dengine._core.log cimport Log
from dengine._core.quorum cimport Config
from dengine._core.raft cimport Raft
from dengine._core.session cimport Results, Session
from dengine._core.terms cimport Terms
from dengine._core.tree cimport Cursor, tree_next, tree_seek
from dengine._core.types cimport MEM_FIRST, RECORD_HEADER, Io, Item, iovec
from dengine._core.wire cimport Frame, frame_check
from dengine._core.worker cimport Worker

from tests.sim.views import build_frame

cdef extern from *:
    """
    /* The counter stops and starts where this is called: it must be a call. */
    __attribute__((noinline)) void dengine_mark(void) { __asm__ volatile(""); }
    """
    void dengine_mark() noexcept nogil

cdef enum:
    KEYS = 1000
    KEY = 16
    BATCH = 30                  # entries: what one write has under load
    ROUND = 100                 # entries
    NODES = 3
    MESSAGES = 32               # of one node in one step; far more than 3 nodes send


def mark():
    dengine_mark()


def crc(bytes data not None, uint64_t n):
    cdef uint64_t _i
    cdef const char *at = data
    cdef size_t size = len(data)
    cdef uint32_t x = 0
    for _i in range(n):
        x = crc32c(at, size, x)
    return x


def encode_records(bytes payload not None, uint64_t n):
    cdef char record[4096]
    cdef uint32_t x = 0
    cdef uint64_t i
    for i in range(n):
        x = record_encode(record, 1, i + 1, ENTRY_COMMAND, payload, len(payload), x)
    return x


def check_records(bytes payload not None, uint64_t n):
    cdef uint64_t _i
    cdef char record[4096]
    cdef size_t size = padded(RECORD_HEADER + len(payload))
    cdef int faults = 0
    record_encode(record, 1, 1, ENTRY_COMMAND, payload, len(payload), 7)
    for _i in range(n):
        faults |= record_check(record, size, 1, 1, 7)
    if faults:
        raise AssertionError("what was encoded is refused")


def check_frames(bytes body not None, uint64_t n):
    cdef uint64_t _i
    cdef bytes data = build_frame(4, 0, 1, body)
    cdef const char *at = data
    cdef size_t size = len(data), used
    cdef int faults = 0
    cdef Frame f
    for _i in range(n):
        faults |= frame_check(at, size, &f, &used)
    if faults:
        raise AssertionError("what was encoded is refused")


def encode_puts(bytes key not None, bytes value not None, uint64_t n):
    cdef uint64_t _i
    # some room in the allocator's pools: to fill one and to free it each time would be counted
    cdef list held = [encode_put(key, value) for _ in range(200)]
    del held[::2]
    for _i in range(n):
        encode_put(key, value)


# ------------------------------------------------------------------------------------- the store
cdef class Shop:
    """A store of KEYS keys under a fixed seed of its hash."""
    cdef KV kv
    cdef Pin pin
    cdef char value[64]

    def __init__(self):
        cdef char key[KEY]
        cdef uint64_t i
        self.kv = KV()
        self.kv.seed[0], self.kv.seed[1] = 1, 2
        memset(self.value, 7, sizeof(self.value))
        for i in range(<uint64_t>KEYS):
            key_of(i, key)
            self.kv.put(key, KEY, self.value, sizeof(self.value), 0)
        self.pin = self.kv.pin()

    def get(self, uint64_t n):
        cdef char key[KEY]
        cdef uint64_t i
        for i in range(n):
            key_of(i % KEYS, key)
            self.kv.get(key, KEY)

    def put(self, uint64_t n):
        cdef char key[KEY]
        cdef uint64_t i
        for i in range(n):
            key_of(i % KEYS, key)
            self.kv.put(key, KEY, self.value, sizeof(self.value), 0)

    def put_and_delete(self, uint64_t n):
        """A new key each time, gone before the next."""
        cdef char key[KEY]
        cdef uint64_t i
        for i in range(n):
            key_of(KEYS + i % KEYS, key)
            self.kv.put(key, KEY, self.value, sizeof(self.value), 0)
            self.kv.delete(key, KEY)

    def scan(self, uint64_t n):
        cdef uint64_t _i
        cdef Cursor at
        cdef const Item *item = NULL
        for _i in range(n):
            item = tree_seek(self.pin.root, &at, NULL, 0) if item == NULL else tree_next(&at)


cdef void key_of(uint64_t i, char *to) noexcept:
    """Keys in no order, with equal first bytes as users' keys have."""
    cdef uint64_t mixed = i * 0x9E3779B97F4A7C15ULL
    memcpy(to, b"account:", 8)
    memcpy(to + 8, &mixed, 8)


cdef class Applying:
    """The state machine of a node alone, and one record that it applies over and over."""
    cdef Machine machine
    cdef Results results
    cdef char record[512]

    def __init__(self):
        cdef bytes command = encode_put(b"k" * KEY, b"v" * 64)
        self.machine = Machine(KV(), Session(1, 1, 1, 0, True))
        self.machine.kv.seed[0], self.machine.kv.seed[1] = 1, 2
        self.results = Results()
        record_encode(self.record, 1, 1, ENTRY_COMMAND, command, len(command), 0)

    def puts(self, uint64_t n):
        cdef uint64_t _i
        cdef Record *r = <Record *>self.record
        for _i in range(n):
            r.index = self.machine.applied + 1
            self.machine.apply(self.record, self.results)


# --------------------------------------------------------------------------------------- the log
cdef int no_open(void *ctx, const char *path, int flags, int mode) noexcept nogil:
    return 3


cdef int no_close(void *ctx, int fd) noexcept nogil:
    return 0


cdef int64_t no_write(void *ctx, int fd, const iovec *parts, int n, int64_t offset) noexcept nogil:
    cdef int64_t total = 0
    cdef int i
    for i in range(n):
        total += parts[i].iov_len
    return total


cdef int no_rename(void *ctx, const char *old, const char *new) noexcept nogil:
    return 0


cdef int no_path(void *ctx, const char *path) noexcept nogil:
    return 0


cdef void *no_map(void *ctx, int fd, size_t n) noexcept nogil:
    return NULL


cdef uint64_t no_time(void *ctx) noexcept nogil:
    return 1


cdef class Logging:
    """The log of a MemFirst node whose flusher never gets to its one late sync."""
    cdef Io io
    cdef Log log
    cdef Worker flusher
    cdef Worker preparer

    def __init__(self):
        memset(&self.io, 0, sizeof(self.io))
        self.io.open = no_open
        self.io.close = no_close
        self.io.pwritev = no_write
        self.io.fdatasync = no_close
        self.io.rename = no_rename
        self.io.unlink = no_path
        self.io.sync_dir = no_path
        self.io.map = no_map
        self.io.now_us = no_time
        self.log = Log()
        self.flusher = Worker()
        self.preparer = Worker()
        self.log.open(&self.io, b"log", 7, 9, 64 << 20, self.preparer)
        self.log.strategy = MEM_FIRST
        self.log.threshold = 1 << 62
        self.log.interval_us = 1 << 40
        self.log.max_unflushed_us = 1 << 62
        self.flusher.open(&self.io, &self.log.marks, 0)
        self.preparer.open(&self.io, NULL, 0)

    def append(self, bytes payload not None, uint64_t n):
        """n entries, in batches."""
        cdef uint64_t i
        for i in range(n):
            self.log.append(1, ENTRY_COMMAND, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
            if i % BATCH == BATCH - 1:
                self.log.write(self.flusher, self.log.last - 1, 1)


# --------------------------------------------------------------------------------------- consensus
cdef class Rounds:
    """Three nodes without log and network: what one says, the others hear at once."""
    cdef list rafts
    cdef uint64_t now

    def __init__(self):
        cdef Options o
        cdef Config c
        cdef Raft raft
        cdef int i
        memset(&o, 0, sizeof(o))
        memset(&c, 0, sizeof(c))
        o.heartbeat_us, o.promise_us = 100_000, 600_000
        o.timeout_us, o.lease_us = 1_200_000, 500_000
        c.count = NODES
        c.voters = (1 << NODES) - 1
        self.now = 10_000_000
        self.rafts = [Raft() for _i in range(NODES)]
        for i in range(NODES):
            c.id[i] = i + 1
        for i in range(NODES):
            o.id = o.seed = i + 1
            raft = self.rafts[i]
            raft.open(&o, Terms(), 0, 0, 0, self.now)
            raft.adopt(&c, 1, self.now)
            for j in range(NODES):
                if j != i:
                    raft.link_up(j + 1, self.now)
        raft = self.rafts[0]
        self.now += 700_000                     # the promise of the start is over
        while raft.role != 3:
            self.now += 100_000
            raft.tick(self.now)
            self.deliver()

    cdef int deliver(self) except -1:
        """Until nobody has anything to say."""
        cdef bint said = True
        cdef int i
        while said:
            said = False
            for i in range(NODES):
                said |= self.say(i)
        return 0

    cdef bint say(self, int i) except -1:
        """Ready of one node, as the turn takes it: saves, messages, appends."""
        cdef Raft raft = <Raft>self.rafts[i]
        cdef Message out[MESSAGES]
        cdef Message m
        cdef Run entries
        cdef int n, slot
        cdef bint said = False
        if raft.begin:
            raft.begun(1)
            raft.persisted(0, raft.term, raft.last, self.now)
        if raft.save:
            raft.save = False
            raft.persisted(raft.version, 0, 0, self.now)
        raft.start_round(self.now)
        n = raft.out_count
        if n > MESSAGES:
            raise ValueError("more messages than three nodes send")
        memcpy(out, raft.out, n * sizeof(Message))
        raft.taken()
        for slot in range(n):
            said = True
            self.hear(i, &out[slot])
        for slot in range(NODES):
            while raft.next_append(slot, &m):
                entries.term, entries.count = raft.term, m.count
                m.runs = &entries
                m.run_count = m.count > 0
                raft.sent(slot, m.count, m.count * 100)
                said = True
                self.hear(i, &m)
                if m.count == 0:
                    break
        return said

    cdef int hear(self, int speaker, Message *m) except -1:
        cdef Raft raft = <Raft>self.rafts[m.peer - 1]
        m.peer = speaker + 1
        raft.step(m, self.now)
        if raft.append_from:
            raft.persisted(0, raft.terms.at(raft.last), raft.last, self.now)
        return 0

    def rounds(self, uint64_t n):
        """n times: the leader proposes, all acknowledge, all learn that it is committed."""
        cdef uint64_t _i
        cdef Raft leader = <Raft>self.rafts[0]
        for _i in range(n):
            self.now += 1000
            leader.propose(ROUND)
            leader.persisted(0, leader.term, leader.last, self.now)
            self.deliver()
            if leader.commit != leader.last:
                raise AssertionError("a round did not commit")
