"""Snapshots: what a file must hold to be one, and in which order it becomes one. See snapshot.pxd.

Knows no log, no sessions and no thread; the bytes of the engine are opaque here.
"""
import re
from os import fsdecode

from lz4.block import LZ4BlockError, compress, decompress

from cython cimport final
from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EIO
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset, strerror

from dengine._core.codec cimport Reader, read_from
from dengine._core.crc cimport crc32c
from dengine._core.fault cimport FAILPOINT, FORMAT, MUTANT
from dengine._core.flush cimport write_all
from dengine._core.idempotency cimport Kept
from dengine._core.items cimport ItemFields, item_take, items_check, items_encode
from dengine._core.tree cimport tree_drop, tree_hold, tree_seek
from dengine._core.types cimport (IDEMPOTENCY_MAX, MAX_KEY, PAGE, SNAPSHOT_ENGINE, SNAPSHOT_FRAME,
                                  SNAPSHOT_FRAME_MAX, SNAPSHOT_SYNC, SNAPSHOTS, iovec, unlikely)

from dengine.errors import CorruptionError, FormatError, InvariantError, StorageError

cdef extern from "<fcntl.h>" nogil:
    int O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_CLOEXEC, O_NOFOLLOW

cdef enum:
    HEADER_CRC_FROM = 16
    FRAME_CRC_FROM = 4
    MODE = 0o600

cdef enum Stage:                # of a writer, in this order
    CREATING
    WRITING
    VERIFYING
    VERIFIED
    COMPLETE
    FAILED                      # or closed before it was complete

cdef uint64_t SNAPSHOT_MAGIC = 0x70616E73656E6764    # "dgnesnap"


# ---------------------------------------------------------------------------------------- names
def snapshot_name(uint64_t index) -> str:
    """The file name of the snapshot that covers the log up to `index`."""
    return f"{index:016x}.snap"


def sort_names(list names not None) -> tuple[list[str], list[str]]:
    """(snapshots, newest first; what may go: all but the newest two, and what a writer left)."""
    found = sorted((n for n in names if re.fullmatch(r"[0-9a-f]{16}\.snap", n)), reverse=True)
    return found, found[SNAPSHOTS:] + [n for n in names if n.endswith(".snap.new")]


cdef int remove(const Io *io, bytes directory, list names) except -1:
    cdef bytes name
    cdef const char *path
    for each in names:
        name = directory + b"/" + each.encode()
        path = name
        with nogil:
            io.unlink(io.ctx, path)
    return 0


# --------------------------------------------------------------------------------------- writing
@final
cdef class SnapshotWriter(Work):
    """Writes one pinned generation of the store, step by step."""

    def __cinit__(self):
        self.fd = -1
        self.temporary = b""
        self.old = []
        self.root = NULL
        self.raw = <char *>malloc(SNAPSHOT_FRAME_MAX)
        if self.raw == NULL:
            raise MemoryError

    def __dealloc__(self):
        tree_drop(self.root)
        free(self.raw)

    cdef int open(self, const Io *io, bytes directory, const SnapshotHeader *header, bytes engine,
                  Answers answers, Pin pin) except -1:
        cdef SnapshotHeader *h = <SnapshotHeader *>self.raw
        if unlikely(PyBytes_GET_SIZE(engine) > SNAPSHOT_ENGINE):
            raise InvariantError(
                f"{len(engine)} bytes of the engine for a snapshot, the limit is {SNAPSHOT_ENGINE}")
        self.io = io
        self.directory = directory
        self.path = directory + b"/" + snapshot_name(header.index).encode()
        self.temporary = self.path + b".new"
        self.engine = engine
        self.answers = answers
        self.index = header.index
        self.term = header.term
        self.last_crc = header.last_crc
        self.root = pin.root
        if not MUTANT(104):
            tree_hold(self.root)
        self.item = tree_seek(self.root, &self.at, b"", 0)
        memset(h, 0, PAGE)
        h[0] = header[0]
        h.magic = SNAPSHOT_MAGIC
        h.format = FORMAT(SNAPSHOT_FORMAT)
        h.zero = 0
        h.revision = pin.revision
        h.keys = pin.count
        h.engine_bytes = PyBytes_GET_SIZE(engine)
        self.crc = header_crc(self.raw, h.format)
        h.crc = self.header_crc = self.crc
        return 0

    cpdef bint step(self) except -1:
        if unlikely(self.stage >= COMPLETE):
            raise InvariantError("a step of a snapshot that is complete, failed or closed")
        try:
            if self.stage == CREATING:
                self.create()
            elif self.stage == WRITING:
                self.write_next()
            elif self.stage == VERIFYING:
                if not self.reader.step():
                    self.stage = VERIFIED
            else:
                self.publish()
        except BaseException:
            self.close()
            raise
        return self.stage != COMPLETE

    cpdef int close(self) except -1:
        cdef const char *temporary = self.temporary
        cdef Node *root = self.root
        cdef int fd = self.fd
        self.root = NULL
        self.fd = -1
        if self.reader is not None:
            self.reader.close()
        # To unlink a large file takes long, and so does the last reference to a whole generation.
        with nogil:
            if fd >= 0:
                self.io.close(self.io.ctx, fd)
                if self.stage != COMPLETE:
                    self.io.unlink(self.io.ctx, temporary)
            if not MUTANT(104):
                tree_drop(root)
        if self.stage != COMPLETE:
            self.stage = FAILED
        return 0

    # ------------------------------------------------------------------------------------- steps
    cdef int create(self) except -1:
        cdef const char *temporary = self.temporary
        cdef iovec part
        cdef int error
        part.iov_base = self.raw                # where `open` left the header
        part.iov_len = self.size = PAGE
        with nogil:
            FAILPOINT(b"snapshot.create")
            self.io.unlink(self.io.ctx, temporary)
            self.fd = self.io.open(self.io.ctx, temporary,
                                   O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, MODE)
        self.check(-self.fd if self.fd < 0 else 0, "created")
        with nogil:
            error = write_all(self.io, self.fd, &part, 1, 0)
        self.stage = WRITING
        return self.check(error, "written")

    cdef int write_next(self) except -1:
        cdef int64_t n = PyBytes_GET_SIZE(self.engine) - self.engine_at
        cdef uint64_t keys = 0, results
        cdef const Kept *kept
        if n > 0:
            n = min(n, SNAPSHOT_FRAME)
            self.write_frame(ENGINE, PyBytes_AS_STRING(self.engine) + self.engine_at, n)
            self.engine_at += n
            return 0
        results = 0 if self.answers is None or MUTANT(151) else (
            self.answers.take(SNAPSHOT_FRAME // sizeof(Kept), &kept))
        if results:
            return self.write_frame(ANSWERS, <const char *>kept, results * sizeof(Kept))
        with nogil:
            n = items_encode(self.raw, &self.at, &self.item, &keys)
        self.footer.keys += keys
        if unlikely(n < 0):
            raise InvariantError("the store has a key or value above its limit")
        return self.write_frame(MACHINE, self.raw, n) if n else self.finish()

    cdef int write_frame(self, uint8_t kind, const char *raw, size_t n) except -1:
        cdef bytes packed = compress(PyMemoryView_FromMemory(<char *>raw, n, PyBUF_READ),
                                     store_size=False)
        cdef bint smaller = <size_t>PyBytes_GET_SIZE(packed) < n
        cdef SnapshotFrame f
        cdef iovec parts[2]
        cdef int error
        parts[0].iov_base = &f
        parts[0].iov_len = sizeof(f)
        parts[1].iov_base = PyBytes_AS_STRING(packed) if smaller else <char *>raw
        parts[1].iov_len = PyBytes_GET_SIZE(packed) if smaller else n
        f.stored = parts[1].iov_len
        f.raw = n
        f.kind = kind
        f.flags = PACKED if smaller else 0
        f.zero = 0
        with nogil:
            f.crc = frame_crc(&f, parts[1].iov_base, self.crc)
            error = FAILPOINT(b"snapshot.write") or write_all(self.io, self.fd, parts, 2, self.size)
        self.check(error, "written")
        self.crc = f.crc
        self.size += sizeof(f) + f.stored
        self.footer.frames += 1
        self.footer.raw_bytes += n
        if self.size - self.synced >= SNAPSHOT_SYNC:
            self.sync()
        return 0

    cdef int finish(self) except -1:
        """The footer; from here on it is read back, from the disk and not from the cache."""
        cdef SnapshotFooter footer = self.footer
        cdef int error
        self.write_frame(FOOTER, <const char *>&footer, sizeof(footer))
        self.sync()
        with nogil:
            error = FAILPOINT(b"snapshot.read") or -self.io.drop(self.io.ctx, self.fd, 0, self.size)
        self.check(error, "read back")
        self.reader = SnapshotReader()
        self.reader.open(self.io, self.temporary, None)
        self.stage = VERIFIED if MUTANT(101) else VERIFYING
        return 0

    cdef int sync(self) except -1:
        cdef int error = 0
        if not MUTANT(100):
            with nogil:
                error = FAILPOINT(b"snapshot.sync") or -self.io.fdatasync(self.io.ctx, self.fd)
        self.synced = self.size
        return self.check(error, "synced")

    cdef int publish(self) except -1:
        cdef const char *temporary = self.temporary
        cdef const char *path = self.path
        cdef const char *directory = self.directory
        cdef int error
        with nogil:
            error = FAILPOINT(b"snapshot.rename") or -self.io.rename(self.io.ctx, temporary, path)
            if error == 0 and not MUTANT(105):
                error = FAILPOINT(b"snapshot.renamed") or -self.io.sync_dir(self.io.ctx, directory)
            FAILPOINT(b"snapshot.named")
        self.check(error, "given its name")
        self.stage = COMPLETE
        self.complete = True
        remove(self.io, self.directory, self.old)
        return self.close()

    cdef int check(self, int error, str what) except -1:
        if unlikely(error):
            raise StorageError(
                f"{fsdecode(self.temporary)} could not be {what}: {strerror(error).decode()}; the "
                "log and the snapshots before it are as they were; make room or mend the disk")
        return 0


cdef inline uint32_t header_crc(const char *page, uint32_t format) noexcept nogil:
    return crc32c(page + HEADER_CRC_FROM, PAGE - HEADER_CRC_FROM, format)


cdef uint32_t frame_crc(const SnapshotFrame *f, const void *stored, uint32_t before) noexcept nogil:
    cdef uint32_t crc = crc32c(<const char *>f + FRAME_CRC_FROM,
                               sizeof(SnapshotFrame) - FRAME_CRC_FROM,
                               0 if MUTANT(103) else before)
    return crc32c(stored, f.stored, crc)


# --------------------------------------------------------------------------------------- reading
@final
cdef class SnapshotReader:
    """Verifies a snapshot step by step, or loads it into a new store."""

    def __cinit__(self):
        self.fd = -1
        self.parts = []
        self.stored = <char *>malloc(SNAPSHOT_FRAME_MAX)
        self.last_key = <char *>malloc(MAX_KEY)
        if self.stored == NULL or self.last_key == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.stored)
        free(self.last_key)

    cdef int open(self, const Io *io, bytes path, KV into) except -1:
        cdef const char *name = path
        cdef int64_t size
        if unlikely(into is not None and (into.count or into.revision)):
            raise InvariantError("a snapshot is loaded into a store that is not empty")
        self.io = io
        self.path = path
        self.into = into
        self.idempotency = Idempotency()
        with nogil:
            self.fd = io.open(io.ctx, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0)
            size = io.size(io.ctx, self.fd) if self.fd >= 0 else 0
        self.check(-self.fd if self.fd < 0 else 0, "opened")
        try:
            self.check(<int>-size if size < 0 else 0, "read")
            self.size = size
            self.read_header()
        except BaseException:
            self.close()
            raise
        return 0

    cpdef bint step(self) except -1:
        cdef SnapshotFrame f
        cdef bytes unpacked
        cdef const char *raw = self.stored
        self.read_frame(&f)
        if f.flags & PACKED:
            unpacked = self.unpack(&f)
            raw = PyBytes_AS_STRING(unpacked)
        elif f.stored != f.raw:
            self.corrupt("a frame has two lengths")
        if f.kind == FOOTER:
            self.finish(&f, raw)
            return False
        self.found.frames += 1
        self.found.raw_bytes += f.raw
        if f.kind == MACHINE:
            self.items(raw, f.raw)
        elif self.found.keys:
            self.corrupt("a frame of the engine stands behind those of the store")
        elif f.kind == ANSWERS:
            self.results(raw, f.raw)
        else:
            self.engine_bytes += f.raw
            if self.into is not None:
                self.parts.append(PyBytes_FromStringAndSize(raw, f.raw))
        self.at += sizeof(f) + f.stored
        return True

    cpdef int close(self) except -1:
        cdef int fd = self.fd
        self.fd = -1
        if fd >= 0:
            with nogil:
                self.io.close(self.io.ctx, fd)
        return 0

    # ------------------------------------------------------------------------------------ frames
    cdef int read_header(self) except -1:
        cdef SnapshotHeader *h = &self.header
        cdef char *page = self.stored
        cdef size_t i
        if self.size < PAGE:
            self.corrupt("the file is shorter than a header")
        self.read(page, PAGE, 0)
        memcpy(h, page, sizeof(SnapshotHeader))
        if h.magic != SNAPSHOT_MAGIC:
            self.corrupt("the header is not that of a snapshot")
        self.crc = header_crc(page, h.format)
        if h.format == 0 or h.crc != self.crc:
            self.corrupt("the header does not match its checksum")
        if h.format > FORMAT(SNAPSHOT_FORMAT):
            self.newer(f"it has format {h.format}")
        for i in range(sizeof(SnapshotHeader), <size_t>PAGE):
            if page[i] != 0:
                h.zero = 1
        if h.zero != 0:
            self.newer("its header has more fields")
        if h.engine_bytes > SNAPSHOT_ENGINE:
            self.corrupt("the header has an impossible length")
        self.at = PAGE
        return 0

    cdef int read_frame(self, SnapshotFrame *f) except -1:
        """The next frame, its bytes in `stored`: nothing in it is believed before it is checked."""
        cdef uint64_t left = self.size - self.at
        cdef uint32_t crc
        if left < sizeof(SnapshotFrame):
            self.corrupt("the file ends without a footer")
        self.read(f, sizeof(SnapshotFrame), self.at)
        if f.stored == 0 or f.stored > f.raw or (f.raw > SNAPSHOT_FRAME_MAX and not MUTANT(106)):
            self.corrupt("a frame has an impossible length")
        if f.stored > left - sizeof(SnapshotFrame):
            self.corrupt("the file ends within a frame")
        self.read(self.stored, f.stored, self.at + sizeof(SnapshotFrame))
        with nogil:
            crc = frame_crc(f, self.stored, self.crc)
        if crc != f.crc:
            self.corrupt("a frame does not match its checksum")
        if f.kind < ENGINE or f.kind > ANSWERS or f.flags & ~PACKED or f.zero:
            self.newer(f"a frame at offset {self.at} is of kind {f.kind}, flags {f.flags}")
        self.crc = crc
        return 0

    cdef bytes unpack(self, const SnapshotFrame *f):
        cdef bytes raw
        try:
            raw = decompress(PyMemoryView_FromMemory(self.stored, f.stored, PyBUF_READ),
                             uncompressed_size=f.raw)
        except LZ4BlockError:
            raw = b""
        if <size_t>PyBytes_GET_SIZE(raw) != f.raw:
            self.corrupt("a frame cannot be unpacked")
        return raw

    cdef int items(self, const char *raw, size_t n) except -1:
        cdef int64_t keys
        with nogil:
            keys = items_check(raw, n, self.header.revision, self.last_key, &self.last_size,
                               self.found.keys == 0)
        if keys < 0:
            self.corrupt("a frame has items that no store has")
        self.found.keys += keys
        return self.load(raw, n) if self.into is not None else 0

    cdef int load(self, const char *raw, size_t n) except -1:
        """Items that were checked, into the store."""
        cdef Reader r
        cdef ItemFields x
        cdef Item *item
        read_from(&r, raw, n)
        while r.at != r.end:
            item_take(&r, &x)
            item = self.into.append(x.key, x.key_size, x.value, x.value_size)
            item.create_revision = x.create_revision
            item.mod_revision = x.mod_revision
            item.version = x.version
            item.lease = x.lease
        return 0

    cdef int results(self, const char *raw, size_t n) except -1:
        cdef const Kept *k = <const Kept *>raw
        cdef size_t i
        if n % sizeof(Kept):
            self.corrupt("a frame of results has another length")
        for i in range(n // sizeof(Kept) if self.into is not None else 0):
            if self.idempotency.count() == IDEMPOTENCY_MAX:
                self.corrupt("there are more results than a node keeps")
            self.idempotency.add(&k[i])
        return 0

    cdef int finish(self, const SnapshotFrame *f, const char *raw) except -1:
        cdef SnapshotFooter footer
        if f.raw != sizeof(footer):
            self.corrupt("the footer has another length")
        memcpy(&footer, raw, sizeof(footer))
        if memcmp(&footer, &self.found, sizeof(footer)) != 0 and not MUTANT(102):
            self.corrupt("the footer counts other frames, bytes or keys than there are")
        if self.found.keys != self.header.keys or self.engine_bytes != self.header.engine_bytes:
            self.corrupt("the header counts other keys or bytes than there are")
        if self.at + sizeof(SnapshotFrame) + f.stored != self.size:
            self.corrupt("the file goes on behind its footer")
        if self.into is not None:
            self.into.revision = self.header.revision
            self.engine = b"".join(self.parts)
        return 0

    # ------------------------------------------------------------------------------------ errors
    cdef int read(self, void *to, size_t n, uint64_t offset) except -1:
        cdef size_t have = 0
        cdef int64_t got
        while have < n:
            with nogil:
                got = self.io.pread(self.io.ctx, self.fd, <char *>to + have, n - have,
                                    offset + have)
            # 0: the file is shorter than it said
            self.check(EIO if got == 0 else <int>-got if got < 0 else 0, "read")
            have += got
        return 0

    cdef int corrupt(self, str what) except -1:
        raise CorruptionError(
            f"{fsdecode(self.path)}, offset {self.at}: {what}; nothing was changed; check the "
            "disk, then use the snapshot before this one or a backup")

    cdef int newer(self, str what) except -1:
        raise FormatError(
            f"{fsdecode(self.path)} is of a newer format, {what}: nothing was changed; use the "
            "dengine version that wrote it, or a later one")

    cdef int check(self, int error, str what) except -1:
        if unlikely(error):
            raise StorageError(
                f"{fsdecode(self.path)} could not be {what}: {strerror(error).decode()}; nothing "
                "was changed; check the disk, then use the snapshot before this one or a backup")
        return 0
