"""How long a turn took: see watch.pxd. It knows clocks; it does not know what a turn does."""


cdef void look(Watch *w, const Io *io, uint64_t now_us) noexcept:
    w.read_us = now_us
    w.thread = pthread_self()
    w.cpu_us = io.cpu_us(io.ctx) if io.cpu_us != NULL else 0


cdef void judge(Watch *w, const Io *io, uint64_t wall_us, uint64_t blocked_us) noexcept:
    cdef uint64_t took = wall_us
    if wall_us > w.longest_wall_us:
        w.longest_wall_us = wall_us
    if io.cpu_us != NULL:
        # The CPU time of a system call counts twice; no turn is longer than its wall time.
        took = min(took, io.cpu_us(io.ctx) - w.cpu_us + blocked_us - w.blocked_us)
    if took > w.longest_us:
        w.longest_us = took
