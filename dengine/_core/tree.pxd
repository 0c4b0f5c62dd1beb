# A copy-on-write B+tree of Items in key order.
#
# The tree decides order and sharing; it knows no revisions and no commands. A node is shared while
# more than one parent, root or pin refers to it (`refs`, atomic); a change copies the shared nodes
# on its path and no others. A pin is one more reference to a root: O(1), any number of times,
# valid on any thread without the GIL; whoever drops the last reference frees. All trees are changed
# under the GIL.
#
# Invariants (the tests check them): keys ascend; no node is empty; leaves have height 0, a parent
# one more than its children; the keys below child i are at or above item[i] and below item[i + 1].
# A removal leaves no neighbour under the same parent with which the changed node would fit in
# MERGE entries: the tree stays about a third full at least, whatever is removed.
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

from dengine._core.types cimport Item

cdef extern from *:
    """
    #include "native.h"
    /* References as they are now. 1: only the caller holds it, and what others did before they let
       go of it is done (acquire pairs with their release). */
    static inline int32_t refs_of(const int32_t *at) {
        return __atomic_load_n(at, __ATOMIC_ACQUIRE);
    }
    """
    int32_t refs_of(const int32_t *at) noexcept nogil

cdef enum:
    FANOUT = 32                 # entries of a node: its prefixes fill four cache lines
    MERGE = 24                  # two neighbours that fit become one; room is left for inserts
    DEPTH = 12                  # levels; more than 2^64 items need

cdef struct Node:
    int32_t refs                # parents, roots and pins that hold it; atomic
    uint16_t count              # entries in use
    uint16_t height             # 0: leaf
    uint64_t prefix[FANOUT]     # first 8 bytes of each item's key, big-endian, zero-padded
    # One reference each. Leaf: the items. Inner: the lower bound of each child, a key without
    # value; NULL at 0, which has none.
    Item *item[FANOUT]
    Node *child[0]              # inner: FANOUT of them, one reference each. Leaf: none

ctypedef struct Cursor:
    # A position in a pinned tree. Holds no references: the pin does.
    int depth                   # levels; 0: nowhere
    const Node *node[DEPTH]
    int slot[DEPTH]

cdef size_t item_bytes(uint64_t key_size, uint64_t value_size) noexcept nogil   # allocated for one
cdef void item_hold(Item *item) noexcept nogil
cdef void item_drop(Item *item) noexcept nogil
# A new Item with refs 1, value and key copied, the rest zero; NULL when memory is out.
cdef Item *item_new(const char *key, uint32_t key_size,
                    const char *value, uint32_t value_size) noexcept nogil

# The two changes: *root is replaced where it was shared. -1: memory is out, nothing was changed.
# insert: takes over the caller's reference to `item`; replaces the item of an equal key.
cdef int tree_insert(Node **root, Item *item) noexcept nogil
# remove: 1 removed, 0 no such key.
cdef int tree_remove(Node **root, const char *key, uint32_t key_size) noexcept nogil
cdef void tree_hold(Node *root) noexcept nogil      # pin; NULL is an empty tree
cdef void tree_drop(Node *root) noexcept nogil      # unpin, frees what nobody else holds

# First item with key >= the given one; NULL at the end.
cdef const Item *tree_seek(const Node *root, Cursor *at,
                           const char *key, uint32_t key_size) noexcept nogil
cdef const Item *tree_next(Cursor *at) noexcept nogil       # not after NULL

# Every allocation of the store: NULL when memory is out, or when `allowance` is used up.
cdef void *allocate(size_t n) noexcept nogil
cdef int64_t allowance          # allocations until one fails; only tests lower it
