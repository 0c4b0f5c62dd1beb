# What a node finds at its start: the longest chain of records that the disk proves or returns.
from libc.stdint cimport uint32_t, uint64_t

from dengine._core.log cimport Log
from dengine._core.segments cimport Segment, SegmentHeader
from dengine._core.terms cimport Terms
from dengine._core.types cimport Position


ctypedef struct Base:
    # What the snapshot holds that the store was loaded from. All zero: there is none.
    uint64_t index              # of the last entry in it
    uint64_t term               # of that entry
    uint32_t crc
    uint64_t newest             # index of the newest snapshot there is, also if it is damaged


cdef class Found:
    cdef Terms terms
    cdef readonly uint64_t commit           # known committed, from the newest mark
    cdef readonly list configs              # indexes of configurations, ascending
    cdef readonly list notes                # what was cut and why, one sentence each
    cdef Position mark                      # newest valid one; epoch 0: none
    cdef uint64_t sequence                  # of that mark
    cdef readonly bint corrupt              # proven entries are bad or missing


cdef class Scan:
    # One pass over the segments of a log. It changes nothing before `finish`.
    cdef Log log
    cdef readonly Found found
    cdef char *window
    cdef list stale                         # names that hold nothing live
    cdef list configs                       # indexes of the configurations
    cdef set loose                          # open files that no segment owns
    cdef bint alone
    cdef object progress                    # called with bytes as they are read; or None
    cdef Base base
    cdef bint proved                        # the mark's segment was read up to the mark
    cdef str fault                          # the first bad or missing thing that a mark proves

    cdef int run(self, list names, uint64_t known) except -1
    # What is dead goes, the log can be appended to. Doubt is saved before, where it is corrupt.
    cdef int finish(self) except -1

    cdef str name(self, uint64_t epoch)
    cdef int judge(self, uint64_t known) except -1
    cdef int corrupt(self, str what) except -1
    cdef int suspect(self, str what) except -1
    cdef int open(self, uint64_t epoch) except -1
    cdef int read(self, int fd, char *to, size_t n, uint64_t offset) except -1
    cdef int read_marks(self, uint64_t epoch, int fd) except -1
    cdef set dead(self, list opened)
    cdef bint ours(self, const SegmentHeader *h, uint64_t epoch) noexcept
    cdef int leave(self, uint64_t epoch) except -1
    cdef int segment(self, uint64_t epoch, int fd, bint newest) except -1
    cdef bint reaches(self, const SegmentHeader *h) except -1
    cdef bint starts_anew(self, const SegmentHeader *h) except -1
    cdef bint holds_base(self) except -1
    cdef int restart(self, uint64_t index, uint64_t term, uint32_t crc) except -1
    cdef int drop(self) except -1
    cdef int keep_to(self, uint64_t index, uint64_t term, uint32_t crc) except -1
    cdef int records(self, Segment *s) except -1
    cdef int tidy(self) except -1
    cdef bint blank(self, int fd, uint64_t at, uint64_t size) except -1

# Reads the files `names` in the directory of an opened, empty log; entries up to `known` must be
# there, or in the snapshot `base`. `alone`: corruption is refused, for nobody else has the entries;
# else the log ends before it. Raises CorruptionError, FormatError, StorageError.
cdef Scan recover(Log log, list names, const Base *base, uint64_t known, bint alone,
                  object progress)
