"""Reads what lies in a data directory: slots, headers, marks, records. See examine.pxd."""
from libc.stdlib cimport free, malloc
from libc.string cimport memset, strerror

from dengine._core.codec cimport (ENTRY_COMMAND, ENTRY_CONFIG, ENTRY_TICK, RECORD_END, RECORD_OK,
                                  REGISTER, Command, Record, command_decode, jump_decode, padded,
                                  record_check, tick_decode)
from dengine._core.crc cimport crc32c
from dengine._core.flush cimport MarkPage, mark_decode
from dengine._core.kernel cimport kernel
from dengine._core.members cimport Members, members_decode
from dengine._core.meta cimport MetaSlot, slot_decode
from dengine._core.segments cimport UNIT, SegmentHeader, header_decode
from dengine._core.snapshot cimport SnapshotReader
from dengine._core.types cimport MAX_RECORD, RECORD_HEADER, Position
from dengine._core.types cimport PAGE as PAGE_BYTES
from dengine._core.types cimport SEGMENT_DATA as DATA_AT

from os import fsdecode

cdef extern from "<fcntl.h>" nogil:
    int O_RDONLY, O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK

cdef enum:
    WINDOW = 4 << 20            # bytes read at once; more than the largest record

PAGE, SEGMENT_DATA = PAGE_BYTES, DATA_AT
# Bytes of each struct; the rest of its page is in no checksum.
SLOT_BYTES, HEADER_BYTES, MARK_BYTES = sizeof(MetaSlot), sizeof(SegmentHeader), sizeof(MarkPage)
KINDS = {1: "noop", 2: "command", 3: "config", 4: "tick"}
OPS = {1: "put", 2: "delete", 3: "put_if", 4: "delete_if", 16: "register"}


cdef class Reader:
    """One directory's files, and a place among the records of one of them. Raises OSError."""

    def __cinit__(self):
        self.io = kernel()
        self.window = <char *>malloc(WINDOW)
        if self.window == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.window)

    # -------------------------------------------------------------------------------------- files
    def open(self, bytes path not None) -> int:
        """A descriptor for reading; no link is followed, and nothing is waited for."""
        cdef int fd = self.io.open(self.io.ctx, path,
                                   O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0)
        if fd < 0:
            raise OSError(-fd, strerror(-fd).decode(), fsdecode(path))
        return fd

    def close(self, int fd):
        self.io.close(self.io.ctx, fd)

    def bytes_of(self, int fd) -> int:
        """The size of the file."""
        cdef int64_t size = self.io.size(self.io.ctx, fd)
        if size < 0:
            raise OSError(-size, strerror(-size).decode())
        return size

    def drop(self, int fd, uint64_t size):
        """What the kernel holds of the file and calls clean is read from the disk again."""
        self.io.drop(self.io.ctx, fd, 0, size)

    def snapshot(self, bytes path not None, progress) -> dict:
        """What a snapshot says, all its bytes verified. Raises StorageError and its kinds."""
        cdef SnapshotReader r = SnapshotReader()
        cdef uint64_t at = 0
        r.open(self.io, path, None)
        try:
            self.io.drop(self.io.ctx, r.fd, 0, r.size)
            while r.step():
                progress(r.at - at)
                at = r.at
            progress(r.size - at)
        finally:
            r.close()
        return {"cluster": r.header.cluster, "index": r.header.index, "term": r.header.term,
                "crc": r.header.last_crc, "revision": r.header.revision, "keys": r.header.keys,
                "size": r.size}

    def read(self, int fd, size_t n, uint64_t offset) -> bytes:
        """n bytes, at most a window; zeros where the file ends before."""
        if n > WINDOW:
            raise ValueError(f"{n} bytes are more than a window")
        self.have = self.base = 0
        self.get(fd, self.window, n, offset)
        return self.window[:n]

    def first_not_zero(self, int fd, uint64_t at, uint64_t end) -> int:
        """The offset of the first byte in [at, end) that is not zero; -1: none."""
        cdef size_t n, i
        self.have = self.base = 0
        while at < end:
            n = min(<uint64_t>WINDOW, end - at)
            self.get(fd, self.window, n, at)
            with nogil:
                for i in range(n):
                    if self.window[i]:
                        break
                else:
                    i = n
            if i < n:
                return at + i
            at += n
        return -1

    cdef int get(self, int fd, char *to, size_t n, uint64_t offset) except -1:
        cdef int64_t got = 1
        cdef size_t have = 0
        while have < n and got:
            with nogil:
                got = self.io.pread(self.io.ctx, fd, to + have, n - have, offset + have)
            if got < 0:
                raise OSError(-got, f"{strerror(<int>-got).decode()}, at offset {offset + have}")
            have += got
        memset(to + have, 0, n - have)
        return 0

    # ------------------------------------------------------------------------------------ records
    def start(self, int fd, uint64_t size, uint64_t index, uint64_t term, uint32_t crc):
        """Before the first record of a segment of `size` bytes that is anchored at this entry."""
        self.fd = fd
        self.size = size
        self.base = self.have = 0
        self.fault = RECORD_OK
        self.offset = DATA_AT
        self.index = index
        self.term = term
        self.crc = crc
        self.padding = self.strange = self.strange_at = 0
        self.newer = False

    def follow(self, uint64_t until, uint64_t budget) -> bool:
        """Checks records up to entry `until`, or about `budget` bytes; False: `fault` ended it."""
        cdef uint64_t stop = self.offset + budget
        while self.index < until and self.offset < stop and self.fault == RECORD_OK:
            if self.hungry():
                self.fill()
            with nogil:
                while (self.index < until and self.offset < stop and not self.hungry()
                       and self.take() == RECORD_OK):
                    pass
        return self.fault == RECORD_OK

    def next(self) -> dict | None:
        """The next record, decoded; None: `fault` says why there is none."""
        cdef uint64_t at = self.offset
        if self.hungry():
            self.fill()
        if self.take() != RECORD_OK:
            return None
        return decoded(self.window + (at - self.base), at)

    cdef bint hungry(self) noexcept nogil:
        """Could the next record lie beyond the window?"""
        return (self.offset + MAX_RECORD + UNIT > self.base + self.have
                and self.base + self.have < self.size)

    cdef int fill(self) except -1:
        self.have = 0
        self.base = self.offset
        if self.base < self.size:
            self.have = min(<uint64_t>WINDOW, self.size - self.base)
            self.get(self.fd, self.window, self.have, self.base)
        return 0

    cdef int take(self) noexcept nogil:
        """One record of the window, if it continues the chain."""
        cdef const char *at = self.window + (self.offset - self.base)
        cdef const Record *r = <const Record *>at
        cdef size_t i
        cdef int bad
        if self.offset + sizeof(r.length) > self.size:
            self.fault = RECORD_END
            return self.fault
        self.fault = record_check(at, self.base + self.have - self.offset, self.index + 1,
                                  self.term, self.crc)
        if self.fault != RECORD_OK:
            return self.fault
        bad = payload_fault(at)
        if bad and not self.strange:
            self.strange = r.index
            self.strange_at = self.offset
            self.newer = bad == -2
        for i in range(r.length, padded(r.length)):
            if at[i] and not self.padding:
                self.padding = self.offset
        self.index = r.index
        self.term = r.term
        self.crc = r.crc
        self.offset = self.offset + padded(r.length)
        return RECORD_OK


cdef int payload_fault(const char *record) noexcept nogil:
    """0; -1: the payload is not what its kind says; -2: it is of a newer format."""
    cdef const Record *r = <const Record *>record
    cdef size_t n = r.length - RECORD_HEADER
    cdef Command c
    cdef Members m
    cdef uint64_t jump, clock, horizon
    if r.kind == ENTRY_TICK:
        return tick_decode(record + RECORD_HEADER, n, &clock, &horizon)
    if r.kind == ENTRY_COMMAND:
        return command_decode(record + RECORD_HEADER, n, &c)
    if r.kind == ENTRY_CONFIG:
        return members_decode(record + RECORD_HEADER, n, &m)
    return jump_decode(record + RECORD_HEADER, n, &jump) if n else 0


cdef dict decoded(const char *record, uint64_t offset):
    """All that a record says. Keys and addresses are bytes, values are left out."""
    cdef const Record *r = <const Record *>record
    cdef Command c
    cdef Members m
    cdef uint64_t jump, clock, horizon
    out = {"index": r.index, "term": r.term, "kind": KINDS[r.kind], "flags": r.flags,
           "length": r.length, "offset": offset}
    if payload_fault(record):
        out["payload"] = "cannot be decoded"
    elif r.kind == ENTRY_COMMAND:
        command_decode(record + RECORD_HEADER, r.length - RECORD_HEADER, &c)
        out.update(op=OPS[c.op], session=c.session, sequence=c.sequence, floor=c.floor)
        if c.op == REGISTER:
            out.update(node=c.node, incarnation=c.incarnation, nonce=c.nonce)
        else:
            out["key"] = c.key[:c.key_size]
            if c.keyed:
                out["idempotency"] = f"{c.idempotency[0]:016x}{c.idempotency[1]:016x}"
            if c.value != NULL:
                out["value_size"] = c.value_size
    elif r.kind == ENTRY_CONFIG:
        members_decode(record + RECORD_HEADER, r.length - RECORD_HEADER, &m)
        out["promise_ms"] = m.promise_ms
        out["members"] = [
            {"id": m.id[i], "incarnation": m.incarnation[i], "flags": m.flags[i],
             "address": m.address[i][:m.address_size[i]]} for i in range(m.count)]
    elif r.kind == ENTRY_TICK:
        tick_decode(record + RECORD_HEADER, r.length - RECORD_HEADER, &clock, &horizon)
        out.update(clock_ms=clock, horizon_ms=horizon)
    elif r.length > RECORD_HEADER:
        jump_decode(record + RECORD_HEADER, r.length - RECORD_HEADER, &jump)
        out["jump"] = jump
    return out


# ------------------------------------------------------------------------------------------- pages
def slot(bytes page not None) -> tuple:
    """(0; 1: damaged; 2: of a newer format, what it says) of a slot of `meta`."""
    cdef MetaSlot s
    if len(page) != PAGE_BYTES:
        raise ValueError("not a page")
    fault = slot_decode(page, &s)
    return fault, {"sequence": s.sequence, "cluster": s.cluster, "node": s.node,
                   "incarnation": s.incarnation, "term": s.term, "vote": s.vote,
                   "dirty": s.dirty, "doubt": s.doubt, "known": s.known}


def header(bytes page not None) -> tuple:
    """(0; 1: blank; 2: damaged; 3: of a newer format, what it says) of a segment."""
    cdef SegmentHeader h
    if len(page) != PAGE_BYTES:
        raise ValueError("not a page")
    fault = header_decode(page, &h)
    return fault, {"size": h.size, "cluster": h.cluster, "incarnation": h.incarnation,
                   "epoch": h.epoch, "anchor_index": h.anchor_index, "anchor_term": h.anchor_term,
                   "anchor_crc": h.anchor_crc}


def mark(bytes page not None) -> dict | None:
    """What a mark says; None: it is no valid one."""
    cdef Position p
    cdef uint64_t sequence
    if len(page) != PAGE_BYTES:
        raise ValueError("not a page")
    if mark_decode(page, &p, &sequence):
        return None
    return {"sequence": sequence, "epoch": p.epoch, "offset": p.offset, "index": p.index,
            "term": p.term, "commit": p.commit, "crc": p.crc}


def first_crc(uint64_t cluster) -> int:
    """The checksum that the first record of a cluster continues."""
    return crc32c(&cluster, sizeof(cluster), 0)
