# The hot HTTP protocol: one Connection per socket, one HttpServer for all of them.
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from posix.time cimport timespec

from dengine._core.answer cimport PROBLEMS, Out, Shape
from dengine._core.request cimport KINDS, Limits, RequestReader
from dengine._core.turn cimport Turn
from dengine._core.types cimport Item, Waiter

cdef extern from "<time.h>" nogil:
    int CLOCK_BOOTTIME
    int clock_gettime(int clock, timespec *now)

cdef inline uint64_t now_us() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_BOOTTIME, &now)
    return <uint64_t>now.tv_sec * 1000000 + <uint64_t>now.tv_nsec // 1000

cdef enum:
    SLICE = 4096                # bytes parsed at once: what they ask is queued, whatever the limits
    HELD = 64 << 10             # bytes kept for one connection before it must wait
    REFUSED = 64                # connections beyond the limit that are told so; more are dropped

cdef enum SlotState:
    QUEUED = 0                  # read, not begun
    RUNNING = 1                 # the turn has it
    DONE = 2                    # `answer` waits for the answers before it


@cython.final
cdef class Slot(Waiter):
    # One request and its place in the order of answers.
    cdef Connection connection  # None: the client is gone
    cdef Slot next              # asked after this one
    cdef bytes answer           # once DONE
    cdef Shape shape
    cdef uint8_t kind
    cdef uint8_t state


@cython.final
cdef class Connection(RequestReader):
    cdef HttpServer server
    cdef object transport       # None: closed
    cdef uint64_t since         # sweep of the server at which the phase began
    cdef bytes tail             # received, parsed up to `tail_at`; None: nothing
    cdef size_t tail_at
    # requests under way, in order
    cdef Slot first
    cdef Slot last
    cdef uint32_t depth
    cdef size_t held            # bytes of their commands and answers
    # flow
    cdef bint paused            # the peer does not read: nothing is begun or written
    cdef size_t unsent          # bytes in the transport when it was last looked at while paused
    cdef bint reading           # from the socket
    cdef bint lingers           # ENDED: more may be coming in, read it so that the answer arrives
    cdef bint busy              # inside work
    cdef bint dirty             # in server.dirty

    # the driver
    cdef int work(self) except -1
    cdef bint must_wait(self) noexcept
    cdef int feed_slice(self) except -1
    cdef int settle(self) except -1
    cdef int steer(self) except -1
    cdef int leave(self) except -1
    # requests
    cdef int read(self, bytes key) except -1
    cdef int read_now(self, bytes key, uint8_t policy, Shape shape) except -1
    cdef int give_problem(self, int problem) except -1
    cdef int refuse(self, int problem) except -1
    # the queue
    cdef Slot add(self, uint8_t state)
    cdef int give(self, bytes answer) except -1
    cdef bytes cut(self, size_t before)
    cdef int begin(self) except -1
    cdef int start(self, Slot slot) except -1
    cdef int finish(self, Slot slot, int status, uint64_t revision, const Item *item) except -1
    cdef int flush(self) except -1
    cdef int sweep(self) except -1


@cython.final
cdef class HttpServer:
    cdef Turn turn
    cdef object loop
    cdef Out out                # answers of the connection at work, in order
    cdef set open               # connections
    cdef list dirty             # with new answers, for the next flush
    cdef object timer           # of the sweep; None: there was no connection
    cdef object empty           # future: completed when the last connection of a drain is gone
    cdef uint64_t sweeps
    cdef Limits limits          # `last` while draining
    cdef uint64_t request_timeout_us
    cdef double sweep_s
    cdef uint64_t idle_sweeps
    cdef uint64_t header_sweeps
    cdef uint32_t max_connections
    cdef uint32_t max_pipeline
    cdef uint64_t counts[KINDS][PROBLEMS]       # answers

    cdef int mark(self, Connection connection) except -1
    cdef int forget(self, Connection connection) except -1
    cdef int arm(self) except -1
