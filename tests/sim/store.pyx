"""Every invariant of the store, and its memory: what the tests ask of kv and tree from within."""
from libc.stdint cimport INT64_MAX, int64_t, uint64_t

cimport dengine._core.tree as tree
from dengine._core.kv cimport BUCKET_KEYS, BUCKET_SLOTS, KV, Bucket
from dengine._core.tree cimport FANOUT, Cursor, Node, item_bytes, tree_next, tree_seek
from dengine._core.types cimport Item


def limit_allocations(int64_t n=INT64_MAX):
    """Lets n allocations of the store succeed and none after them."""
    tree.allowance = n


def check(KV kv not None):
    """Raises AssertionError unless every invariant of kv.pxd and tree.pxd holds."""
    cdef Cursor at
    cdef const Item *item = tree_seek(kv.root, &at, b"", 0)
    cdef size_t items = 0, place = 0, keys, _i
    cdef Bucket *bucket
    if kv.root != NULL:
        check_node(kv.root, None, None, kv.root.height)
    while item != NULL:
        items += 1
        expect(item == kv.get(item.data, item.key_size), "the table has another item")
        item = tree_next(&at)
    expect(items == kv.count, "the tree has another count")
    while place < <size_t>1 << kv.depth:
        bucket = kv.directory[place]
        for _i in range(<size_t>1 << (kv.depth - bucket.depth)):
            expect(bucket == kv.directory[place], "a bucket has lost a place")
            place += 1
        keys = check_bucket(bucket, (place - 1) >> (kv.depth - bucket.depth))
        expect(keys <= items, "the table has more items")
        items -= keys
    expect(items == 0, "the table has another count")


def bytes_used(KV kv not None) -> int:
    """Memory allocated for this generation; walks all of it."""
    cdef size_t places = <size_t>1 << kv.depth, place = 0
    cdef size_t total = node_bytes(kv.root) + places * sizeof(Bucket *)
    while place < places:
        place += <size_t>1 << (kv.depth - kv.directory[place].depth)
        total += sizeof(Bucket)
    return total


cdef size_t node_bytes(const Node *node) noexcept:
    cdef size_t total
    cdef int i
    if node == NULL:
        return 0
    total = sizeof(Node) + (FANOUT * sizeof(Node *) if node.height else 0)
    for i in range(node.count):
        if node.item[i] != NULL:
            total += item_bytes(node.item[i].key_size, node.item[i].value_size)
        if node.height:
            total += node_bytes(node.child[i])
    return total


cdef int check_node(const Node *node, bytes low, bytes high, int height) except -1:
    """All keys below are at or above `low` and below `high`."""
    cdef int i
    cdef bytes before = None, key
    expect(node.refs >= 1, "a node is used that nobody holds")
    expect(node.height == height, "a node has another height")
    expect(1 <= node.count <= FANOUT, "a node is empty or too full")
    expect(height == 0 or node.item[0] == NULL, "the first child has a bound")
    keys = [None] * (node.count + 1)
    keys[0] = low
    keys[node.count] = high
    for i in range(height > 0, node.count):
        expect(node.item[i] != NULL and node.item[i].refs >= 1, "an item that nobody holds")
        key = node.item[i].data[:node.item[i].key_size]
        keys[i] = key
        expect(node.prefix[i] == <uint64_t>int.from_bytes(key[:8].ljust(8, b"\0"), "big"),
               "another prefix")
        expect(before is None or before < key, "keys do not ascend")
        expect(low is None or low <= key, "a key below the bound of its node")
        expect(high is None or key < high, "a key above the bound of its node")
        before = key
    for i in range(node.count if height else 0):
        check_node(node.child[i], keys[i], keys[i + 1], height - 1)
    return 0


cdef size_t check_bucket(const Bucket *bucket, size_t place) except? 0:
    """Its keys, all of which belong here. `place` as if the directory had its depth."""
    cdef size_t keys = 0
    cdef int slot
    for slot in range(BUCKET_SLOTS):
        expect((bucket.item[slot] == NULL) == (bucket.hash[slot] == 0), "a hash without its item")
        if bucket.item[slot] != NULL:
            keys += 1
            expect(<uint64_t>bucket.hash[slot] >> (32 - bucket.depth) == place,
                   "a key in the wrong bucket")
    expect(keys == bucket.count and keys <= BUCKET_KEYS, "a bucket has another count")
    return keys


cdef int expect(bint holds, str what) except -1:
    if not holds:
        raise AssertionError(what)
    return 0
