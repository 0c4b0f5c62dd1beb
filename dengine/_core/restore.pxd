"""A data directory made from a snapshot, or only its `meta`. See restore.pyx."""
from libc.stdint cimport uint64_t

from dengine._core.types cimport Io


cdef int renew(const Io *io, bytes directory, object setup, uint64_t term,
               uint64_t start) except -1
