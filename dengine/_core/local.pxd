# The blocking store of one voter: no loop, no hand-over. The calling thread runs the turn; where a
# write must wait for the disk it waits without the GIL, and one of the waiting threads at a time
# drives the turn for all.
from libc.stdint cimport uint8_t, uint64_t

from dengine._core.turn cimport Turn
from dengine._core.types cimport Item, Waiter

cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass


cdef class Call(Waiter):
    # One blocking write. `told` is posted when it is done, and to pass on the driving.
    cdef bint finished
    cdef int status
    cdef uint64_t revision
    cdef sem_t told


cdef class LocalStore:
    cdef readonly Turn turn
    cdef bint usable            # False: closed, failed or forked; `refuse` says which
    cdef bint forked
    cdef bint syncs             # DiskFirst: each write waits for the disk
    cdef object driver          # the Call whose thread waits for the flusher
    cdef unsigned long driving  # that thread
    cdef list waiting           # Calls that wait and do not drive

    cdef int find(self, object key, const Item **item) except -1
    cdef Call write(self, uint8_t op, bytes command)
    cdef int wait(self, Call call) except -1
    cdef int drive(self, Call call) except -1
    cdef bint flush_alone(self) except -1
    cdef int sleep_for(self, uint64_t number) except -1
    cdef int failed(self, Call call) except -1
    cdef int refuse(self) except -1
