# Items of the store <-> bytes, in key order, as a snapshot holds them.
#
# One item, little-endian: u32 key size, u32 value size, u64 create_revision, u64 mod_revision,
# u64 version, u64 lease, key, value.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from dengine._core.codec cimport Reader, take_bytes, take_u32, take_u64
from dengine._core.tree cimport Cursor
from dengine._core.types cimport Item

ctypedef struct ItemFields:
    # One item as it was read; key and value are borrowed from the bytes.
    uint32_t key_size
    uint32_t value_size
    uint64_t create_revision
    uint64_t mod_revision
    uint64_t version
    uint64_t lease
    const char *key
    const char *value

# Items from `next` on into the SNAPSHOT_FRAME_MAX bytes at `to`, until SNAPSHOT_FRAME of them are
# in use: bytes, 0 at the end. `next` goes on, `count` grows. -1: one is above the limits.
cdef int64_t items_encode(char *to, Cursor *at, const Item **next, uint64_t *count) noexcept nogil

# How many items n bytes hold. -1: not such as a store of this revision has, in ascending order and
# above the last key (`first`: there is none), which the newest one replaces: MAX_KEY bytes.
cdef int64_t items_check(const char *p, size_t n, uint64_t revision, char *last_key,
                         uint32_t *last_size, bint first) noexcept nogil

cdef inline void item_take(Reader *r, ItemFields *out) noexcept nogil:
    out.key_size = take_u32(r)
    out.value_size = take_u32(r)
    out.create_revision = take_u64(r)
    out.mod_revision = take_u64(r)
    out.version = take_u64(r)
    out.lease = take_u64(r)
    out.key = take_bytes(r, out.key_size)
    out.value = take_bytes(r, out.value_size)
