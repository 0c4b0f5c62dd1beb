# The store: a hash table for point reads, the tree for order, revisions.
#
# kv knows keys, values and revisions; it knows no Raft, no sessions, no bytes of commands. Every change
# is made under the GIL; point reads are plain calls under the GIL. A hash table with a keyed hash
# (SipHash-1-3, random key per process) points at the Items that the tree owns.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from dengine._core.tree cimport Cursor, Node
from dengine._core.types cimport Item


cdef class KV:
    cdef readonly uint64_t revision     # of the newest change; dense: +1 per command that changed a key
    cdef readonly size_t count          # keys
    cdef Node *root
    # open addressing, a power of two; tags are the upper hash bits, so a probe rarely touches an Item
    cdef Item **slots
    cdef uint8_t *tags                  # 0: empty; else 0x80 | 7 bits of the hash
    cdef size_t mask
    cdef uint64_t seed[2]

    # Borrowed: valid until the next change, while the GIL is held. NULL: no such key.
    cdef const Item *get(self, const char *key, uint32_t key_size) noexcept
    # Both make the change at revision + 1 and advance it. -1: MemoryError is set, nothing was changed.
    cdef int put(self, const char *key, uint32_t key_size, const char *value, uint32_t value_size,
                 uint64_t lease) except -1
    cdef int delete(self, const char *key, uint32_t key_size) except -1     # 1 deleted, 0 missing
    cpdef Pin pin(self)
    # A digest of all keys, values and revisions: equal on nodes that applied the same entries.
    cpdef uint64_t digest(self)


cdef class Pin:
    # A generation of the tree: items in key order as they were when it was taken, whatever is changed after.
    cdef Node *root
    cdef readonly uint64_t revision
    cdef readonly size_t count

    cpdef Scan scan(self, bytes prefix=*, bytes start=*)


cdef class Scan:
    # Iterator of (key, value) in key order over a Pin that it keeps.
    cdef Pin pin
    cdef Cursor at
    cdef const Item *next_item
    cdef bytes prefix

    cdef const Item *step(self) noexcept        # NULL at the end
