"""Checkpoints: which snapshot a node starts from, when it takes the next. See checkpoint.pxd."""
from os import fsdecode

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from dengine._core.codec cimport (Reader, Writer, give_bytes, give_u32, give_u64,
                                  read_from, take_bytes, take_u8, take_u32, take_u64)
from dengine._core.fault cimport MUTANT
from dengine._core.session cimport Applied, Registered
from dengine._core.snapshot cimport SnapshotReader
from dengine._core.snapshot cimport remove as remove_now
from dengine._core.types cimport MAX_MEMBERS, PENDING, SNAPSHOT_RETRY_US, SNAPSHOTS

from dengine._core.snapshot import snapshot_name, sort_names
from dengine.errors import CorruptionError, FormatError, InvariantError, StorageError

cdef enum:
    ENGINE_BYTES = 32           # without configuration and sessions
    SESSION_BYTES = 44          # of Registered, and how many results follow
    RESULT_BYTES = 17           # of Applied


cdef class Checkpoint:
    cdef KV open(self, const Io *io, bytes directory, list names, uint64_t cluster,
                 Worker preparer, list notes, object progress):
        cdef KV kv = KV()
        self.io = io
        self.directory = directory
        self.preparer = preparer
        self.damaged = []
        found, self.stale = sort_names(names)
        self.base.newest = index_of(found[0]) if found else 0
        for name in found:
            try:
                self.load(name, cluster, kv, progress)
            except FormatError:
                raise
            except StorageError as error:       # one that the disk does not return is none either
                if name == found[len(found) - 1] and not isinstance(error, CorruptionError):
                    raise
                notes.append(f"a snapshot is left out: {error}")
                self.damaged.append(name)
                kv = KV()
            else:
                break
        self.indexes = [index_of(n) for n in found if n not in self.damaged + self.stale]
        return kv

    def load(self, str name not None, uint64_t cluster, KV kv not None, progress):
        cdef SnapshotReader reader = SnapshotReader()
        cdef uint64_t at = 0
        reader.open(self.io, self.directory + b"/" + name.encode(), kv)
        try:
            if reader.header.cluster != cluster:
                raise FormatError(f"{fsdecode(self.directory)}/{name} belongs to another cluster: "
                                  "nothing was changed; move it out of the directory")
            while reader.step():
                if progress is not None:
                    progress(reader.at - at)
                at = reader.at
            self.base.index = reader.header.index
            self.base.term = reader.header.term
            self.base.crc = reader.header.last_crc
            self.size = reader.size
            self.header_crc = reader.header.crc
            self.engine = reader.engine
            self.idempotency = reader.idempotency
        finally:
            reader.close()

    cdef int tidy(self, uint64_t first) except -1:
        cdef bytes path
        cdef list useless = [i for i in self.indexes[1:] if i + 1 < first]
        for name in self.damaged:
            path = self.directory + b"/" + name.encode()
            self.io.rename(self.io.ctx, path, path + b".corrupt")
        remove_now(self.io, self.directory, self.stale + [snapshot_name(i) for i in useless])
        self.indexes = [i for i in self.indexes if i not in useless]
        self.keep = self.indexes[1] if len(self.indexes) > 1 else 0
        return 0

    cdef bint due(self, uint64_t applied, uint64_t written, uint64_t now_us) noexcept:
        if self.writer is not None or applied == self.base.index:
            return False
        if now_us < self.again_us:
            return False
        return (self.asked or applied - self.base.index >= self.entries
                or written - self.written >= max(self.bytes, self.size))

    cdef int begin(self, SnapshotHeader *header, KV kv, bytes engine, Answers answers,
                   uint64_t written) except -1:
        cdef SnapshotWriter writer = SnapshotWriter()
        self.asked = False
        self.written = written
        writer.open(self.io, self.directory, header, engine, answers, kv.pin())
        writer.old = [snapshot_name(i) for i in self.indexes[SNAPSHOTS - 1:]]
        self.writer = writer
        return 0

    cdef int end(self, uint64_t now_us) except -1:
        cdef SnapshotWriter writer = self.writer
        self.writer = None
        if writer.index <= self.base.index and writer.complete:      # one was installed meanwhile
            return self.discard(writer.index)
        if not writer.complete:
            self.failed += 1
            self.again_us = now_us + SNAPSHOT_RETRY_US
            return 0
        self.taken += 1
        self.indexes = [writer.index, *self.indexes[:SNAPSHOTS - 1]]
        self.keep = writer.index if MUTANT(115) else self.base.index
        self.base.index = self.base.newest = writer.index
        self.base.term = writer.term
        self.base.crc = writer.last_crc
        self.size = writer.size
        self.header_crc = writer.header_crc
        return 0

    cdef int replace(self, const Offer *offer, uint64_t written) except -1:
        for index in self.indexes:
            self.remove(index)
        self.indexes = [offer.index]
        self.keep = offer.index
        self.base.index = self.base.newest = offer.index
        self.base.term = offer.term
        self.base.crc = offer.last_crc
        self.size = offer.size
        self.header_crc = offer.header_crc
        self.written = written
        return 0

    cdef int discard(self, uint64_t index) except -1:
        return self.remove(index) if index not in self.indexes else 0

    cdef int remove(self, uint64_t index) except -1:
        if self.preparer.has_room(1):           # else the next start does it
            self.preparer.remove(self.directory + b"/" + snapshot_name(index).encode(), -1)
        return 0

    cdef bint offer(self, Offer *out) noexcept:
        out.index = self.base.index
        out.term = self.base.term
        out.last_crc = self.base.crc
        out.header_crc = self.header_crc
        out.size = self.size
        return out.index != 0


def index_of(str name not None) -> int:
    """Of the last entry in the snapshot of this name."""
    return int(name.removesuffix(".snap"), 16)


# ----------------------------------------------------------------------------- bytes of the engine
cdef bytes engine_encode(tuple config, Session session):
    cdef bytes payload = config[1]
    cdef uint32_t counts[MAX_MEMBERS]
    cdef size_t size = ENGINE_BYTES + PyBytes_GET_SIZE(payload)
    cdef Writer w
    cdef bytes out
    cdef int i
    for i in range(session.table_count):
        counts[i] = results_of(&session.table[i], NULL)
        size += SESSION_BYTES + RESULT_BYTES * counts[i]
    out = PyBytes_FromStringAndSize(NULL, size)
    w.at = <uint8_t *>PyBytes_AS_STRING(out)
    w.end = w.at + size
    w.bad = False
    give_u64(&w, config[0])
    give_u32(&w, <uint32_t>PyBytes_GET_SIZE(payload))
    give_bytes(&w, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
    give_u32(&w, session.table_count)
    for i in range(session.table_count):
        give_bytes(&w, &session.table[i], SESSION_BYTES - sizeof(uint32_t))
        give_u32(&w, counts[i])
        results_of(&session.table[i], &w)
    give_u64(&w, session.clock_ms)
    give_u64(&w, session.idempotency.horizon_ms)
    if w.bad or w.at != w.end:
        raise InvariantError("the state of the engine has another size than was counted")
    return out


cdef uint32_t results_of(const Registered *r, Writer *w) noexcept:
    """How many results somebody may still wait for; they go to `w`, unless it is NULL."""
    cdef const Applied *a
    cdef uint64_t sequence
    cdef uint32_t count = 0
    for sequence in range(r.floor, r.floor + PENDING):
        a = &r.results[sequence % PENDING]
        if a.sequence == sequence and not MUTANT(142):
            count += 1
            if w != NULL:
                give_bytes(w, a, RESULT_BYTES)
    return count


cdef tuple engine_decode(bytes engine, Idempotency idempotency, Session session):
    cdef Reader r
    cdef Registered *s
    cdef Applied a
    cdef const char *payload
    cdef uint64_t index
    cdef uint32_t n, results, _, sessions
    read_from(&r, PyBytes_AS_STRING(engine), PyBytes_GET_SIZE(engine))
    index = take_u64(&r)
    n = take_u32(&r)
    payload = take_bytes(&r, n)
    sessions = take_u32(&r)
    if r.bad or sessions > MAX_MEMBERS:
        raise FormatError("the snapshot holds no state of an engine of this version: nothing was "
                          "changed; use the dengine version that wrote it, or a later one")
    session.table_count = 0
    session.reconfigure(payload, n)
    for _ in range(sessions):
        s = session.add()
        memset(s.results, 0, PENDING * sizeof(Applied))
        s.node = take_u64(&r)
        s.incarnation = take_u64(&r)
        s.nonce = take_u64(&r)
        s.id = take_u64(&r)
        s.floor = take_u64(&r)
        results = take_u32(&r)
        while results and not r.bad:
            results -= 1
            a.sequence = take_u64(&r)
            a.revision = take_u64(&r)
            a.status = take_u8(&r)
            s.results[a.sequence % PENDING] = a
    session.clock_ms = take_u64(&r)
    session.idempotency = idempotency
    idempotency.horizon_ms = take_u64(&r)
    if r.bad or r.at != r.end:
        raise FormatError("the snapshot holds more than an engine of this version knows: nothing "
                          "was changed; use the dengine version that wrote it, or a later one")
    return index, PyBytes_FromStringAndSize(payload, n)
