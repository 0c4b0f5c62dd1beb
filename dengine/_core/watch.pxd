# The longest turn of a node: CPU time of its thread, plus time inside system calls that may block.
#
# Wall time also holds what the machine gave to others and what a stopped process slept: it is kept
# beside, not judged. The CPU clock of a thread costs a system call. So it is read before a turn
# only when its last reading is older than STALE_US, or another thread's; and after a turn only when
# that may be the longest. What the thread did between that reading and the turn is counted as the
# turn's: that is STALE_US at most. The batch's write is timed with a coarse clock: what it blocked
# is right to a tick of the kernel, 1 to 4 ms.
from libc.stdint cimport uint64_t

from dengine._core.types cimport Io, unlikely

cdef extern from "<pthread.h>" nogil:
    unsigned long pthread_self()

cdef enum:
    STALE_US = 500              # 2,000 readings a second cost a thousandth of a core

ctypedef struct Watch:
    uint64_t longest_us
    uint64_t longest_wall_us
    uint64_t cpu_us             # of `thread`, at read_us
    uint64_t read_us
    uint64_t blocked_us         # what had been spent inside system calls when the turn began
    unsigned long thread

# Before and after a call that may block. 0: not measured.
cdef inline uint64_t coarse_us(const Io *io) noexcept:
    return io.coarse_us(io.ctx) if io.coarse_us != NULL else 0

cdef void look(Watch *w, const Io *io, uint64_t now_us) noexcept
cdef void judge(Watch *w, const Io *io, uint64_t wall_us, uint64_t blocked_us) noexcept

# A turn begins, or has ended; blocked_us grows with the time spent inside system calls.
cdef inline void begin_watch(Watch *w, const Io *io, uint64_t now_us, uint64_t blocked_us) noexcept:
    w.blocked_us = blocked_us
    if now_us - w.read_us > STALE_US or w.thread != pthread_self():
        look(w, io, now_us)

cdef inline void end_watch(Watch *w, const Io *io, uint64_t wall_us, uint64_t blocked_us) noexcept:
    if unlikely(wall_us > w.longest_us):
        judge(w, io, wall_us, blocked_us)
