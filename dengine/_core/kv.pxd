# The store: a hash table for point reads, the tree for order, revisions.
#
# kv knows keys, values and revisions; it knows no Raft, no sessions, no bytes of commands. Every
# change is made under the GIL; point reads are plain calls under the GIL.
#
# The table is a directory of small buckets (extendible hashing): a full bucket splits in two by one
# more bit of its keys' hashes. So growth touches no Item and stops the store for 5 to 10 us; only
# the directory, 8 bytes for some 250 keys, is copied whole when it doubles. The hash is SipHash-1-3
# under a random key of this table: who chooses the keys cannot choose where they collide.
#
# Invariants (the tests check them):
# - the tree and the table hold the same `count` Items; the tree owns them, the table borrows them;
# - a bucket of depth d stands in 2^(depth - d) successive places of the directory, those that begin
#   with the d leading bits that the hashes of all its keys share;
# - a slot is empty if and only if its hash is 0, and no empty slot lies between a key's home, the
#   low bits of its hash, and the slot where it stands;
# - an Item with mod_revision > `pinned` is in no pinned generation. With no reference but the
#   tree's it is overwritten in place: the one exception to "an Item is immutable".
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t

from dengine._core.tree cimport Cursor, Node
from dengine._core.types cimport Item

cdef enum:
    BUCKET_SLOTS = 512          # 6 KiB; a power of two
    BUCKET_KEYS = 384           # load 3/4: looking for a missing key reads 8.5 hashes on average
    DIRECTORY_BITS = 23         # of the 32 of a hash, 9 choose the slot: room for 3 * 10^9 keys

ctypedef struct Bucket:
    uint32_t count
    uint32_t depth
    uint32_t hash[BUCKET_SLOTS]
    Item *item[BUCKET_SLOTS]    # NULL where the hash is 0


ctypedef struct Remains:        # of a store that is not used any more
    Node *root
    Bucket **directory
    uint32_t depth

# Of all that `remains` points at, itself too. To free a large store takes long: on any thread.
cdef void remains_free(void *remains) noexcept nogil


cdef class KV:
    cdef readonly uint64_t revision     # of the newest change; +1 per command that changed a key
    cdef readonly size_t count          # keys
    cdef uint64_t pinned                # revision of the newest pin
    cdef Node *root
    cdef Bucket **directory             # 2^depth of them
    cdef uint32_t depth
    cdef uint64_t seed[2]

    # Borrowed: valid until the next change, while the GIL is held. NULL: no such key.
    cdef const Item *get(self, const char *key, uint32_t key_size) noexcept
    # Both make the change at revision + 1 and advance it. MemoryError: nothing was changed.
    cdef int put(self, const char *key, uint32_t key_size, const char *value, uint32_t value_size,
                 uint64_t lease) except -1
    cdef int delete(self, const char *key, uint32_t key_size) except -1     # 1 deleted, 0 missing
    # Adds a key above all others, as it was in another store: revisions, version and lease of the
    # item, and `revision` in the end, are the caller's to set. MemoryError: nothing was changed.
    cdef Item *append(self, const char *key, uint32_t key_size,
                      const char *value, uint32_t value_size) except NULL
    cpdef Pin pin(self)
    # What it holds, malloced, for remains_free; the store is worth nothing afterwards.
    cdef Remains *give_up(self) except NULL
    # A digest of all keys, values and revisions: equal on nodes that applied the same entries.
    cpdef uint64_t digest(self) except? 0

    cdef int split(self, uint32_t hash) except -1
    cdef int double_directory(self) except -1


cdef inline bytes value_of(const Item *item):
    return PyBytes_FromStringAndSize(item.data + item.key_size, item.value_size)


cdef class Pin:
    # A generation of the tree: the items in key order as they were when it was taken, whatever is
    # changed after. `root` may be walked on any thread without the GIL while the Pin lives.
    cdef Node *root
    cdef readonly uint64_t revision
    cdef readonly size_t count

    cpdef Scan scan(self, bytes prefix=*, bytes start=*)
    cpdef uint64_t digest(self) except? 0


cdef class Scan:
    # Iterator of (key, value) in key order over a Pin that it keeps.
    cdef Pin pin
    cdef Cursor at
    cdef const Item *next_item
    cdef bytes prefix

    cdef const Item *step(self) noexcept        # NULL at the end
