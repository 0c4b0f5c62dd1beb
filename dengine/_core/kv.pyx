"""The store: where a key is found, which revision a change takes, what may be overwritten.

Order, copies and pins are the tree's; what a command means and when it is applied is its caller's.
"""
import os

from cython cimport final
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memmove, memset

from dengine._core.fault cimport MUTANT
from dengine._core.tree cimport (
    allocate, item_bytes, item_drop, item_new, refs_of, tree_drop,
    tree_hold, tree_insert, tree_next, tree_remove, tree_seek,
)
from dengine._core.types cimport MAX_KEY, MAX_VALUE, unlikely

from dengine.errors import TooLargeError

cdef extern from *:
    void __builtin_prefetch(const void *at) noexcept nogil


@final
cdef class KV:
    """An ordered store of bytes in memory, for one process."""

    def __cinit__(self):
        cdef bytes seed = os.urandom(sizeof(self.seed))
        memcpy(self.seed, PyBytes_AS_STRING(seed), sizeof(self.seed))
        cdef Bucket *first = bucket_new(0)
        self.directory = <Bucket **>allocate(sizeof(Bucket *))
        if first == NULL or self.directory == NULL:
            free(first)
            free(self.directory)
            self.directory = NULL
            raise MemoryError
        self.directory[0] = first

    def __dealloc__(self):
        free_all(self.root, self.directory, self.depth)

    cdef Remains *give_up(self) except NULL:
        cdef Remains *r = <Remains *>malloc(sizeof(Remains))
        if r == NULL:
            raise MemoryError
        r.root, r.directory, r.depth = self.root, self.directory, self.depth
        self.root = NULL
        self.directory = NULL
        return r

    # ---------------------------------------------------------------- for the core
    cdef const Item *get(self, const char *key, uint32_t key_size) noexcept:
        cdef uint32_t hash = hash_of(self.seed, key, key_size)
        cdef Bucket *bucket = bucket_of(self.directory, self.depth, hash)
        return bucket.item[probe(bucket, hash, key, key_size)]

    cdef int put(self, const char *key, uint32_t key_size, const char *value, uint32_t value_size,
                 uint64_t lease) except -1:
        cdef uint32_t hash = hash_of(self.seed, key, key_size)
        cdef Bucket *bucket = bucket_of(self.directory, self.depth, hash)
        cdef int slot = probe(bucket, hash, key, key_size)
        cdef Item *old = bucket.item[slot]
        cdef Item *item
        if old != NULL and (old.mod_revision > self.pinned or MUTANT(88)) and (
            refs_of(&old.refs) == 1
            and item_bytes(key_size, value_size) == item_bytes(key_size, old.value_size)
        ):
            # Nobody else sees it: one write instead of a new item and a way down the tree.
            memmove(old.data + key_size, value, value_size)     # value may be the item's own
            old.value_size = value_size
            old.lease = lease
            old.version += 1
            self.revision += 1
            old.mod_revision = self.revision
            return 0
        if old == NULL and bucket.count == BUCKET_KEYS:
            self.split(hash)
            bucket = bucket_of(self.directory, self.depth, hash)
            slot = probe(bucket, hash, key, key_size)
        item = item_new(key, key_size, value, value_size)
        if unlikely(item == NULL):
            raise MemoryError
        item.create_revision = old.create_revision if old != NULL else self.revision + 1
        item.mod_revision = self.revision + 1
        item.version = old.version + 1 if old != NULL else 1
        item.lease = lease
        if unlikely(tree_insert(&self.root, item) < 0):
            item_drop(item)
            raise MemoryError
        if old == NULL:
            bucket.hash[slot] = hash
            bucket.count += 1
            self.count += 1
        bucket.item[slot] = item
        self.revision += 1
        return 0

    cdef int delete(self, const char *key, uint32_t key_size) except -1:
        cdef uint32_t hash = hash_of(self.seed, key, key_size)
        cdef Bucket *bucket = bucket_of(self.directory, self.depth, hash)
        cdef int slot = probe(bucket, hash, key, key_size)
        if bucket.item[slot] == NULL:
            self.revision += MUTANT(87)
            return 0
        if unlikely(tree_remove(&self.root, key, key_size) < 0):
            raise MemoryError
        bucket_take(bucket, slot)
        self.count -= 1
        self.revision += 1
        return 1

    cdef Item *append(self, const char *key, uint32_t key_size,
                      const char *value, uint32_t value_size) except NULL:
        cdef uint32_t hash = hash_of(self.seed, key, key_size)
        cdef Item *item
        if bucket_of(self.directory, self.depth, hash).count == BUCKET_KEYS:
            self.split(hash)
        item = item_new(key, key_size, value, value_size)
        if unlikely(item == NULL):
            raise MemoryError
        if unlikely(tree_insert(&self.root, item) < 0):
            item_drop(item)
            raise MemoryError
        bucket_add(bucket_of(self.directory, self.depth, hash), hash, item)
        self.count += 1
        return item

    cpdef Pin pin(self):
        """This generation of the store, which stays as it is while the store is changed."""
        cdef Pin pin = Pin.__new__(Pin)
        tree_hold(self.root)
        pin.root = self.root
        pin.revision = self.pinned = self.revision
        pin.count = self.count
        return pin

    cpdef uint64_t digest(self) except? 0:
        """Equal for stores that made the same changes in the same order."""
        return digest_of(self.root, self.revision)

    # ---------------------------------------------------------------- for Python
    def store(self, bytes key not None, bytes value not None) -> int:
        """Puts a value and returns the revision of this change."""
        if len(key) > MAX_KEY or len(value) > MAX_VALUE:
            raise TooLargeError(
                f"key of {len(key)} bytes (limit {MAX_KEY}), value of {len(value)} bytes "
                f"(limit {MAX_VALUE}); nothing was changed"
            )
        self.put(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key),
                 PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), 0)
        return self.revision

    def lookup(self, bytes key not None) -> tuple[bytes, int, int, int] | None:
        """(value, create_revision, mod_revision, version) of a key."""
        cdef const Item *item = self.get(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        if item == NULL:
            return None
        return value_of(item), item.create_revision, item.mod_revision, item.version

    def remove(self, bytes key not None) -> bool:
        """Deletes a key. Was it there?"""
        return self.delete(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)) == 1

    def __len__(self) -> int:
        return self.count

    # ---------------------------------------------------------------- growth
    cdef int split(self, uint32_t hash) except -1:
        """Gives the full bucket of this hash a twin, so that the hash has room."""
        cdef Bucket *bucket = bucket_of(self.directory, self.depth, hash)
        cdef Bucket *twin
        cdef Bucket full
        cdef size_t places, place
        cdef int slot
        if bucket.depth == self.depth:
            self.double_directory()
        twin = bucket_new(bucket.depth + 1)
        if unlikely(twin == NULL):
            raise MemoryError
        full = bucket[0]
        memset(bucket, 0, sizeof(Bucket))
        bucket.depth = twin.depth
        for slot in range(BUCKET_SLOTS):
            if full.hash[slot] != 0:
                # The next bit of the hash decides.
                bucket_add(twin if full.hash[slot] >> (31 - full.depth) & 1 else bucket,
                           full.hash[slot], full.item[slot])
        places = <size_t>1 << (self.depth - full.depth)
        place = place_of(self.depth, hash) | (places - 1)      # the last of this bucket
        for place in range(place + 1 - places // 2, place + 1):
            self.directory[place] = twin
        # Improbable but possible: all went to one side.
        if bucket_of(self.directory, self.depth, hash).count == BUCKET_KEYS:
            self.split(hash)
        return 0

    cdef int double_directory(self) except -1:
        cdef size_t places = <size_t>1 << self.depth
        cdef Bucket **wider
        if unlikely(self.depth == DIRECTORY_BITS):
            raise MemoryError
        wider = <Bucket **>allocate(2 * places * sizeof(Bucket *))
        if unlikely(wider == NULL):
            raise MemoryError
        for i in range(2 * places):
            wider[i] = self.directory[i // 2]
        free(self.directory)
        self.directory = wider
        self.depth += 1
        return 0


@final
cdef class Pin:
    """One generation of a store, immutable. Dropping it frees what no other generation holds."""

    def __dealloc__(self):
        tree_drop(self.root)

    def __len__(self) -> int:
        return self.count

    cpdef Scan scan(self, bytes prefix=b"", bytes start=b""):
        """(key, value) in key order, of keys that begin with `prefix` and are not below `start`."""
        cdef Scan scan = Scan.__new__(Scan)
        cdef bytes first = max(prefix, start)
        scan.pin = self
        scan.prefix = prefix
        scan.next_item = tree_seek(
            self.root, &scan.at, PyBytes_AS_STRING(first), PyBytes_GET_SIZE(first)
        )
        return scan

    cpdef uint64_t digest(self) except? 0:
        """The digest of the store when it was pinned. Other threads run meanwhile."""
        cdef uint64_t digest
        with nogil:
            digest = digest_of(self.root, self.revision)
        return digest


@final
cdef class Scan:
    """Iterates over (key, value) of a Pin."""

    def __iter__(self):
        return self

    def __next__(self) -> tuple[bytes, bytes]:
        cdef const Item *item = self.step()
        if item == NULL:
            raise StopIteration
        return PyBytes_FromStringAndSize(item.data, item.key_size), value_of(item)

    cdef const Item *step(self) noexcept:
        cdef const Item *item = self.next_item
        cdef uint32_t size
        if item == NULL:
            return NULL
        size = PyBytes_GET_SIZE(self.prefix)
        if item.key_size < size or memcmp(item.data, PyBytes_AS_STRING(self.prefix), size) != 0:
            self.next_item = NULL
            return NULL
        self.next_item = tree_next(&self.at)
        return item


# ---------------------------------------------------------------- the end of a store
cdef void remains_free(void *remains) noexcept nogil:
    cdef Remains *r = <Remains *>remains
    free_all(r.root, r.directory, r.depth)
    free(r)


cdef void free_all(Node *root, Bucket **directory, uint32_t depth) noexcept nogil:
    cdef size_t place = 0
    cdef Bucket *bucket
    tree_drop(root)
    while directory != NULL and place < <size_t>1 << depth:
        bucket = directory[place]
        place += <size_t>1 << (depth - bucket.depth)
        free(bucket)
    free(directory)


# ---------------------------------------------------------------- buckets
cdef Bucket *bucket_new(uint32_t depth) noexcept nogil:
    cdef Bucket *bucket = <Bucket *>allocate(sizeof(Bucket))
    if bucket != NULL:
        memset(bucket, 0, sizeof(Bucket))
        bucket.depth = depth
    return bucket


cdef inline size_t place_of(uint32_t depth, uint32_t hash) noexcept nogil:
    return <uint64_t>hash >> (32 - depth)


cdef inline Bucket *bucket_of(Bucket **directory, uint32_t depth, uint32_t hash) noexcept nogil:
    return directory[place_of(depth, hash)]


cdef inline int probe(const Bucket *bucket, uint32_t hash,
                      const char *key, uint32_t key_size) noexcept nogil:
    """The slot of the key, or the empty one where it would stand."""
    cdef const Item *item
    cdef int slot = hash % BUCKET_SLOTS
    __builtin_prefetch(&bucket.item[slot])      # arrives together with the hash
    while bucket.hash[slot] != 0:
        if bucket.hash[slot] == hash:
            item = bucket.item[slot]
            if item.key_size == key_size and memcmp(item.data, key, key_size) == 0:
                break
        slot = (slot + 1) % BUCKET_SLOTS
    return slot


cdef void bucket_add(Bucket *bucket, uint32_t hash, Item *item) noexcept nogil:
    """Adds a key that is not there to a bucket that has room."""
    cdef int slot = hash % BUCKET_SLOTS
    while bucket.hash[slot] != 0:
        slot = (slot + 1) % BUCKET_SLOTS
    bucket.hash[slot] = hash
    bucket.item[slot] = item
    bucket.count += 1


cdef void bucket_take(Bucket *bucket, int hole) noexcept nogil:
    """Empties a slot, and closes the hole with what could not stand nearer to its home."""
    cdef uint32_t slot = hole
    while True:
        slot = (slot + 1) % BUCKET_SLOTS
        if bucket.hash[slot] == 0:
            break
        if (slot - bucket.hash[slot]) % BUCKET_SLOTS >= (slot - hole) % BUCKET_SLOTS:
            bucket.hash[hole] = bucket.hash[slot]
            bucket.item[hole] = bucket.item[slot]
            hole = slot
    bucket.hash[hole] = 0
    bucket.item[hole] = NULL
    bucket.count -= 1


# ---------------------------------------------------------------- hashing
cdef inline uint32_t hash_of(const uint64_t *seed,
                             const char *key, uint32_t key_size) noexcept nogil:
    """The upper bits choose the bucket, the lower ones the slot; never 0."""
    cdef uint32_t hash = <uint32_t>siphash(seed, key, key_size)
    return hash if hash != 0 else 1


cdef uint64_t digest_of(const Node *root, uint64_t revision) noexcept nogil:
    cdef Cursor at
    cdef const Item *item = tree_seek(root, &at, b"", 0)
    cdef uint64_t state[2]
    state[0] = revision
    while item != NULL:
        # One hash of revisions, version, lease, key and value, which lie in one piece.
        state[1] = <uint64_t>item.key_size << 32 | item.value_size
        state[0] = siphash(state, <const char *>&item.create_revision,
                           item.data - <const char *>&item.create_revision
                           + item.key_size + item.value_size)
        item = tree_next(&at)
    return state[0]


cdef uint64_t siphash(const uint64_t *seed, const char *p, size_t n) noexcept nogil:
    """SipHash-1-3."""
    cdef uint64_t v[4]
    cdef uint64_t last = <uint64_t>n << 56
    cdef uint64_t word = 0
    cdef size_t i
    v[0] = seed[0] ^ 0x736f6d6570736575ULL
    v[1] = seed[1] ^ 0x646f72616e646f6dULL
    v[2] = seed[0] ^ 0x6c7967656e657261ULL
    v[3] = seed[1] ^ 0x7465646279746573ULL
    for i in range(n // 8):
        memcpy(&word, p + 8 * i, 8)
        v[3] ^= word
        sip_round(v)
        v[0] ^= word
    word = 0
    memcpy(&word, p + n // 8 * 8, n % 8)
    last |= word
    v[3] ^= last
    sip_round(v)
    v[0] ^= last
    v[2] ^= 0xff
    sip_round(v)
    sip_round(v)
    sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


cdef inline void sip_round(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[2] += v[3]
    v[1] = rotate(v[1], 13) ^ v[0]
    v[3] = rotate(v[3], 16) ^ v[2]
    v[0] = rotate(v[0], 32)
    v[2] += v[1]
    v[0] += v[3]
    v[1] = rotate(v[1], 17) ^ v[2]
    v[3] = rotate(v[3], 21) ^ v[0]
    v[2] = rotate(v[2], 32)


cdef inline uint64_t rotate(uint64_t x, int n) noexcept nogil:
    return x << n | x >> (64 - n)
