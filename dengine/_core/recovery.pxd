# What a node finds at its start: the longest chain of records that the disk proves or returns.
from libc.stdint cimport uint64_t

from dengine._core.log cimport Log
from dengine._core.terms cimport Terms
from dengine._core.types cimport Position


cdef class Found:
    cdef Terms terms
    cdef readonly uint64_t commit           # known committed, from the newest mark
    cdef readonly uint64_t config           # index of the configuration; 0: none
    cdef readonly list notes                # what was cut and why, one sentence each
    cdef Position mark                      # newest valid one; epoch 0: none
    cdef uint64_t sequence                  # of that mark

# Fills an opened, empty log from the files `names` in its directory; entries up to `known` must be
# there. Raises CorruptionError, FormatError, StorageError.
cdef Found recover(Log log, list names, uint64_t known)
