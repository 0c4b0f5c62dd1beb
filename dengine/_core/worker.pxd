# A thread that runs jobs in the order they were submitted, and the ring it shares with the turn.
#
# Two exist per node: the flusher (writes, syncs, hard state) and the preparer (zeros for the next
# segment, reads of old ones, files and stores that go). The simulator runs the jobs itself.
from libc.stdint cimport uint64_t

from dengine._core.flush cimport Marks
from dengine._core.types cimport Io, Job, JOBS

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass

cdef struct Ring:
    # Single producer (the turn), one consumer at a time: whoever is `busy`, the worker as a rule.
    # Slot i % JOBS.
    Job jobs[JOBS]
    uint64_t head               # submitted: written by the turn with release
    uint64_t started            # begun: written by the worker, sequentially consistent
    uint64_t done               # finished: written by the consumer with release
    bint busy                   # under `lock`: somebody runs a job or refreshes the mark
    uint64_t taken              # taken back: the turn's own
    uint64_t hurry              # a late job need not wait: set by the turn, cleared by the worker
    uint64_t stop
    uint64_t failed             # errno of a sync that no job asked for: written by the worker
    int event_fd                # told after each job; -1: nobody listens
    uint64_t idle_us            # after which marks are refreshed; 0: never
    const Io *io
    Marks *marks
    pthread_mutex_t lock        # of `work`, `finished` and `busy` only
    pthread_cond_t work         # the turn submitted
    pthread_cond_t finished     # the worker finished; a Store call may wait for it
    pthread_t thread


cdef class Worker:
    cdef Ring *ring
    cdef readonly bint started
    cdef bint quiet                         # submit wakes nobody: who set it runs or kicks

    cdef int open(self, const Io *io, Marks *marks, uint64_t idle_us) except -1
    cdef int start(self, str name, int event_fd) except -1
    # finishes what was submitted, ends the thread
    cdef int stop(self) except -1
    # the next free one, zeroed; submit publishes it
    cdef Job *slot(self) except NULL
    cdef uint64_t submit(self) noexcept                 # the job's number, from 1
    # A job that unlinks path and closes fd (or -1); one that releases what `owner` points at.
    cdef int remove(self, bytes path, int fd) except -1
    cdef int release(self, void *owner, void (*release)(void *) noexcept nogil) except -1
    # False: the job has not begun, so it will see what was published before this call.
    cdef bint has_started(self, uint64_t number) noexcept
    cdef bint has_finished(self, uint64_t number) noexcept
    cdef bint has_room(self, int n) noexcept
    cdef bint idle(self) noexcept                       # nothing submitted is unfinished
    cdef void hurry(self) noexcept
    cdef Job *take(self) noexcept                       # the oldest finished job, or NULL
    cdef void give_back(self) noexcept                  # after take: frees its slot, what it owned
    # Until job `number` has finished, or for_us went by: 0 or non-zero. Call it without the GIL
    # where you can.
    cdef int wait(self, uint64_t number, uint64_t for_us) noexcept nogil
    # The oldest job, in this thread instead of the worker's: saves two wake-ups. False: somebody
    # is at it, or there is none. Without the GIL.
    cdef bint run_here(self) noexcept nogil
    cdef void kick(self) noexcept                       # the worker does what is left
    # The simulator, and a Worker that has no thread.
    cdef int run_one(self) except -1                    # 1: a job was run; 0: there is none
    cdef int run_inline(self) except -1
