# Identity and hard state: who this node is, and what it may never forget.
#
# The file `meta` has two slots in separate blocks. A save writes slot 0, syncs (messages may now
# rely on it), writes slot 1, syncs: at rest both are equal, so one bad slot is always covered. meta
# decides the bytes; the turn decides when, and the flusher writes.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from dengine._core.flush cimport HardState
from dengine._core.types cimport Io, PAGE

cdef enum:
    META_FORMAT = 1

cdef packed struct MetaSlot:
    uint64_t magic
    uint32_t format
    uint32_t crc                # of what follows
    uint64_t sequence           # of the save; grows by one
    uint64_t cluster
    uint64_t node
    uint64_t incarnation        # random, of this data directory
    uint8_t boot_id[16]         # of the kernel that ran the node at its last start
    uint8_t dirty               # 1: that run acknowledged from the page cache
    uint8_t doubt               # 1: it may have forgotten what it acknowledged
    uint16_t zero
    uint32_t zero2
    uint64_t term
    uint64_t vote
    uint64_t known              # an entry that was committed and on this disk: never cut again

# 0; 1: damaged; 2: a newer format.
cdef int slot_decode(const char *page, MetaSlot *out) noexcept nogil


cdef class Meta:
    cdef const Io *io
    cdef int fd
    cdef MetaSlot state
    cdef uint64_t start                 # sequence of the save that began this run; 0: not yet
    cdef HardState hard                                 # for the flusher
    cdef bytes path
    cdef bytes notice                                   # path of hard.notice

    # Opens or creates. Raises FormatError, CorruptionError (both slots bad), StorageError.
    cdef int open(self, const Io *io, bytes directory) except -1
    cdef int create(self, const Io *io, bytes directory, uint64_t cluster, uint64_t node,
                    uint64_t incarnation, bytes boot_id, bint mem_first) except -1
    # All three save both slots in the calling thread, while no worker writes.
    # before the first message; `alone`: nobody asks which start this is
    cdef int begin(self, bytes boot_id, bint mem_first, bint alone) except -1
    cdef int doubt(self) except -1                      # before what is corrupt is written over
    cdef int end(self, uint64_t known) except -1        # a clean stop: all is synced
    # A new page for `term` and `vote`, malloced: the caller frees it once both slots are written.
    cdef char *page(self, uint64_t term, uint64_t vote) except NULL
    cdef int save_now(self) except -1
    cdef int close(self) except -1

    # private
    cdef int ready(self) except -1
    cdef int write(self, char *page, int slot) except -1
    cdef int check(self, int error, str what) except -1
