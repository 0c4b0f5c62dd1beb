"""Transfers of snapshots: what is asked for next, where it is kept. See transfer.pxd."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset, strerror

from dengine._core.fault cimport FAILPOINT, MUTANT
from dengine._core.snapshot cimport SnapshotHeader, remove
from dengine._core.types cimport JOB_READ, JOB_SYNC, JOB_WRITE, PAGE, SNAPSHOT_SYNC

from os import fsdecode

from dengine._core.snapshot import snapshot_name
from dengine.errors import CorruptionError, StorageError

PART = ".part"                  # behind the name of a snapshot that has not all arrived

cdef extern from "<fcntl.h>" nogil:
    int O_RDONLY, O_RDWR, O_CREAT, O_CLOEXEC, O_NOFOLLOW

cdef enum:
    MODE = 0o600
    RETRY_US = 10000000         # after an error of the disk


cdef class Loader(Work):
    cpdef bint step(self) except -1:
        if self.reader is None:
            self.begin()
            return True
        try:
            if self.reader.step():
                return True
        except CorruptionError:                 # what was not synced may be lost: from the start
            self.discard()
            raise
        self.engine = self.reader.engine
        self.publish()
        return False

    def begin(self):
        """Opens the file and reads it from the disk, not from the cache."""
        cdef SnapshotReader reader = SnapshotReader()
        cdef SnapshotHeader *h = &reader.header
        self.kv = KV()
        try:
            reader.open(self.io, self.temporary, self.kv)
            self.io.drop(self.io.ctx, reader.fd, 0, reader.size)
            if (h.index != self.offer.index or h.term != self.offer.term
                    or h.last_crc != self.offer.last_crc or h.cluster != self.cluster):
                raise CorruptionError(f"{fsdecode(self.temporary)} is not the snapshot that the "
                                      "leader offered")
        except CorruptionError:
            self.discard()
            raise
        self.reader = reader

    def discard(self):
        """Nothing of it is of use."""
        self.io.unlink(self.io.ctx, self.temporary)

    def publish(self):
        """Its name is durable before the log that it replaces goes."""
        cdef bytes path = self.directory + b"/" + snapshot_name(self.offer.index).encode()
        cdef int error
        self.reader.close()
        error = FAILPOINT(b"transfer.rename") or -self.io.rename(self.io.ctx, self.temporary, path)
        if error == 0 and not MUTANT(117):
            error = (FAILPOINT(b"transfer.renamed")
                     or -self.io.sync_dir(self.io.ctx, self.directory))
        if error:
            raise StorageError(f"{fsdecode(self.temporary)} could not be given its name: "
                               f"{strerror(error).decode()}; it is tried again; make room or mend "
                               "the disk")
        self.complete = True

    cpdef int close(self) except -1:
        if self.reader is not None:
            self.reader.close()
        return 0


cdef class Transfer:
    def __cinit__(self):
        cdef int i
        self.fd = -1
        for i in range(MAX_MEMBERS):
            self.sources[i].fd = -1

    cdef int open(self, const Io *io, bytes directory, list names, uint64_t cluster,
                  Worker preparer) except -1:
        self.io = io
        self.directory = directory
        self.cluster = cluster
        self.preparer = preparer
        self.parts = [n for n in names if n.endswith(PART)]
        return 0

    cdef int close(self) except -1:
        cdef int i
        for i in range(MAX_MEMBERS):
            self.let_go(i)
        if self.fd >= 0:
            self.io.close(self.io.ctx, self.fd)
            self.fd = -1
        return 0

    # -------------------------------------------------------------------------------- the leader
    cdef bint read(self, int slot, uint64_t number, uint64_t index, uint32_t header_crc,
                   uint64_t offset) except -1:
        cdef Source *s = &self.sources[slot]
        cdef bytes path
        cdef Piece *p
        cdef Job *job
        cdef int64_t size
        cdef bint last
        if s.reading or not self.preparer.has_room(1):
            return False
        if s.index != index:
            self.let_go(slot)
        if s.fd < 0:
            path = self.directory + b"/" + snapshot_name(index).encode()
            s.fd = self.io.open(self.io.ctx, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0)
            s.index = index
        size = self.io.size(self.io.ctx, s.fd) if s.fd >= 0 else -1
        if size < 0 or offset >= <uint64_t>size:
            return False
        last = size - <int64_t>offset <= PIECE
        size = min(<int64_t>PIECE, size - <int64_t>offset)
        p = <Piece *>malloc(sizeof(Piece) + size)
        if p == NULL:
            raise MemoryError
        p.slot = slot
        p.number = number
        p.index = index
        p.header_crc = header_crc
        p.offset = offset
        p.size = size
        p.last = last
        job = self.preparer.slot()
        job.kind = JOB_READ
        job.tag = TRANSFER
        job.fd = s.fd
        job.offset = offset
        job.iov[0].iov_base = p.bytes
        job.iov[0].iov_len = size
        job.owned = p
        s.reading = True
        self.preparer.submit()
        return True

    cdef Piece *was_read(self, const Job *job) noexcept:
        cdef Piece *p = <Piece *>job.owned
        self.sources[p.slot].reading = False
        if job.error or p.last:
            self.let_go(p.slot)
        return NULL if job.error else p

    cdef int let_go(self, int slot) noexcept:
        if self.sources[slot].fd >= 0:
            self.io.close(self.io.ctx, self.sources[slot].fd)
        self.sources[slot].fd = -1
        return 0

    # ------------------------------------------------------------------------------ the follower
    cdef bytes part(self, uint64_t index):
        return self.directory + b"/" + (snapshot_name(index) + PART).encode()

    cdef bint offered(self, const Offer *offer, uint64_t now_us) except -1:
        if now_us < self.again_us or self.loader is not None or self.writing:
            return False
        if offer.index != self.offer.index or offer.header_crc != self.offer.header_crc:
            self.forget()
            self.begin(offer)
        if self.complete() or now_us < self.due_us:
            return False
        self.due_us = now_us + ASK_AGAIN_US
        return True

    cdef int begin(self, const Offer *offer) except -1:
        """A part of the same file, from before a restart, is gone on with; others go."""
        cdef str own = snapshot_name(offer.index) + PART
        remove(self.io, self.directory, [n for n in self.parts if n != own])
        self.parts = [own]
        self.offer = offer[0]
        self.fd = self.io.open(self.io.ctx, self.part(offer.index),
                               O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, MODE)
        if self.fd < 0:
            self.offer.index = 0
            return 0
        self.have = self.resumed()
        return 0

    cdef uint64_t resumed(self) noexcept:
        """Bytes that a part holds of the offered file."""
        cdef SnapshotHeader h
        cdef int64_t size = self.io.size(self.io.ctx, self.fd)
        if size < PAGE or self.io.pread(self.io.ctx, self.fd, &h, sizeof(h), 0) != sizeof(h):
            return 0
        if h.crc != self.offer.header_crc or h.index != self.offer.index:
            return 0
        return min(<uint64_t>size, self.offer.size)

    cdef object arrived(self, uint64_t index, uint32_t header_crc, uint64_t offset,
                        const char *bytes, size_t n):
        cdef Job *job
        cdef char *copy
        if (index != self.offer.index or header_crc != self.offer.header_crc or self.writing
                or offset != self.have or self.fd < 0 or self.complete()):
            return None                         # asked for twice, or of a transfer that is over
        if n == 0 or n > PIECE or n > self.offer.size - self.have:
            return "a piece of a snapshot with a length that was not asked for"
        if not self.preparer.has_room(1):
            return None
        copy = <char *>malloc(n)
        if copy == NULL:
            raise MemoryError
        memcpy(copy, bytes, n)
        job = self.preparer.slot()
        job.kind = JOB_WRITE
        self.unsynced += n
        if self.unsynced >= SNAPSHOT_SYNC or self.have + n == self.offer.size:
            job.kind |= JOB_SYNC
            self.unsynced = 0
        job.tag = TRANSFER
        job.fd = self.fd
        job.offset = offset
        job.parts = 1
        job.iov[0].iov_base = copy
        job.iov[0].iov_len = n
        job.owned = copy
        self.writing = True
        FAILPOINT(b"transfer.write")
        self.preparer.submit()
        return None

    cdef bint was_written(self, const Job *job, uint64_t now_us) except -1:
        self.writing = False
        if job.error:
            self.again_us = now_us + RETRY_US
            self.forget()
            return False
        self.have += job.iov[0].iov_len
        self.received += job.iov[0].iov_len
        self.due_us = now_us + ASK_AGAIN_US
        return not self.complete()

    cdef bint complete(self) noexcept:
        return self.offer.index != 0 and self.have == self.offer.size

    cdef Loader load(self):
        cdef Loader loader = Loader()
        loader.io = self.io
        loader.directory = self.directory
        loader.temporary = self.part(self.offer.index)
        loader.cluster = self.cluster
        loader.offer = self.offer
        loader.index = self.offer.index
        loader.size = self.offer.size
        self.loader = loader
        return loader

    cdef int ended(self, bint complete, uint64_t now_us) except -1:
        if not complete:
            self.again_us = now_us + RETRY_US
        return self.forget()

    cdef int forget(self) except -1:
        if self.fd >= 0:
            self.io.close(self.io.ctx, self.fd)
        self.fd = -1
        self.loader = None
        memset(&self.offer, 0, sizeof(self.offer))
        self.have = self.unsynced = self.due_us = 0
        return 0
