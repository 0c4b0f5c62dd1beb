# A copy-on-write B+tree of Items in key order.
#
# The tree decides order and sharing; it knows no revisions and no commands. A node is shared while
# more than one parent, root or pin refers to it (`refs`, atomic); a change copies the shared nodes
# on its path and no others. A pin is one more reference to a root: O(1), any number of times, valid
# on any thread without the GIL; whoever drops the last reference frees.
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t

from dengine._core.types cimport Item

cdef enum:
    FANOUT = 32                 # entries of a node: two cache lines of prefixes are searched at once
    DEPTH = 12                  # more than 2^64 items need

ctypedef struct Node:
    int32_t refs                # parents, roots and pins that hold it
    uint16_t count              # entries in use
    uint16_t height             # 0: leaf
    uint64_t prefix[FANOUT]     # first 8 bytes of each key, big-endian, zero-padded
    void *entry[FANOUT]         # leaf: Item*, one reference each. Inner: Node*, one reference each
    Item *low[FANOUT]           # inner only: lower bound of each child, a key without value; low[0] unused

ctypedef struct Cursor:
    # A position in a pinned tree. Holds no references: the pin does.
    int depth
    const Node *node[DEPTH]
    int slot[DEPTH]

cdef void item_hold(Item *item) noexcept nogil
cdef void item_drop(Item *item) noexcept nogil
# A new Item with refs 1, value and key copied; NULL when memory is out.
cdef Item *item_new(const char *key, uint32_t key_size, const char *value, uint32_t value_size) noexcept nogil

# The three changes: *root is replaced where it was shared. -1: memory is out, nothing was changed.
# insert: takes over the caller's reference to `item`; replaces the item of an equal key.
cdef int tree_insert(Node **root, Item *item) noexcept nogil
# remove: 1 removed, 0 no such key.
cdef int tree_remove(Node **root, const char *key, uint32_t key_size) noexcept nogil
cdef void tree_hold(Node *root) noexcept nogil      # pin; NULL is an empty tree
cdef void tree_drop(Node *root) noexcept nogil      # unpin, frees what nobody else holds

# First item with key >= the given one; NULL at the end.
cdef const Item *tree_seek(const Node *root, Cursor *at, const char *key, uint32_t key_size) noexcept nogil
cdef const Item *tree_next(Cursor *at) noexcept nogil
# 0 when every invariant of the tree holds, else the number of the first that does not (tests).
cdef int tree_check(const Node *root) noexcept nogil
