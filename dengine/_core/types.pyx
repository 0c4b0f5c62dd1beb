"""The two borders that are classes: where a result goes, and one peer connection."""


cdef class Waiter:
    cdef int done(self, int status, uint64_t revision, const Item *item) except -1:
        raise NotImplementedError


cdef class Link:
    cdef int send(self, const iovec *parts, int n) except -1:
        raise NotImplementedError

    cdef int close(self) except -1:
        raise NotImplementedError
