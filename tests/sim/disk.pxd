# A disk behind the border Io: platter.pxd's files, as a process calls them and as tests see them.
from dengine._core.types cimport Io
from tests.sim.platter cimport State


cdef class Disk:
    cdef State *state
    cdef Io io                  # what log, meta and flush are given; lives as long as the disk

    cdef int file_of(self, str path) except -1
