"""The borders that are classes: where a result goes, one connection; what a whole read gives."""
from collections import namedtuple

# value: bytes. mod_revision: when the key was last changed. revision: of the store when it was
# read.
Entry = namedtuple("Entry", "value mod_revision revision", module="dengine")


cdef class Waiter:
    cdef int done(self, int status, uint64_t revision, const Item *item) except -1:
        raise NotImplementedError


cdef class Link:
    cdef int send(self, const iovec *parts, int n) except -1:
        raise NotImplementedError

    cdef int close(self) except -1:
        raise NotImplementedError


cdef class Work:
    cpdef bint step(self) except -1:
        raise NotImplementedError

    cpdef int close(self) except -1:
        raise NotImplementedError
