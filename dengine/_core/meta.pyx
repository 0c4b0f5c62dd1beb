"""Identity and hard state of a node in one small file. It knows no log and no consensus."""
from libc.errno cimport ENOENT
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strerror

from dengine._core.crc cimport crc32c
from dengine._core.types cimport iovec

from dengine.errors import CorruptionError, FormatError, StorageError

cdef extern from "<fcntl.h>" nogil:
    int O_RDWR, O_CREAT, O_EXCL, O_CLOEXEC, O_NOFOLLOW

cdef enum:
    CRC_FROM = 16
    MODE = 0o600

cdef uint64_t MAGIC = 0x6174656D656E6764    # "dgnemeta"


cdef int slot_decode(const char *page, MetaSlot *out) noexcept nogil:
    """0; 1: damaged; 2: a newer format."""
    memcpy(out, page, sizeof(MetaSlot))
    if out.magic != MAGIC:
        return 1
    if out.format > META_FORMAT:
        return 2
    if out.crc != crc32c(page + CRC_FROM, sizeof(MetaSlot) - CRC_FROM, 0) or out.format == 0:
        return 1
    return 2 if out.dirty or out.doubt or out.zero or out.zero2 else 0


cdef class Meta:
    def __cinit__(self):
        self.fd = -1
        memset(&self.state, 0, sizeof(self.state))

    cdef int open(self, const Io *io, bytes directory) except -1:
        cdef char pages[2 * PAGE]
        cdef MetaSlot slot
        cdef int i, fault, good = 0, newer = 0
        cdef int64_t got
        self.io = io
        self.path = directory + b"/meta"
        self.fd = io.open(io.ctx, self.path, O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0)
        if self.fd < 0:
            raise self.failure("opened", -self.fd)
        memset(pages, 0, sizeof(pages))
        got = io.pread(io.ctx, self.fd, pages, sizeof(pages), 0)
        if got < 0:
            raise self.failure("read", <int>-got)
        for i in range(2):
            fault = slot_decode(pages + i * PAGE, &slot)
            newer |= fault == 2
            if fault == 0:
                if good == 0 or slot.sequence > self.state.sequence:
                    self.state = slot
                good += 1
        if newer:
            raise FormatError(f"{self.path.decode()} is of a newer format: nothing was changed; "
                              "use the dengine version that wrote it, or a later one")
        if good == 0:
            raise CorruptionError(
                f"{self.path.decode()}: both copies of the hard state are damaged, so this node's "
                "vote is lost; nothing was changed; restore the file from a backup, or remove the "
                "directory and let the node join again empty")
        return 0

    cdef int create(self, const Io *io, bytes directory, uint64_t cluster, uint64_t node,
                    uint64_t incarnation) except -1:
        cdef int error
        self.io = io
        self.path = directory + b"/meta"
        cdef bytes new = self.path + b".new"
        io.unlink(io.ctx, new)
        self.fd = io.open(io.ctx, new, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, MODE)
        if self.fd < 0:
            raise self.failure("created", -self.fd)
        self.state.magic = MAGIC
        self.state.format = META_FORMAT
        self.state.cluster = cluster
        self.state.node = node
        self.state.incarnation = incarnation
        self.save_now()
        error = -io.rename(io.ctx, new, self.path)
        if error == 0:
            error = -io.sync_dir(io.ctx, directory)
        if error:
            raise self.failure("created", error)
        return 0

    cdef char *page(self, uint64_t term, uint64_t vote) except NULL:
        cdef char *page = <char *>malloc(PAGE)
        if page == NULL:
            raise MemoryError
        self.state.sequence += 1
        self.state.term = term
        self.state.vote = vote
        memset(page, 0, PAGE)
        memcpy(page, &self.state, sizeof(MetaSlot))
        cdef MetaSlot *slot = <MetaSlot *>page
        slot.crc = crc32c(page + CRC_FROM, sizeof(MetaSlot) - CRC_FROM, 0)
        return page

    cdef int save_now(self) except -1:
        cdef char *page = self.page(self.state.term, self.state.vote)
        cdef iovec part
        cdef int64_t wrote = PAGE
        cdef int i, error = 0
        for i in range(2):
            part.iov_base = page
            part.iov_len = PAGE
            wrote = self.io.pwritev(self.io.ctx, self.fd, &part, 1, i * PAGE)
            if wrote == PAGE:
                error = -self.io.fdatasync(self.io.ctx, self.fd)
            if wrote != PAGE or error:
                break
        free(page)
        if wrote != PAGE:
            raise self.failure("written", <int>-wrote if wrote < 0 else 28)
        if error:
            raise self.failure("synced", error)
        return 0

    cdef int close(self) except -1:
        if self.fd >= 0:
            self.io.close(self.io.ctx, self.fd)
            self.fd = -1
        return 0

    def failure(self, str what, int error):
        """The StorageError of a failed call."""
        reason = strerror(error).decode()
        return StorageError(f"{self.path.decode()} could not be {what}: {reason}; the node does "
                            "not run without its hard state; nothing acknowledged is lost")
