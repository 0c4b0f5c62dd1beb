/* Shifts the wall clock of the process it is preloaded into, and no other clock: CLOCK_REALTIME has
   no namespace. The shift in microseconds is the first 8 bytes of the file $CHAOS_WALL, which the
   chaos runner writes at any time. Built and used by nodes.py. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t none, *shift = &none;

__attribute__((constructor)) static void find(void)
{
    const char *path = getenv("CHAOS_WALL");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = fd < 0 ? MAP_FAILED : mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (page != MAP_FAILED)
        shift = page;
}

int clock_gettime(clockid_t which, struct timespec *out)
{
    int64_t us;
    int failed = (int)syscall(SYS_clock_gettime, which, out);
    if (failed || (which != CLOCK_REALTIME && which != CLOCK_REALTIME_COARSE))
        return failed;
    us = out->tv_sec * 1000000LL + out->tv_nsec / 1000 + *shift;
    out->tv_nsec = us % 1000000 * 1000 + out->tv_nsec % 1000;
    out->tv_sec = us / 1000000;
    return 0;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now))
        return -1;
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now))
        return -1;
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}
