# What the files of a data directory hold, for those who look at them and change nothing.
#
# A Reader opens for reading only and follows the records of one segment after another. It does not
# judge, and shares nothing with recovery but the bytes' own rules (codec, segments, flush, meta):
# so one can be compared with the other.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from dengine._core.types cimport Io


cdef class Reader:
    cdef const Io *io
    cdef char *window                   # bytes [base, base + have) of the file behind fd
    cdef int fd
    cdef uint64_t size                  # bytes of that file
    cdef uint64_t base
    cdef uint64_t have
    cdef readonly int fault             # codec.RecordFault of the record that ended it; 0: none did
    cdef readonly uint64_t offset       # after the last record that was read
    cdef readonly uint64_t index        # of that record; at first, of the anchor
    cdef readonly uint64_t term
    cdef readonly uint32_t crc
    cdef readonly uint64_t padding      # offset of the first record whose padding is not zero; 0
    cdef readonly uint64_t strange      # index of the first record whose payload is none; 0
    cdef readonly uint64_t strange_at   # its offset
    cdef readonly bint newer            # its payload is of a newer format

    cdef int get(self, int fd, char *to, size_t n, uint64_t offset) except -1
    cdef int fill(self) except -1
    cdef bint hungry(self) noexcept nogil
    cdef int take(self) noexcept nogil
