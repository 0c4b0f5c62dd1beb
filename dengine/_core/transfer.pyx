"""Transfers of snapshots: what is asked for next, where it is kept. See transfer.pxd."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset, strerror

from dengine._core.fault cimport FAILPOINT, MUTANT
from dengine._core.snapshot cimport SnapshotHeader
from dengine._core.types cimport (JOB_READ, JOB_SYNC, JOB_WRITE, PAGE, PIECE, PIECE_AGAIN_US,
                                  PIECE_EVERY_US, SNAPSHOT_RETRY_US, SNAPSHOT_SYNC)

from os import fsdecode

from dengine._core.snapshot import snapshot_name
from dengine.errors import CorruptionError, StorageError

PART = ".part"                  # behind the name of a snapshot that has not all arrived

cdef extern from "<fcntl.h>" nogil:
    int O_RDONLY, O_RDWR, O_CREAT, O_CLOEXEC, O_NOFOLLOW

cdef enum:
    MODE = 0o600
    PATIENCE = 4                # times what the last piece took: a slow connection is no lost one
    WAIT_US = 30000000          # at most


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
        self.idempotency = self.reader.idempotency
        self.publish()
        return False

    cdef int begin(self) except -1:
        """Opens the file, syncs it (a part of before a restart may never have been) and reads it
        from the disk, not from the cache."""
        cdef SnapshotReader reader = SnapshotReader()
        cdef SnapshotHeader *h = &reader.header
        cdef int error = 0
        self.kv = KV()
        try:
            reader.open(self.io, self.temporary, self.kv)
            self.reader = reader
            with nogil:
                if not MUTANT(116):
                    error = -self.io.fdatasync(self.io.ctx, reader.fd)
                if error == 0:
                    error = -self.io.drop(self.io.ctx, reader.fd, 0, reader.size)
            self.check(error, "synced")
            if (h.index != self.offer.index or h.term != self.offer.term
                    or h.last_crc != self.offer.last_crc or h.cluster != self.cluster):
                raise CorruptionError(f"{fsdecode(self.temporary)} is not the snapshot that the "
                                      "leader offered")
        except CorruptionError:
            self.discard()
            raise
        return 0

    cdef int discard(self) except -1:
        """Nothing of it is of use."""
        cdef const char *temporary = self.temporary
        with nogil:
            self.io.unlink(self.io.ctx, temporary)
        return 0

    cdef int publish(self) except -1:
        """Its name is durable before the log that it replaces goes."""
        cdef bytes path = self.directory + b"/" + snapshot_name(self.offer.index).encode()
        cdef const char *name = path
        cdef const char *temporary = self.temporary
        cdef const char *directory = self.directory
        cdef int error
        self.reader.close()
        with nogil:
            error = FAILPOINT(b"transfer.rename") or -self.io.rename(self.io.ctx, temporary, name)
            if error == 0 and not MUTANT(117):
                error = (FAILPOINT(b"transfer.renamed")
                         or -self.io.sync_dir(self.io.ctx, directory))
        self.check(error, "given its name")
        self.complete = True
        return 0

    cdef int check(self, int error, str what) except -1:
        if error:
            raise StorageError(f"{fsdecode(self.temporary)} could not be {what}: "
                               f"{strerror(error).decode()}; it is tried again; make room or mend "
                               "the disk")
        return 0

    cpdef int close(self) except -1:
        if self.reader is not None:
            self.reader.close()
        return 0


cdef class Transfer:
    def __cinit__(self):
        cdef int i
        self.fd = -1
        self.wait_us = PIECE_AGAIN_US
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
            self.sources[i].reading = False     # nobody does any more
            self.let_go(i)
        if self.fd >= 0:
            self.io.close(self.io.ctx, self.fd)
            self.fd = -1
        return 0

    # -------------------------------------------------------------------------------- the leader
    cdef int ask(self, int slot, uint64_t number, const PieceFields *asked,
                 uint64_t now_us) noexcept:
        self.sources[slot].number = number
        self.sources[slot].asked_us = now_us
        self.sources[slot].asked = asked[0]
        self.sources[slot].asked.bytes = NULL           # it has none
        self.asking |= <uint32_t>1 << slot
        return 0

    cdef int serve(self, uint64_t now_us, uint64_t last) except -2:
        """A piece takes the time of many writes: where there are any, pieces are spread out."""
        cdef int slot
        if now_us < self.next_us and last != self.last:
            return -1
        for slot in range(MAX_MEMBERS):
            if self.asking >> slot & 1:
                self.asking &= ~(<uint32_t>1 << slot)
                self.next_us = now_us + PIECE_EVERY_US
                self.last = last
                return -1 if self.read(slot) else slot
        return -1

    cdef bint read(self, int slot) except -1:
        cdef Source *s = &self.sources[slot]
        cdef Piece *p
        cdef Job *job
        cdef uint64_t size
        if s.reading or not self.preparer.has_room(1):
            return True                         # it asks again
        if not self.find(slot) or s.asked.offset >= s.size:
            return False
        size = min(<uint64_t>PIECE, s.size - s.asked.offset)
        p = <Piece *>malloc(sizeof(Piece) + size)
        if p == NULL:
            raise MemoryError
        p.slot = slot
        p.number = s.number
        p.index = s.index
        p.header_crc = s.header_crc
        p.offset = s.asked.offset
        p.size = size
        job = self.preparer.slot()
        job.kind = JOB_READ
        job.tag = TRANSFER
        job.fd = s.fd
        job.offset = p.offset
        job.iov[0].iov_base = p.bytes
        job.iov[0].iov_len = size
        job.owned = p
        s.reading = True
        self.preparer.submit()
        return True

    cdef bint find(self, int slot) except -1:
        """Is the file open that is asked for? Once it is, it may be unlinked."""
        cdef Source *s = &self.sources[slot]
        cdef SnapshotHeader h
        cdef int64_t size
        cdef bytes path
        if s.index != s.asked.index or s.header_crc != s.asked.header_crc:
            self.let_go(slot)
        if s.fd >= 0:
            return True
        path = self.directory + b"/" + snapshot_name(s.asked.index).encode()
        s.fd = self.io.open(self.io.ctx, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0)
        size = self.io.size(self.io.ctx, s.fd) if s.fd >= 0 else -1
        if (size < <int64_t>PAGE
                or self.io.pread(self.io.ctx, s.fd, &h, sizeof(h), 0) != sizeof(h)
                or h.crc != s.asked.header_crc):        # that of another node has this index too
            self.let_go(slot)
            return False
        s.index = s.asked.index
        s.header_crc = h.crc
        s.size = <uint64_t>size
        return True

    cdef Piece *was_read(self, const Job *job) noexcept:
        cdef Piece *p = <Piece *>job.owned
        self.sources[p.slot].reading = False
        if job.error:
            self.let_go(p.slot)
        return NULL if job.error else p

    cdef int let_go(self, int slot) noexcept:
        cdef Source *s = &self.sources[slot]
        if s.reading:
            return 0
        if s.fd >= 0:
            self.io.close(self.io.ctx, s.fd)
        s.fd = -1
        s.index = 0
        return 0

    # ------------------------------------------------------------------------------ the follower
    cdef bytes part(self, uint64_t index):
        return self.directory + b"/" + (snapshot_name(index) + PART).encode()

    cdef int reconnected(self) noexcept:
        self.due_us = 0
        self.wait_us = PIECE_AGAIN_US
        return 0

    cdef bint offered(self, const Offer *offer, uint64_t commit, uint64_t now_us) except -1:
        if now_us < self.again_us or self.loader is not None or self.writing:
            return False
        if self.offer.index <= commit or (MUTANT(168) and offer.index != self.offer.index):
            self.forget()
            self.failed(self.begin(offer), now_us)
        if self.offer.index == 0 or self.complete() or now_us < self.due_us:
            return False
        if self.due_us == 0:
            self.asked_us = now_us
        self.due_us = now_us + self.wait_us
        self.wait_us = min(2 * self.wait_us, <uint64_t>WAIT_US)
        return True

    cdef int begin(self, const Offer *offer) except -1:
        """A part of the same file, from before a restart, is gone on with; others go. An errno."""
        cdef str own = snapshot_name(offer.index) + PART
        for name in self.parts:
            if name != own and self.preparer.has_room(1):
                self.preparer.remove(self.directory + b"/" + name.encode(), -1)
        self.parts = [own]
        self.offer = offer[0]
        self.fd = self.io.open(self.io.ctx, self.part(offer.index),
                               O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, MODE)
        if self.fd < 0:
            return -self.fd
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
        if n == 0:
            self.forget()
            return None
        if n > PIECE or n > self.offer.size - self.have:
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
        if self.unsynced >= SNAPSHOT_SYNC:      # the rest is synced before it is loaded
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
        if self.failed(job.error, now_us):
            return False
        self.have += job.iov[0].iov_len
        self.received += job.iov[0].iov_len
        self.wait_us = min(max(<uint64_t>PIECE_AGAIN_US, PATIENCE * (now_us - self.asked_us)),
                           <uint64_t>WAIT_US)
        self.asked_us = now_us
        self.due_us = now_us + self.wait_us
        return not self.complete()

    cdef bint failed(self, int error, uint64_t now_us) except -1:
        """Of the disk: somebody must hear of it, and it is tried again later."""
        if error:
            self.notes.append(
                f"{fsdecode(self.part(self.offer.index))}, the snapshot that the leader sends, "
                f"could not be written: {strerror(error).decode()}; this node lags until it can "
                "be, and tries again; make room or mend the disk")
            self.ended(False, now_us)
        return error != 0

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
            self.again_us = now_us + SNAPSHOT_RETRY_US
        return self.forget()

    cdef int forget(self) except -1:
        if self.fd >= 0:
            self.io.close(self.io.ctx, self.fd)
        self.fd = -1
        self.loader = None
        memset(&self.offer, 0, sizeof(self.offer))
        self.have = self.unsynced = 0
        return self.reconnected()
