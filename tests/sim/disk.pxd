# A disk behind the border Io: files in memory, as cache and as platter, with faults from a seed.
#
# A write changes the cache, a sync copies it to the platter. A name is created, moved or removed in
# the cache too, and on the platter once its directory is synced. A power cut keeps or loses each
# unsynced sector and each unsynced change of a name independently. No call here runs Python, takes
# the GIL or reads a clock.
from libc.stdint cimport int64_t, uint8_t, uint64_t

from dengine._core.types cimport Io

cdef enum:
    SECTOR = 512                # bytes that a power cut keeps or loses together
    FILES = 512                 # inodes of one disk
    HANDLES = 512               # open at once
    PATH = 128                  # bytes of a path, with its zero
    CHANGES = 1024              # changes of names that no directory sync covers yet
    FAULTS = 16                 # armed at once

cdef enum SectorState:
    CLEAN = 0                   # cache and platter agree
    DIRTY = 1                   # written, not synced
    LIE = 2                     # a sync of it failed: called clean, the platter has the old bytes

cdef enum Call:
    CALL_OPEN = 0
    CALL_CLOSE = 1
    CALL_WRITE = 2
    CALL_READ = 3
    CALL_SYNC = 4
    CALL_RENAME = 5
    CALL_UNLINK = 6
    CALL_SYNC_DIR = 7
    CALL_SIZE = 8
    CALL_DROP = 9
    CALL_MAP = 10
    CALL_UNMAP = 11
    CALLS = 12

ctypedef struct File:
    bint used
    char *cache                 # `capacity` bytes, never moved: maps point into it
    char *platter
    uint8_t *sectors            # SectorState of each
    uint64_t size               # bytes, in the cache
    uint64_t synced_size        # bytes, on the platter
    int handles

ctypedef struct Name:           # file -1: this tier has no such name
    char path[PATH]
    int file
    int synced_file

ctypedef struct Change:         # one name that came (file) or went (-1), in order
    char path[PATH]
    int file

ctypedef struct Handle:
    int file                    # -1: closed

ctypedef struct Fault:
    uint8_t call
    uint64_t at                 # the number of the call that it strikes
    int error                   # errno; 0: a write that stops after `keep` bytes
    uint64_t keep

ctypedef struct State:
    uint64_t random
    uint64_t capacity           # bytes of every file
    uint64_t now_us
    uint64_t sync_us            # that each sync takes
    uint64_t life               # grows with each crash: descriptors of an earlier life are dead
    uint64_t calls[CALLS]
    File files[FILES]
    Name names[FILES]
    int name_count
    Change changes[CHANGES]
    int change_count
    Handle handles[HANDLES]
    Fault faults[FAULTS]
    int fault_count


cdef class Disk:
    cdef State *state
    cdef Io io                  # what log, meta and flush are given; lives as long as the disk

    cdef int file_of(self, str path) except -1
