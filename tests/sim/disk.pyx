"""A disk in memory that forgets, fails and lies as a seed says: see disk.pxd."""
from libc.errno cimport EBADF, EBUSY, EEXIST, EFBIG, EMFILE, ENOENT, ENOSPC
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from dengine._core.types cimport PAGE, iovec
from tests.sim.platter cimport (CALL_CLOSE, CALL_DROP, CALL_MAP, CALL_OPEN, CALL_READ, CALL_RENAME,
                                CALL_SIZE, CALL_SYNC, CALL_SYNC_DIR, CALL_UNLINK, CALL_UNMAP,
                                CALL_WRITE, CLEAN, DIRTY, FILES, HANDLES, LIE, SECTOR, Fault,
                                File, Name, State, arm, change, clock_us, cut_power, dirty, draw,
                                file_at, file_new, forget_life, land, lies_in, name_made, name_of,
                                release, strikes, struck, take_off, used_space)

cdef extern from "<fcntl.h>" nogil:
    int O_CREAT, O_EXCL, O_TRUNC

cdef extern from *:
    """
    extern int mallopt(int, int);   /* <malloc.h> clashes with live.h in a debug build */
    #define M_MMAP_THRESHOLD (-3)
    """
    const int M_MMAP_THRESHOLD
    int mallopt(int parameter, int value) nogil

# Each file a mapping of its own, zeros at no cost and given back: in the heap, where the C library
# puts them once the first is freed, they are cleared by hand and keep gigabytes.
mallopt(M_MMAP_THRESHOLD, 1 << 20)

CALL_NAMES = ("open", "close", "write", "read", "sync", "rename", "unlink", "sync_dir", "size",
              "drop", "map", "unmap")


# ------------------------------------------------------------------------------------- border Io
cdef int do_open(void *ctx, const char *path, int flags, int mode) noexcept nogil:
    cdef State *d = <State *>ctx
    cdef Name *name = name_of(d, path)
    cdef int error = struck(d, CALL_OPEN), file, at
    cdef File *f
    if error:
        return error
    if name == NULL or name.file < 0:
        if not flags & O_CREAT:
            return -ENOENT
        file = file_new(d)
        if file < 0:
            return file
        error = change(d, path, file)
        if error:
            return error
    elif flags & O_EXCL:
        return -EEXIST
    else:
        file = name.file
    f = &d.files[file]
    for at in range(HANDLES):
        if d.handles[at].file < 0:
            break
    else:
        return -EMFILE
    if flags & O_TRUNC:
        memset(f.cache, 0, f.size)
        dirty(f, 0, f.size)
        f.size = 0
    d.handles[at].file = file
    f.handles += 1
    return <int>(d.life * HANDLES) + at


cdef int do_close(void *ctx, int fd) noexcept nogil:
    cdef State *d = <State *>ctx
    cdef File *f = file_at(d, fd)
    cdef int error = struck(d, CALL_CLOSE)
    if f == NULL:
        return -EBADF
    d.handles[fd % HANDLES].file = -1
    f.handles -= 1
    return error


cdef bint zeros(const char *at, size_t n) noexcept nogil:
    return n == 0 or (at[0] == 0 and memcmp(at, at + 1, n - 1) == 0)


cdef int64_t do_pwritev(void *ctx, int fd, const iovec *parts, int n,
                        int64_t offset) noexcept nogil:
    cdef State *d = <State *>ctx
    cdef File *f = file_at(d, fd)
    cdef const Fault *fault = strikes(d, CALL_WRITE)
    cdef uint64_t at = offset, left = <uint64_t>-1, size = 0
    cdef int i
    if f == NULL:
        return -EBADF
    if fault != NULL:
        if fault.error:
            return -fault.error
        left = fault.keep
    for i in range(n):
        size += parts[i].iov_len
    if at + size > f.size and at + size - f.size > d.space - used_space(d):
        return -ENOSPC
    if d.hold and d.flying >= 0:                # it comes after the sync that is under way
        if d.late >= 0 or n != 1 or size > PAGE or at + size > f.size:
            return -EBUSY
        d.late = d.handles[fd % HANDLES].file
        d.late_at = at
        d.late_size = min(size, left)
        memcpy(d.late_bytes, parts[0].iov_base, d.late_size)
        return d.late_size
    for i in range(n):
        size = parts[i].iov_len if parts[i].iov_len < left else left
        if at + size > d.capacity:
            return -EFBIG
        if at < f.extent or not zeros(<const char *>parts[i].iov_base, size):
            memcpy(f.cache + at, parts[i].iov_base, size)
            dirty(f, at, at + size)             # else both tiers hold zeros there already
        at += size
        left -= size
    if at > f.size:
        f.size = at
    return <int64_t>at - offset


cdef int64_t do_pread(void *ctx, int fd, void *to, size_t n, int64_t offset) noexcept nogil:
    cdef State *d = <State *>ctx
    cdef File *f = file_at(d, fd)
    cdef int error = struck(d, CALL_READ)
    if f == NULL or error:
        return -EBADF if f == NULL else error
    if <uint64_t>offset >= f.size:
        return 0
    if n > f.size - offset:
        n = f.size - offset
    memcpy(to, f.cache + offset, n)
    return n


cdef int do_fdatasync(void *ctx, int fd) noexcept nogil:
    """All of the file; where it fails, what did not reach the platter is called clean as well."""
    cdef State *d = <State *>ctx
    cdef File *f = file_at(d, fd)
    cdef int error = struck(d, CALL_SYNC), file
    cdef uint64_t i
    if d.clock.base_us == NULL:
        d.clock.offset_us += d.sync_us
    if f == NULL:
        return -EBADF
    file = d.handles[fd % HANDLES].file
    if error == 0:
        take_off(d, file)
        if not d.hold:
            land(d)
        return 0
    land(d)
    for i in range(f.low, f.high):
        if f.sectors[i] != DIRTY:
            continue
        if d.forgets or draw(d) & 1:
            f.sectors[i] = LIE
        else:
            memcpy(f.platter + i * SECTOR, f.cache + i * SECTOR, SECTOR)
            f.sectors[i] = CLEAN
    if not d.forgets and draw(d) & 1:
        f.synced_size = f.size
    return error


cdef int do_rename(void *ctx, const char *old, const char *new) noexcept nogil:
    cdef State *d = <State *>ctx
    cdef Name *name = name_of(d, old)
    cdef int error = struck(d, CALL_RENAME), file
    if error == 0 and (name == NULL or name.file < 0):
        error = -ENOENT
    if error:
        return error
    file = name.file
    error = change(d, new, file)
    return error if error else change(d, old, -1)


cdef int do_unlink(void *ctx, const char *path) noexcept nogil:
    cdef State *d = <State *>ctx
    cdef Name *name = name_of(d, path)
    cdef int error = struck(d, CALL_UNLINK)
    if error == 0 and (name == NULL or name.file < 0):
        error = -ENOENT
    return error if error else change(d, path, -1)


cdef int do_sync_dir(void *ctx, const char *path) noexcept nogil:
    cdef State *d = <State *>ctx
    cdef int error = struck(d, CALL_SYNC_DIR), i, kept = 0
    if d.clock.base_us == NULL:
        d.clock.offset_us += d.sync_us
    if error:
        return error
    for i in range(d.change_count):
        if lies_in(d.changes[i].path, path):
            name_made(d, d.changes[i].path).synced_file = d.changes[i].file
        else:
            d.changes[kept] = d.changes[i]
            kept += 1
    d.change_count = kept
    release(d)
    return 0


cdef int64_t do_size(void *ctx, int fd) noexcept nogil:
    cdef State *d = <State *>ctx
    cdef File *f = file_at(d, fd)
    cdef int error = struck(d, CALL_SIZE)
    if error:
        return error
    return -EBADF if f == NULL else <int64_t>f.size


cdef int do_drop(void *ctx, int fd, int64_t offset, int64_t n) noexcept nogil:
    """What the kernel calls clean is read from the platter again."""
    cdef State *d = <State *>ctx
    cdef File *f = file_at(d, fd)
    cdef int error = struck(d, CALL_DROP)
    cdef uint64_t i
    if f == NULL or error:
        return -EBADF if f == NULL else error
    for i in range(<uint64_t>offset // SECTOR, <uint64_t>(offset + n + SECTOR - 1) // SECTOR):
        if i < d.capacity // SECTOR and f.sectors[i] == LIE:
            memcpy(f.cache + i * SECTOR, f.platter + i * SECTOR, SECTOR)
            f.sectors[i] = CLEAN
    return 0


cdef void *do_map(void *ctx, int fd, size_t n) noexcept nogil:
    cdef State *d = <State *>ctx
    cdef File *f = file_at(d, fd)
    cdef int error = struck(d, CALL_MAP)
    return NULL if f == NULL or error or n > d.capacity else f.cache


cdef int do_unmap(void *ctx, void *at, size_t n) noexcept nogil:
    return struck(<State *>ctx, CALL_UNMAP)


cdef uint64_t do_now_us(void *ctx) noexcept nogil:
    return clock_us(&(<State *>ctx).clock)


# ------------------------------------------------------------------------------- for Python
cdef class Disk:
    """A disk whose behaviour follows from `seed`; a file holds up to `capacity` bytes."""

    def __cinit__(self, uint64_t seed=0, uint64_t capacity=2 << 20):
        cdef int i
        self.state = <State *>calloc(1, sizeof(State))
        if self.state == NULL:
            raise MemoryError
        self.state.random = seed
        self.state.capacity = (capacity + SECTOR - 1) // SECTOR * SECTOR
        self.state.space = <uint64_t>-1
        self.state.flying = -1
        self.state.late = -1
        self.state.clock.offset_us = 1000000
        for i in range(HANDLES):
            self.state.handles[i].file = -1
        self.io = Io(
            ctx=self.state, open=do_open, close=do_close, pwritev=do_pwritev, pread=do_pread,
            fdatasync=do_fdatasync, rename=do_rename, unlink=do_unlink, sync_dir=do_sync_dir,
            size=do_size, drop=do_drop, map=do_map, unmap=do_unmap, now_us=do_now_us,
            cpu_us=NULL, coarse_us=NULL)

    def __dealloc__(self):
        cdef int i
        if self.state != NULL:
            for i in range(FILES):
                free(self.state.files[i].cache)
            for i in range(self.state.spare_count):
                free(self.state.spare[i])
            free(self.state)

    # ------------------------------------------------------------------------------- faults
    def kill(self):
        """The process dies: its descriptors go, the page cache stays."""
        forget_life(self.state)

    def power_cut(self):
        """Each unsynced sector and each unsynced change of a name is kept or lost."""
        cut_power(self.state)

    def fail(self, str call, int nth, int error, uint64_t keep=0):
        """The nth call of this kind from now on (1: the next) fails with `error`."""
        if arm(self.state, CALL_NAMES.index(call), nth, error, keep):
            raise ValueError("too many faults at once")

    def shorten(self, int nth, uint64_t keep):
        """The nth write from now on stops after `keep` bytes."""
        self.fail("write", nth, 0, keep)

    def fill(self, uint64_t left):
        """Room for so many bytes more."""
        self.state.space = used_space(self.state) + left

    def free(self):
        """As much room as anybody wants."""
        self.state.space = <uint64_t>-1

    def mend(self):
        """No call fails any more."""
        self.state.fault_count = 0

    def calls(self, str call) -> int:
        """How many calls of this kind there were."""
        return self.state.calls[CALL_NAMES.index(call)]

    def advance(self, uint64_t us):
        """The clock goes on."""
        self.state.clock.offset_us += us

    @property
    def now_us(self) -> int:
        return clock_us(&self.state.clock)

    @property
    def open_files(self) -> int:
        return sum(self.state.handles[i].file >= 0 for i in range(HANDLES))

    # ------------------------------------------------------------------------------- contents
    cdef int file_of(self, str path) except -1:
        cdef Name *name = name_of(self.state, path.encode())
        if name == NULL or name.file < 0:
            raise FileNotFoundError(path)
        return name.file

    def names(self, str directory) -> list[str]:
        """The names in a directory, sorted."""
        cdef bytes prefix = directory.encode()
        return sorted(self.state.names[i].path.decode()[len(directory) + 1:]
                      for i in range(self.state.name_count)
                      if self.state.names[i].file >= 0
                      and lies_in(self.state.names[i].path, prefix))

    def read(self, str path) -> bytes:
        """A file as the process sees it."""
        cdef File *f = &self.state.files[self.file_of(path)]
        return f.cache[:f.size]

    def durable(self, str path) -> bytes:
        """What of a file is on the platter."""
        cdef File *f = &self.state.files[self.file_of(path)]
        return f.platter[:f.synced_size]

    def put(self, str path, bytes data not None):
        """A file with these bytes, synced, as if it had always been there."""
        cdef State *d = self.state
        cdef Name *name = name_made(d, path.encode())
        if name == NULL or <uint64_t>len(data) > d.capacity:
            raise ValueError("no room on this disk")
        if name.file < 0:
            name.file = file_new(d)
        name.synced_file = name.file
        cdef File *f = &d.files[name.file]
        memset(f.cache, 0, f.extent)
        memset(f.platter, 0, f.extent)
        memcpy(f.cache, <const char *>data, len(data))
        memcpy(f.platter, <const char *>data, len(data))
        memset(f.sectors, CLEAN, d.capacity // SECTOR)
        f.low, f.high = d.capacity // SECTOR, 0
        f.flight_low = f.flight_high = 0
        f.size = f.synced_size = len(data)
        f.extent = max(f.extent, f.size)

    def leave(self, str path, bytes data not None):
        """A file that a process wrote, and did not sync before it died; its name is durable."""
        cdef File *f
        self.put(path, data)
        f = &self.state.files[self.file_of(path)]
        memset(f.platter, 0, f.extent)
        f.synced_size = 0
        dirty(f, 0, len(data))

    def write(self, str path, uint64_t offset, bytes data not None):
        """Bytes change in cache and platter behind everybody's back."""
        cdef File *f = &self.state.files[self.file_of(path)]
        if offset + len(data) > f.size:
            raise ValueError("beyond the end of the file")
        memcpy(f.cache + offset, <const char *>data, len(data))
        memcpy(f.platter + offset, <const char *>data, len(data))

    def flip(self, str path, uint64_t bit):
        """One bit changes in cache and platter."""
        self.write(path, bit // 8, bytes([self.read(path)[bit // 8] ^ 1 << bit % 8]))

    def truncate(self, str path, uint64_t size):
        """The file ends at `size`, in cache and platter."""
        self.put(path, self.read(path)[:size])

    def remove(self, str path):
        """The name goes, in cache and platter, where it is there; so does the file."""
        cdef Name *name = name_of(self.state, path.encode())
        if name != NULL:
            name.file = name.synced_file = -1
            release(self.state)

    def files(self) -> dict[str, bytes]:
        """Every file as the process sees it."""
        return {self.state.names[i].path.decode(): self.read(self.state.names[i].path.decode())
                for i in range(self.state.name_count) if self.state.names[i].file >= 0}
