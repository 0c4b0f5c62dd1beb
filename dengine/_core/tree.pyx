"""A copy-on-write B+tree of Items: which node is copied, split, merged and freed, and when.

Knows keys and references; knows no revisions, no commands and no Python objects. A change first
makes its path private and splits what is full, steps that may fail but leave the same items, and
only then changes, which cannot fail.
"""
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memmove, memset

from dengine._core.types cimport likely

cdef extern from "native.h" nogil:
    int32_t add_relaxed(int32_t *at, int32_t x)
    int32_t add_acq_rel(int32_t *at, int32_t x)

cdef extern from *:
    """
    #include <endian.h>
    """
    uint64_t be64toh(uint64_t x) noexcept nogil
    void __builtin_prefetch(const void *at) noexcept nogil

ctypedef struct Path:
    # From the root to a leaf. While `own_path` has not run its nodes may be shared.
    int depth
    Node *node[DEPTH]
    int slot[DEPTH]             # inner: the child on the path. Leaf: the first item >= the key

allowance = INT64_MAX


# ---------------------------------------------------------------- changes
cdef int tree_insert(Node **root, Item *item) noexcept nogil:
    cdef Path path
    cdef Node *leaf
    cdef bint found
    cdef int slot
    if root[0] == NULL:
        root[0] = node_new(0)
        if root[0] == NULL:
            return -1
    found = descend(root[0], item.data, item.key_size, &path)
    if own_path(root, &path) < 0:
        return -1
    leaf, slot = path.node[path.depth - 1], path.slot[path.depth - 1]
    if found:
        item_drop(leaf.item[slot])
        leaf.item[slot] = item
        return 0
    if leaf.count == FANOUT:
        if make_room(root, &path, item) < 0:
            return -1
        leaf, slot = path.node[path.depth - 1], path.slot[path.depth - 1]
    put_entry(leaf, slot, item, NULL)
    return 0


cdef int tree_remove(Node **root, const char *key, uint32_t key_size) noexcept nogil:
    cdef Path path
    cdef Node *node
    cdef int level
    if root[0] == NULL or not descend(root[0], key, key_size, &path):
        return 0
    if own_path(root, &path) < 0:
        return -1
    level = path.depth - 1
    node = path.node[level]
    item_drop(node.item[path.slot[level]])
    take_entry(node, path.slot[level])
    # Each round may take one entry from the parent, which is then judged in its turn.
    while level > 0 and settle(path.node[level - 1], path.slot[level - 1]):
        level -= 1
    node = root[0]
    while node.height > 0 and node.count == 1:
        root[0] = node.child[0]
        free(node)
        node = root[0]
    if node.count == 0:
        free(node)
        root[0] = NULL
    return 1


cdef void tree_hold(Node *root) noexcept nogil:
    if root != NULL:
        add_relaxed(&root.refs, 1)


cdef void tree_drop(Node *root) noexcept nogil:
    cdef int i
    if root == NULL or not last_reference(&root.refs):
        return
    for i in range(root.count):
        item_drop(root.item[i])
        if root.height > 0:
            tree_drop(root.child[i])
    free(root)


# ---------------------------------------------------------------- reading
cdef const Item *tree_seek(const Node *root, Cursor *at,
                           const char *key, uint32_t key_size) noexcept nogil:
    cdef uint64_t prefix = prefix_of(key, key_size)
    cdef const Node *node = root
    at.depth = 0
    while node != NULL:
        at.node[at.depth] = node
        at.slot[at.depth] = search(node, prefix, key, key_size)
        at.depth += 1
        node = node.child[at.slot[at.depth - 1]] if node.height > 0 else NULL
    if at.depth == 0:
        return NULL
    at.slot[at.depth - 1] -= 1
    return tree_next(at)


cdef const Item *tree_next(Cursor *at) noexcept nogil:
    cdef int level = at.depth - 1
    cdef int slot
    cdef const Node *node
    at.slot[level] += 1
    while at.slot[level] >= at.node[level].count:
        if level == 0:
            at.depth = 0
            return NULL
        level -= 1
        at.slot[level] += 1
    while level < at.depth - 1:
        node = at.node[level].child[at.slot[level]]
        level += 1
        at.node[level] = node
        at.slot[level] = 0
    node, slot = at.node[level], at.slot[level]
    # Items lie anywhere in memory: the one after the next is on its way while this one is read.
    __builtin_prefetch(node.item[min(slot + 2, node.count - 1)])
    return node.item[slot]


# ---------------------------------------------------------------- the steps of a change
cdef bint descend(Node *root, const char *key, uint32_t key_size, Path *path) noexcept nogil:
    """Fills the path to where the key belongs. Is it there?"""
    cdef uint64_t prefix = prefix_of(key, key_size)
    cdef Node *node = root
    cdef int slot
    path.depth = 0
    while True:
        slot = search(node, prefix, key, key_size)
        path.node[path.depth] = node
        path.slot[path.depth] = slot
        path.depth += 1
        if node.height == 0:
            return slot < node.count and compare(node, slot, prefix, key, key_size) == 0
        node = node.child[slot]


cdef int own_path(Node **root, Path *path) noexcept nogil:
    """Copies the nodes from the first shared one down: what is below it is seen by others too."""
    cdef Node **link = root
    cdef Node *node
    cdef int level
    for level in range(path.depth):
        node = link[0]
        # Once a node was copied, its children have two parents: the test finds them shared.
        if refs_of(&node.refs) > 1:
            node = node_copy(node)
            if node == NULL:
                return -1
            tree_drop(link[0])
            link[0] = node
        path.node[level] = node
        link = &node.child[path.slot[level]]
    return 0


cdef int make_room(Node **root, Path *path, const Item *item) noexcept nogil:
    """Splits a full leaf of an owned path and, from the top down, the full nodes above it."""
    cdef bint append = at_right_edge(path)
    cdef int level = path.depth - 1
    cdef Node *node
    while level >= 0 and path.node[level].count == FANOUT:
        level -= 1
    if level < 0:
        node = node_new(path.node[0].height + 1)
        if node == NULL:
            return -1
        put_entry(node, 0, NULL, root[0])
        root[0] = node
        memmove(&path.node[1], &path.node[0], path.depth * sizeof(Node *))
        memmove(&path.slot[1], &path.slot[0], path.depth * sizeof(int))
        path.node[0] = node
        path.slot[0] = 0
        path.depth += 1
        level = 0
    for level in range(level + 1, path.depth):
        # Appending leaves full nodes behind. An inner node must keep a child for the new one.
        node = path.node[level]
        if split(path, level, FANOUT // 2 if not append else FANOUT - (node.height > 0), item) < 0:
            return -1
    return 0


cdef int split(Path *path, int level, int at, const Item *item) noexcept nogil:
    """Moves the entries from `at` on to a new right neighbour; the path follows its slot.

    A leaf's neighbour may be empty for the moment: `item` goes there if its slot is `at` or more.
    """
    cdef Node *node = path.node[level]
    cdef Node *right = node_new(node.height)
    cdef Item *bound
    cdef int n = node.count - at
    if right == NULL:
        return -1
    if node.height > 0:
        bound = node.item[at]
        memcpy(right.child, &node.child[at], n * sizeof(Node *))
    else:
        bound = bound_new(node.item[at - 1], item if path.slot[level] == at else node.item[at])
        if bound == NULL:
            free(right)
            return -1
    memcpy(right.prefix, &node.prefix[at], n * sizeof(uint64_t))
    memcpy(right.item, &node.item[at], n * sizeof(Item *))
    if node.height > 0:
        right.item[0] = NULL
    right.count = n
    node.count = at
    put_entry(path.node[level - 1], path.slot[level - 1] + 1, bound, right)
    if path.slot[level] >= at:
        path.node[level] = right
        path.slot[level] -= at
        path.slot[level - 1] += 1
    return 0


cdef bint settle(Node *parent, int slot) noexcept nogil:
    """Frees an empty child, or merges it with a neighbour. Did the parent lose an entry?"""
    cdef Node *node = parent.child[slot]
    if node.count == 0:
        free(node)
        item_drop(parent.item[slot])
        take_entry(parent, slot)
        return True
    # The child is owned, its neighbours may be shared: it takes them in, from either side.
    if slot > 0 and parent.child[slot - 1].count + node.count <= MERGE:
        absorb(parent, slot, slot - 1)
        return True
    if slot + 1 < parent.count and parent.child[slot + 1].count + node.count <= MERGE:
        absorb(parent, slot, slot + 1)
        return True
    return False


cdef void absorb(Node *parent, int slot, int other_slot) noexcept nogil:
    cdef Node *node = parent.child[slot]
    cdef Node *other = parent.child[other_slot]
    cdef int right_slot = max(slot, other_slot)
    cdef int n = other.count
    cdef int joint = n if other_slot < slot else node.count     # the first entry of the right one
    cdef int to = 0 if other_slot < slot else node.count
    if to == 0:
        memmove(&node.prefix[n], node.prefix, node.count * sizeof(uint64_t))
        memmove(&node.item[n], node.item, node.count * sizeof(Item *))
        if node.height > 0:
            memmove(&node.child[n], node.child, node.count * sizeof(Node *))
    memcpy(&node.prefix[to], other.prefix, n * sizeof(uint64_t))
    memcpy(&node.item[to], other.item, n * sizeof(Item *))
    if node.height > 0:
        memcpy(&node.child[to], other.child, n * sizeof(Node *))
    hold_entries(node, to, to + n)
    node.count += n
    if node.height > 0:         # the bound between the two moves down
        node.item[joint] = parent.item[right_slot]
        node.prefix[joint] = parent.prefix[right_slot]
    else:
        item_drop(parent.item[right_slot])
    # The left slot keeps its own bound, the right one goes.
    parent.child[right_slot - 1] = node
    parent.item[right_slot] = NULL
    take_entry(parent, right_slot)
    tree_drop(other)


cdef void put_entry(Node *node, int slot, Item *item, Node *child) noexcept nogil:
    """Opens a slot in a node that has room."""
    cdef size_t n = node.count - slot
    memmove(&node.prefix[slot + 1], &node.prefix[slot], n * sizeof(uint64_t))
    memmove(&node.item[slot + 1], &node.item[slot], n * sizeof(Item *))
    node.prefix[slot] = prefix_of(item.data, item.key_size) if item != NULL else 0
    node.item[slot] = item
    if node.height > 0:
        memmove(&node.child[slot + 1], &node.child[slot], n * sizeof(Node *))
        node.child[slot] = child
    node.count += 1


cdef void take_entry(Node *node, int slot) noexcept nogil:
    """Closes a slot whose references were given up or moved."""
    cdef size_t n
    node.count -= 1
    n = node.count - slot
    memmove(&node.prefix[slot], &node.prefix[slot + 1], n * sizeof(uint64_t))
    memmove(&node.item[slot], &node.item[slot + 1], n * sizeof(Item *))
    if node.height > 0:
        memmove(&node.child[slot], &node.child[slot + 1], n * sizeof(Node *))
        if slot == 0 and node.count > 0:    # the new first child needs no bound
            item_drop(node.item[0])
            node.item[0] = NULL


cdef bint at_right_edge(const Path *path) noexcept nogil:
    cdef int level
    for level in range(path.depth - 1):
        if path.slot[level] + 1 < path.node[level].count:
            return False
    return path.slot[path.depth - 1] == path.node[path.depth - 1].count


# ---------------------------------------------------------------- comparing
cdef int search(const Node *node, uint64_t prefix,
                const char *key, uint32_t key_size) noexcept nogil:
    """Leaf: the first slot with an item >= the key. Inner: the child whose range holds the key."""
    cdef int inner = node.height > 0
    cdef int low = inner        # the first child of an inner node has no bound
    cdef int high = node.count
    cdef int middle
    while low < high:
        middle = (low + high) >> 1
        # An equal bound belongs to its child; an equal item is the one looked for.
        if compare(node, middle, prefix, key, key_size) < inner:
            low = middle + 1
        else:
            high = middle
    return low - inner


cdef inline int compare(const Node *node, int slot, uint64_t prefix,
                        const char *key, uint32_t key_size) noexcept nogil:
    """-1, 0 or 1: the order of the item in this slot and the key."""
    if node.prefix[slot] != prefix:
        return 1 if node.prefix[slot] > prefix else -1
    return order(node.item[slot], key, key_size)


cdef int order(const Item *item, const char *key, uint32_t key_size) noexcept nogil:
    cdef int c = memcmp(item.data, key, min(item.key_size, key_size))
    if c == 0:
        return (item.key_size > key_size) - (item.key_size < key_size)
    return 1 if c > 0 else -1


cdef inline uint64_t prefix_of(const char *key, uint32_t key_size) noexcept nogil:
    cdef uint64_t prefix = 0
    memcpy(&prefix, key, min(key_size, <uint32_t>sizeof(prefix)))
    return be64toh(prefix)


# ---------------------------------------------------------------- nodes and items
cdef inline size_t node_bytes(int height) noexcept nogil:
    return sizeof(Node) + (FANOUT * sizeof(Node *) if height > 0 else 0)


cdef Node *node_new(int height) noexcept nogil:
    cdef Node *node = <Node *>allocate(node_bytes(height))
    if node != NULL:
        node.refs = 1
        node.count = 0
        node.height = height
    return node


cdef Node *node_copy(const Node *node) noexcept nogil:
    cdef Node *copy = node_new(node.height)
    if copy != NULL:
        memcpy(copy, node, node_bytes(node.height))
        copy.refs = 1
        hold_entries(copy, 0, copy.count)
    return copy


cdef void hold_entries(Node *node, int start, int end) noexcept nogil:
    cdef int i
    # A locked add waits for its line: asking for all lines first lets them arrive together.
    for i in range(start, end):
        __builtin_prefetch(node.item[i])
    for i in range(start, end):
        item_hold(node.item[i])
        if node.height > 0:
            tree_hold(node.child[i])


cdef inline bint last_reference(int32_t *refs) noexcept nogil:
    """Gives up a reference. Was it the last? Alone, nobody can take another: no locked add."""
    return refs_of(refs) == 1 or add_acq_rel(refs, -1) == 0


cdef void item_hold(Item *item) noexcept nogil:
    if item != NULL:
        add_relaxed(&item.refs, 1)


cdef void item_drop(Item *item) noexcept nogil:
    if item != NULL and last_reference(&item.refs):
        free(item)


cdef size_t item_bytes(uint64_t key_size, uint64_t value_size) noexcept nogil:
    # malloc gives multiples of 16 less its own 8: what is left is room for a longer value.
    return ((sizeof(Item) + key_size + value_size + 8 + 15) & ~<size_t>15) - 8


cdef Item *item_new(const char *key, uint32_t key_size,
                    const char *value, uint32_t value_size) noexcept nogil:
    cdef Item *item = <Item *>allocate(item_bytes(key_size, value_size))
    if item == NULL:
        return NULL
    memset(item, 0, sizeof(Item))
    item.refs = 1
    item.key_size = key_size
    item.value_size = value_size
    memcpy(item.data, key, key_size)
    memcpy(item.data + key_size, value, value_size)
    return item


cdef Item *bound_new(const Item *left, const Item *right) noexcept nogil:
    """The shortest key above left's and not above right's: short bounds compare by prefix."""
    cdef uint32_t n = 0
    while n < left.key_size and left.data[n] == right.data[n]:
        n += 1
    return item_new(right.data, n + 1, right.data, 0)


cdef void *allocate(size_t n) noexcept nogil:
    global allowance
    allowance -= 1
    return malloc(n) if likely(allowance >= 0) else NULL
