"""Items of the store to bytes and back: what may stand in them, and in which order. See items.pxd.

It does not know where the bytes lie; what is checked here is loaded without another look.
"""
from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy

from dengine._core.codec cimport Writer, give_bytes, give_u32, read_from
from dengine._core.fault cimport MUTANT
from dengine._core.tree cimport tree_next
from dengine._core.types cimport (ITEM_HEADER, MAX_KEY, MAX_VALUE, SNAPSHOT_FRAME,
                                  SNAPSHOT_FRAME_MAX)


cdef int64_t items_encode(char *to, Cursor *at, const Item **next, uint64_t *count) noexcept nogil:
    cdef const Item *item = next[0]
    cdef Writer w
    w.at = <uint8_t *>to
    w.end = w.at + SNAPSHOT_FRAME_MAX
    w.bad = False
    while item != NULL and w.at - <uint8_t *>to < SNAPSHOT_FRAME:
        w.bad |= item.key_size > MAX_KEY or item.value_size > MAX_VALUE
        give_u32(&w, item.key_size)
        give_u32(&w, item.value_size)
        # Revisions, version, lease, key and value lie in one piece.
        give_bytes(&w, &item.create_revision,
                   ITEM_HEADER - 8 + <size_t>item.key_size + item.value_size)
        count[0] += 1
        item = tree_next(at)
    next[0] = item
    return -1 if w.bad else w.at - <uint8_t *>to


cdef int64_t items_check(const char *p, size_t n, uint64_t revision, char *last_key,
                         uint32_t *last_size, bint first) noexcept nogil:
    cdef Reader r
    cdef ItemFields x
    cdef const char *before = last_key
    cdef uint32_t before_size = last_size[0]
    cdef int64_t count = 0
    read_from(&r, p, n)
    while r.at != r.end:
        item_take(&r, &x)
        if (r.bad or x.key_size > MAX_KEY or x.value_size > MAX_VALUE or x.version == 0
                or x.create_revision == 0 or x.create_revision > x.mod_revision
                or x.mod_revision > revision):
            return -1
        if not first and not ascends(before, before_size, x.key, x.key_size) and not MUTANT(107):
            return -1
        before, before_size, first = x.key, x.key_size, False
        count += 1
    if count > 0:
        memcpy(last_key, before, before_size)
        last_size[0] = before_size
    return count


cdef inline bint ascends(const char *a, uint32_t a_size,
                         const char *b, uint32_t b_size) noexcept nogil:
    cdef int order = memcmp(a, b, min(a_size, b_size))
    return order < 0 or (order == 0 and a_size < b_size)
