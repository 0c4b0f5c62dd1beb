"""Identity and hard state of a node in one small file. It knows no log and no consensus."""
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset, strerror

from dengine._core.crc cimport crc32c
from dengine._core.fault cimport FORMAT, MUTANT
from dengine._core.flush cimport write_all
from dengine._core.types cimport iovec

from os import fsdecode

from dengine.errors import CorruptionError, FormatError, StorageError

cdef extern from "<fcntl.h>" nogil:
    int O_RDWR, O_CREAT, O_EXCL, O_CLOEXEC, O_NOFOLLOW

cdef enum:
    CRC_FROM = 16
    MODE = 0o600

cdef uint64_t MAGIC = 0x6174656D656E6764    # "dgnemeta"

NOTICES = b"/dev/shm"           # lost with the kernel, as the page cache is


cdef int slot_decode(const char *page, MetaSlot *out) noexcept nogil:
    """0; 1: damaged; 2: a newer format."""
    memcpy(out, page, sizeof(MetaSlot))
    if out.magic != MAGIC:
        return 1
    if out.format > FORMAT(META_FORMAT):
        return 2
    if out.crc != crc32c(page + CRC_FROM, sizeof(MetaSlot) - CRC_FROM, 0) or out.format == 0:
        return 1
    return 2 if out.dirty > 1 or out.doubt > 1 or out.zero or out.zero2 else 0


cdef void slot_seal(char *page) noexcept nogil:
    (<MetaSlot *>page).crc = crc32c(page + CRC_FROM, sizeof(MetaSlot) - CRC_FROM, 0)


cdef void slot_doubt(char *page) noexcept nogil:
    cdef MetaSlot *slot = <MetaSlot *>page
    slot.sequence += 1
    slot.doubt = 1
    slot_seal(page)


cdef class Meta:
    def __cinit__(self):
        self.fd = -1
        memset(&self.state, 0, sizeof(self.state))

    cdef int open(self, const Io *io, bytes directory) except -1:
        cdef char pages[2 * PAGE]
        cdef MetaSlot slots[2]
        cdef int faults[2]
        cdef int i, best = -1
        cdef int64_t got
        self.io = io
        self.path = directory + b"/meta"
        self.fd = io.open(io.ctx, self.path, O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0)
        self.check(-self.fd if self.fd < 0 else 0, "opened")
        self.check(-io.fdatasync(io.ctx, self.fd), "synced")    # what is read is what the disk has
        io.drop(io.ctx, self.fd, 0, sizeof(pages))
        memset(pages, 0, sizeof(pages))
        got = io.pread(io.ctx, self.fd, pages, sizeof(pages), 0)
        self.check(<int>-got if got < 0 else 0, "read")
        for i in range(2):
            faults[i] = slot_decode(pages + i * PAGE, &slots[i])
            if faults[i] == 0 and (best < 0 or MUTANT(67)
                                   or slots[i].sequence > slots[best].sequence):
                best = i
        for i in range(2):
            if faults[i] == 2 and (best < 0 or slots[i].sequence > slots[best].sequence):
                raise FormatError(f"{fsdecode(self.path)} is of a newer format: nothing was "
                                  "changed; use the dengine version that wrote it, or a later one")
        if best < 0:
            raise CorruptionError(
                f"{fsdecode(self.path)}: both copies of the hard state are damaged, so this node's "
                "vote is lost; nothing was changed; a node alone: restore a backup; one of a "
                "cluster: let `dengine rejoin` ask the others")
        self.state = slots[best]
        if (faults[1 - best] or slots[1 - best].sequence != self.state.sequence) and not MUTANT(68):
            self.write(pages + best * PAGE, 1 - best)   # a save always begins with two good slots
        memcpy(self.hard.page, pages + best * PAGE, PAGE)
        return self.ready()

    cdef int ready(self) except -1:
        self.notice = b"%s/dengine-%016x.doubt" % (NOTICES, self.state.incarnation)
        self.hard.notice = self.notice
        self.hard.doubt = slot_doubt
        self.hard.fd = self.fd
        return 0

    cdef int create(self, const Io *io, bytes directory, uint64_t cluster, uint64_t node,
                    uint64_t incarnation, bytes boot_id, bint mem_first) except -1:
        self.io = io
        self.path = directory + b"/meta"
        cdef bytes new = self.path + b".new"
        io.unlink(io.ctx, new)
        self.fd = io.open(io.ctx, new, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, MODE)
        self.check(-self.fd if self.fd < 0 else 0, "created")
        self.state.magic = MAGIC
        self.state.format = FORMAT(META_FORMAT)
        self.state.cluster = cluster
        self.state.node = node
        self.state.incarnation = incarnation
        memcpy(self.state.boot_id, <const char *>boot_id, sizeof(self.state.boot_id))
        self.state.dirty = mem_first
        self.save_now()
        self.check(-io.rename(io.ctx, new, self.path), "created")
        self.check(-io.sync_dir(io.ctx, directory), "created")
        self.start = self.state.sequence
        return self.ready()

    cdef int begin(self, bytes boot_id, bint mem_first, bint alone) except -1:
        """Doubt: the run before acknowledged from a page cache that another kernel had."""
        cdef MetaSlot was = self.state
        cdef int notice = self.io.open(self.io.ctx, self.notice, O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0)
        if notice >= 0:
            self.io.close(self.io.ctx, notice)
        if ((was.dirty if not MUTANT(98) else mem_first)
                and memcmp(was.boot_id, <const char *>boot_id, sizeof(was.boot_id))) or notice >= 0:
            self.state.doubt = not MUTANT(99)
        memcpy(self.state.boot_id, <const char *>boot_id, sizeof(was.boot_id))
        self.state.dirty = mem_first
        self.state.format = FORMAT(META_FORMAT)
        if (not alone and self.start == 0) or memcmp(&was, &self.state, sizeof(was)):
            self.save_now()
        self.start = self.state.sequence
        if MUTANT(99):
            self.state.doubt = memcmp(was.boot_id, self.state.boot_id, sizeof(was.boot_id)) != 0
        if notice >= 0:
            self.io.unlink(self.io.ctx, self.notice)
        return 0

    cdef int doubt(self) except -1:
        self.state.doubt = 1
        return self.save_now()

    cdef int end(self, uint64_t known) except -1:
        if not self.state.dirty and known <= self.state.known:
            return 0
        self.state.dirty = 0
        self.state.known = max(known, self.state.known)
        if MUTANT(96):
            self.state.doubt = 0
        return self.save_now()

    cdef char *page(self, uint64_t term, uint64_t vote) except NULL:
        cdef char *page = <char *>malloc(PAGE)
        if page == NULL:
            raise MemoryError
        self.state.sequence += 1
        self.state.term = term
        self.state.vote = vote
        memset(page, 0, PAGE)
        memcpy(page, &self.state, sizeof(MetaSlot))
        slot_seal(page)
        return page

    cdef int save_now(self) except -1:
        cdef char *page = self.page(self.state.term, self.state.vote)
        cdef int slot
        try:
            for slot in range(2):
                self.write(page, slot)
            memcpy(self.hard.page, page, PAGE)
        finally:
            free(page)
        return 0

    cdef int write(self, char *page, int slot) except -1:
        """One slot, synced."""
        cdef iovec part
        part.iov_base = page
        part.iov_len = PAGE
        self.check(write_all(self.io, self.fd, &part, 1, slot * PAGE), "written")
        return self.check(-self.io.fdatasync(self.io.ctx, self.fd), "synced")

    cdef int close(self) except -1:
        if self.fd >= 0:
            self.io.close(self.io.ctx, self.fd)
            self.fd = -1
        return 0

    cdef int check(self, int error, str what) except -1:
        if error:
            raise StorageError(
                f"{fsdecode(self.path)} could not be {what}: {strerror(error).decode()}; the node "
                "does not run without its hard state; nothing acknowledged is lost")
        return 0
