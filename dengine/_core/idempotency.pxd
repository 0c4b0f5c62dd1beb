# Results of writes under an Idempotency-Key, kept for a while: a copy of a write is answered with
# the result of the first, whichever node it comes through.
#
# A queue in the order of apply, in chunks, with a hash index by key. It is part of the replicated
# state: what it holds, and when something goes, follows from the log alone. Time is replicated
# (Session.clock_ms), and says before which time a result may go (`horizon`). Chunks are shared with
# the thread that writes a snapshot: what a pin covers is never written again.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from dengine._core.codec cimport Command

cdef enum:
    CHUNK = 4096                # results in a chunk
    CHUNKS = 1024               # twice what is needed: a place is free long before it comes again
    TABLES = 1024               # of the index, each small: one that grows stops no turn

ctypedef struct Kept:           # 48 bytes, in a snapshot too
    uint64_t key[2]             # hash of the Idempotency-Key
    uint64_t print              # of the request: another one under the same key is refused
    uint64_t revision
    uint64_t clock_ms           # replicated time of its apply
    uint64_t status

ctypedef struct Chunk:
    int32_t refs                # atomic; the last one frees
    Kept kept[CHUNK]

ctypedef struct Table:          # open addressing, linear probing
    uint32_t *place             # in the queue, from 1; 0: empty
    uint32_t mask               # its size less 1
    uint32_t count


cdef class Answers:
    # What a snapshot holds: results `at` to `next` of the queue, pinned.
    cdef Chunk *chunks[CHUNKS]
    cdef uint64_t next
    cdef uint64_t at                        # the next one that is written
    # At most `limit` results that lie in one piece; how many. 0: that was all.
    cdef uint64_t take(self, uint64_t limit, const Kept **out) noexcept


cdef class Idempotency:
    cdef Chunk *chunks[CHUNKS]              # by number of result / CHUNK, modulo CHUNKS
    cdef Table tables[TABLES]               # by hash
    # of this process: who chooses the keys cannot choose where they collide
    cdef uint64_t seed[2]
    cdef uint64_t first                     # the oldest result
    cdef uint64_t next                      # the number of the next one
    cdef uint64_t horizon_ms                # results of before may go

    cdef uint64_t count(self) noexcept
    # The result under the key of `c`; NULL: there is none.
    cdef const Kept *find(self, const Command *c) noexcept
    # False: full of results that are needed still.
    cdef bint has_room(self) except -1
    # After `find` said none, and `has_room` yes.
    cdef int add(self, const Kept *k) except -1
    # Time goes on: of what is older than the horizon at most `limit` results go.
    cdef int drop(self, uint64_t limit) noexcept
    cdef Answers pin(self)

    # private
    cdef uint64_t hash(self, const uint64_t *key) noexcept      # 32 bits
    cdef Kept *kept(self, uint64_t number) noexcept
    cdef int grow(self, Table *t) except -1
    cdef int forget(self, const Kept *k) noexcept
