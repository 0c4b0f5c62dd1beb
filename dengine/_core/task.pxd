# Requests of asyncio tasks: a future of the caller's loop, resolved with all others of the turn in one call.
from libc.stdint cimport uint8_t, uint64_t

from dengine._core.turn cimport Turn
from dengine._core.types cimport Waiter


cdef class Mailbox:
    # Results on their way to one loop.
    cdef readonly object loop
    cdef bint direct            # the turn runs in this loop: resolve at once
    cdef list futures
    cdef list values            # a result, or the exception to raise


cdef class Task(Waiter):
    cdef Mailbox mailbox
    cdef object future
    cdef object want            # of a read: what is given for a missing key


cdef class Gate:
    # What an Engine's calls go through: a future per call, one wake-up per loop and turn.
    cdef readonly Turn turn
    cdef dict mailboxes         # loop -> Mailbox
    cdef Mailbox last           # the one used last
    cdef uint64_t timeout_us
    cdef uint8_t policy         # default of reads
    cdef bint usable
    cdef public object refusal  # makes the exception that calls raise when not usable

    cdef Mailbox mailbox(self)
    cdef object begin(self, Task task, double timeout)
    cdef object write(self, uint8_t op, bytes command, double timeout)
