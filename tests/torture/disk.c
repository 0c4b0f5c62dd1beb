/* Makes the syncs of the process it is preloaded into fail or hang, or its disk full. The first 4
   bytes of the file $TORTURE_DISK say how, at any time: 0 not at all, 1 the syncs of segments fail,
   2 all syncs fail, 3 they hang until it says something else, 4 no file grows. Built and used by
   disks.py. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FINE, SEGMENTS_FAIL, ALL_FAIL, ALL_HANG, FULL };
enum { LOOK_US = 1000 };

static volatile int32_t none, *mode = &none;

__attribute__((constructor)) static void find(void)
{
    const char *path = getenv("TORTURE_DISK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = fd < 0 ? MAP_FAILED : mmap(NULL, 4, PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (page != MAP_FAILED)
        mode = page;
}

static int is_segment(int fd)
{
    char link[64], path[4096];
    ssize_t n;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof path);
    return n > 4 && memcmp(path + n - 4, ".seg", 4) == 0;
}

int fdatasync(int fd)
{
    while (*mode == ALL_HANG)
        usleep(LOOK_US);
    if (*mode == ALL_FAIL || (*mode == SEGMENTS_FAIL && is_segment(fd))) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

static int grows(int fd, const struct iovec *parts, int n, off_t offset)
{
    struct stat st;
    int i;
    for (i = 0; i < n; i++)
        offset += parts[i].iov_len;
    return fstat(fd, &st) == 0 && offset > st.st_size;
}

ssize_t pwritev(int fd, const struct iovec *parts, int n, off_t offset)
{
    if (*mode == FULL && grows(fd, parts, n, offset)) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_pwritev, fd, parts, n, (long)offset, 0L);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int n, off_t offset)
{
    return pwritev(fd, parts, n, offset);
}
