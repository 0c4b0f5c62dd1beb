# Requests of asyncio tasks: a future of the caller's loop, resolved with all others of the turn in
# one call.
from libc.stdint cimport uint8_t, uint64_t

from dengine._core.turn cimport Turn
from dengine._core.types cimport Waiter


cdef class Mailbox:
    # Results on their way to one loop.
    cdef readonly object loop
    cdef Turn turn
    cdef bint direct            # the turn runs in this loop: resolve at once
    cdef list futures
    cdef list values            # a result, or a Failure


cdef class Failure:
    cdef object error           # the exception that the future raises


cdef class Task(Waiter):
    cdef Mailbox mailbox
    cdef object future
    cdef object want            # of a read: what is given for a missing key
    cdef bint whole             # of a read: an Entry instead of the value


cdef class Gate:
    # The calls of an Engine: a future per call, one wake-up per loop and turn.
    cdef readonly Turn turn     # None before `attach`
    cdef dict mailboxes         # loop -> Mailbox; never changed, only replaced, under the lock
    cdef object lock
    cdef Mailbox last           # the one used last
    cdef uint64_t timeout_us
    cdef uint8_t policy         # default of reads
    cdef bint usable            # False: not started, closed or forked; `refusal` says which

    cdef Mailbox mailbox(self)
    cdef int check(self) except -1
    cdef object begin(self, Task task, object timeout)
    cdef object write(self, uint8_t op, bytes command, object timeout)
    cdef object read(self, bytes k, object default, bint whole, object consistency,
                     object timeout)
