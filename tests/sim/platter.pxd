# Files in memory, in two tiers: cache and platter, with faults from a seed.
#
# A write changes the cache, a sync copies it to the platter. A name is created, moved or removed in
# the cache too, and on the platter once its directory is synced. A power cut keeps or loses each
# unsynced sector and each unsynced change of a name independently. While `hold` is set a sync is
# only under way: `land` ends it, with the bytes of the moment when it began; a write that follows
# it in the program is made then, and never where the process dies before. No call here runs Python,
# takes the GIL or reads a clock.
from libc.stdint cimport int64_t, uint8_t, uint64_t

from dengine._core.types cimport PAGE

cdef enum:
    SECTOR = 512                # bytes that a power cut keeps or loses together
    FILES = 640                 # inodes of one disk
    HANDLES = 640               # open at once
    PATH = 128                  # bytes of a path, with its zero
    CHANGES = 1024              # changes of names that no directory sync covers yet
    FAULTS = 64                 # armed at once
    SPARE = 32                  # buffers kept for the next files

cdef enum SectorState:
    CLEAN = 0                   # cache and platter agree
    DIRTY = 1                   # written, not synced
    LIE = 2                     # a sync of it failed: called clean, the platter has the old bytes
    FLYING = 4                  # bit: a sync of it is under way

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
    char *flight                # bytes of the sync under way
    uint8_t *sectors            # SectorState of each
    uint64_t extent             # bytes that were ever written; the rest is zeros
    uint64_t low, high          # sectors that may not be clean: low up to, not including, high
    uint64_t flight_low, flight_high
    uint64_t flight_size
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

ctypedef struct Clock:          # a node's view of simulated time
    const uint64_t *base_us     # NULL: `offset_us` alone is the time
    uint64_t offset_us
    int64_t drift_ppm

ctypedef struct State:
    uint64_t random
    uint64_t capacity           # bytes of every file
    uint64_t space              # bytes of all files together; more is ENOSPC
    Clock clock
    uint64_t sync_us            # that each sync takes
    bint forgets                # loses all that is not synced, where chance would keep some
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
    bint hold
    int flying                  # the file of the sync under way; -1
    int late                    # the file that a write waits for, which follows that sync; -1
    uint64_t late_at
    uint64_t late_size
    char late_bytes[PAGE]
    void *spare[SPARE]          # buffers of files that are gone, zeroed
    int spare_count


# What a call meets
cdef uint64_t draw(State *d) noexcept nogil
cdef const Fault *strikes(State *d, int call) noexcept nogil    # counts the call; NULL: no fault
cdef int struck(State *d, int call) noexcept nogil              # likewise; 0 or -errno
cdef int arm(State *d, int call, uint64_t nth, int error, uint64_t keep) noexcept nogil

# Names and files
cdef Name *name_of(State *d, const char *path) noexcept nogil
cdef Name *name_made(State *d, const char *path) noexcept nogil
cdef int change(State *d, const char *path, int file) noexcept nogil
cdef bint lies_in(const char *path, const char *directory) noexcept nogil
cdef int file_new(State *d) noexcept nogil
cdef File *file_at(State *d, int fd) noexcept nogil             # NULL: not open
cdef File *file_named(State *d, const char *path) noexcept nogil
cdef void release(State *d) noexcept nogil
cdef uint64_t used_space(const State *d) noexcept nogil

# Tiers
cdef void dirty(File *f, uint64_t from_, uint64_t to) noexcept nogil
cdef void take_off(State *d, int file) noexcept nogil           # a sync begins
cdef void land(State *d) noexcept nogil                         # it is complete
cdef void forget_life(State *d) noexcept nogil                  # the process dies
cdef void cut_power(State *d) noexcept nogil                    # the machine does

cdef uint64_t clock_us(const Clock *c) noexcept nogil
