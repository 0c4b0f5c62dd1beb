"""System calls as the border Io wants them: -errno instead of errno, EINTR tried again."""
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t

from dengine._core.types cimport iovec

cdef extern from "<fcntl.h>" nogil:
    int c_open "open"(const char *path, int flags, ...)
    int posix_fadvise(int fd, long offset, long n, int advice)
    int POSIX_FADV_DONTNEED, O_DIRECTORY, O_RDONLY, O_CLOEXEC

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)
    int c_fdatasync "fdatasync"(int fd)
    int c_fsync "fsync"(int fd)
    int c_unlink "unlink"(const char *path)
    int64_t c_pread "pread"(int fd, void *to, size_t n, long offset)

cdef extern from "<stdio.h>" nogil:
    int c_rename "rename"(const char *old, const char *new)

cdef extern from "<sys/uio.h>" nogil:
    int64_t c_pwritev "pwritev"(int fd, const iovec *parts, int n, long offset)

cdef extern from "<sys/stat.h>" nogil:
    struct stat_t "stat":
        int64_t st_size
    int fstat(int fd, stat_t *to)

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *at, size_t n, int protection, int flags, int fd, long offset)
    int munmap(void *at, size_t n)
    int PROT_READ, MAP_SHARED
    void *MAP_FAILED

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *to)
    int CLOCK_BOOTTIME, CLOCK_THREAD_CPUTIME_ID, CLOCK_MONOTONIC_COARSE


cdef int do_open(void *ctx, const char *path, int flags, int mode) noexcept nogil:
    cdef int fd
    while True:
        fd = c_open(path, flags, mode)
        if fd >= 0 or errno != EINTR:
            return fd if fd >= 0 else -errno


cdef int do_close(void *ctx, int fd) noexcept nogil:
    return 0 if c_close(fd) == 0 or errno == EINTR else -errno


cdef int64_t do_pwritev(void *ctx, int fd, const iovec *parts, int n,
                        int64_t offset) noexcept nogil:
    cdef int64_t wrote
    while True:
        wrote = c_pwritev(fd, parts, n, offset)
        if wrote >= 0 or errno != EINTR:
            return wrote if wrote >= 0 else -errno


cdef int64_t do_pread(void *ctx, int fd, void *to, size_t n, int64_t offset) noexcept nogil:
    cdef int64_t got
    while True:
        got = c_pread(fd, to, n, offset)
        if got >= 0 or errno != EINTR:
            return got if got >= 0 else -errno


cdef int do_fdatasync(void *ctx, int fd) noexcept nogil:
    return 0 if c_fdatasync(fd) == 0 else -errno        # never tried again, whatever the error


cdef int do_rename(void *ctx, const char *old, const char *new) noexcept nogil:
    return 0 if c_rename(old, new) == 0 else -errno


cdef int do_unlink(void *ctx, const char *path) noexcept nogil:
    return 0 if c_unlink(path) == 0 else -errno


cdef int do_sync_dir(void *ctx, const char *path) noexcept nogil:
    cdef int fd = do_open(ctx, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)
    if fd < 0:
        return fd
    cdef int result = 0 if c_fsync(fd) == 0 else -errno
    c_close(fd)
    return result


cdef int64_t do_size(void *ctx, int fd) noexcept nogil:
    cdef stat_t st
    return st.st_size if fstat(fd, &st) == 0 else -errno


cdef int do_drop(void *ctx, int fd, int64_t offset, int64_t n) noexcept nogil:
    return -posix_fadvise(fd, offset, n, POSIX_FADV_DONTNEED)


cdef void *do_map(void *ctx, int fd, size_t n) noexcept nogil:
    cdef void *at = mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0)
    return NULL if at == MAP_FAILED else at


cdef int do_unmap(void *ctx, void *at, size_t n) noexcept nogil:
    return 0 if munmap(at, n) == 0 else -errno


cdef uint64_t read_us(int clock) noexcept nogil:
    cdef timespec t
    clock_gettime(clock, &t)
    return <uint64_t>t.tv_sec * 1000000 + <uint32_t>t.tv_nsec // 1000   # below 2^30


cdef uint64_t do_now_us(void *ctx) noexcept nogil:
    return read_us(CLOCK_BOOTTIME)


cdef uint64_t do_cpu_us(void *ctx) noexcept nogil:
    return read_us(CLOCK_THREAD_CPUTIME_ID)


cdef uint64_t do_coarse_us(void *ctx) noexcept nogil:
    return read_us(CLOCK_MONOTONIC_COARSE)


cdef Io KERNEL
KERNEL.ctx = NULL
KERNEL.open = do_open
KERNEL.close = do_close
KERNEL.pwritev = do_pwritev
KERNEL.pread = do_pread
KERNEL.fdatasync = do_fdatasync
KERNEL.rename = do_rename
KERNEL.unlink = do_unlink
KERNEL.sync_dir = do_sync_dir
KERNEL.size = do_size
KERNEL.drop = do_drop
KERNEL.map = do_map
KERNEL.unmap = do_unmap
KERNEL.now_us = do_now_us
KERNEL.cpu_us = do_cpu_us
KERNEL.coarse_us = do_coarse_us


cdef const Io *kernel() noexcept nogil:
    return &KERNEL
