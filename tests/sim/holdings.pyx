"""Which entries lie where, by the bytes on the disks: see holdings.pxd. It reads the nodes only."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp

from dengine._core.codec cimport Record
from dengine._core.crc cimport crc32c
from dengine._core.quorum cimport quorum_has
from dengine._core.segments cimport Segment, offset_of
from dengine._core.types cimport MEM_FIRST, PAGE
from tests.sim.maps cimport Map, push
from tests.sim.platter cimport File, Name, file_at, file_named, name_of

cdef enum:
    META_CRC_FROM = 16


class Violation(AssertionError):
    """A rule that protects data does not hold."""


cdef class Holdings:
    def __cinit__(self, int nodes, int strategy):
        self.nodes = self.homes = nodes
        self.owners = {}
        self.members = {}
        for i in range(nodes):
            self.home[i] = i
        self.mem_first = strategy == MEM_FIRST
        self.turns = [None] * nodes
        self.votes, self.sure = Map(), Map()

    def __dealloc__(self):
        cdef int i
        for i in range(<int>HOMES):
            free(self.logs[i].at)
            free(self.lost[i].at)
            free(self.rotten[i].at)
        free(self.committed.at)

    cdef int loses_cache(self, int node) except -1:
        cdef int h = self.home[node]
        if self.mem_first:
            self.loses(node, self.synced[h])
        self.cached[h] = self.synced[h]
        return 0

    cdef int damaged(self, int node, uint64_t index) except -1:
        cdef int h = self.home[node]
        cdef uint64_t i
        for i in range(index - 1, self.synced[h]):
            push(&self.rotten[h], i + 1)
            push(&self.rotten[h], self.logs[h].at[i])
        self.loses(node, index - 1)
        self.synced[h] = min(self.synced[h], index - 1)
        self.cached[h] = self.synced[h]
        return 0

    cdef int loses(self, int node, uint64_t after) except -1:
        cdef int h = self.home[node]
        cdef uint64_t i
        for i in range(after, self.cached[h]):
            push(&self.lost[h], i + 1)
            push(&self.lost[h], self.logs[h].at[i])
        return 0

    cdef bint had(self, const Words *w, uint64_t index, uint64_t entry) noexcept:
        """Did a node lose this entry? It may have acknowledged it before."""
        cdef size_t i
        for i in range(0, w.count, 2):
            if w.at[i] == index and w.at[i + 1] == entry:
                return True
        return False

    cdef uint64_t forgets(self, int node) noexcept:
        """The first committed entry that it lost and has not got back; 0: none."""
        cdef int h = self.home[node]
        cdef Words *lost = &self.lost[h]
        cdef size_t i
        cdef uint64_t at
        for i in range(0, lost.count, 2):
            at = lost.at[i]
            if at <= self.committed.count and self.committed.at[at - 1] == lost.at[i + 1] and (
                    self.logs[h].count < at or self.logs[h].at[at - 1] != lost.at[i + 1]):
                return at
        return 0

    cdef int owns(self, int node, uint64_t incarnation) except -1:
        """Its directory has this number."""
        self.owners[incarnation] = self.home[node]
        return 0

    cdef bint anything_lost(self) except -1:
        cdef int i
        for i in range(self.nodes):
            if self.turns[i] is not None and self.forgets(i):
                return True
        return False

    cdef int returns(self, int node, uint64_t incarnation) except -1:
        self.home[node] = self.owners[incarnation]
        return 0

    cdef uint64_t home_of(self, const Members *m, int slot) except? 0:
        """The directory of a member, as a node knows it; one beyond all for none."""
        return self.owners.get(m.incarnation[slot], <int>HOMES - 1)

    cdef bint is_member(self, uint64_t incarnation) except? False:
        """Is it one by the newest committed configuration? All are, where there is none."""
        return not self.members or incarnation in self.members

    cdef int forget(self, int node) except -1:
        """Its directory is gone; what it held it may have acknowledged. Another takes its place."""
        if self.homes == <int>HOMES - 1:
            raise ValueError("too many directories were lost")
        self.loses(node, 0)
        self.home[node] = self.homes
        self.homes += 1
        return 0

    cdef int renewed(self, int node, uint64_t term) except -1:
        """It may have saved a later term than any other node, and told nobody."""
        cdef int h = self.home[node]
        self.term[h] = term
        self.vote[h] = node + 1
        return 0

    cdef int see_snapshot(self, int node, Turn turn) except -1:
        """What left its log is in a snapshot, also where the log never held it."""
        cdef int h = self.home[node]
        cdef uint64_t base = turn.raft.terms.base
        if base > self.synced[h]:
            if not self.has_snapshot(node, base):
                raise Violation(f"node {node + 1} drops its log up to {base}, and has no snapshot "
                                "of it on its disk")
            self.synced[h] = base
            self.cached[h] = max(self.cached[h], base)
        return 0

    cdef bint has_snapshot(self, int node, uint64_t index) except -1:
        """A file of this name is on the platter, with all its bytes."""
        cdef bytes path = (<bytes>self.meta_paths[node]).replace(
            b"meta", b"snapshot/%016x.snap" % index)
        cdef Name *n = name_of(self.disks[node], path)
        cdef File *f
        if n == NULL or n.synced_file < 0 or n.file != n.synced_file:
            return False
        f = &self.disks[node].files[n.file]
        return f.size == f.synced_size and memcmp(f.cache, f.platter, f.size) == 0

    cdef bint lies(self, int node, Turn turn, uint64_t index, bint platter) noexcept:
        """Are the bytes of this entry in the page cache, and on the platter?"""
        cdef int h = self.home[node]
        cdef const Segment *s = turn.log.holder(index)
        cdef File *f = NULL if s == NULL else file_at(self.disks[node], s.fd)
        cdef const Record *r
        cdef uint64_t at
        if f == NULL:
            return False
        at = offset_of(s, index)
        r = <const Record *>(f.cache + at)
        if r.index != index or r.crc != <uint32_t>self.logs[h].at[index - 1] or (
                r.crc != crc32c(f.cache + at + 8, r.length - 8, turn.log.crc_at(index - 1))):
            return False
        return not platter or (at + r.length <= f.synced_size
                               and memcmp(f.cache, f.platter, PAGE) == 0        # its header
                               and memcmp(f.cache + at, f.platter + at, r.length) == 0)

    cdef int see_disk(self, int node, Turn turn) except -1:
        """How far its entries are in the page cache and on the platter: the bytes are compared."""
        cdef int h = self.home[node]
        cdef uint64_t last = self.logs[h].count
        self.see_snapshot(node, turn)
        while self.synced[h] < last and self.lies(node, turn, self.synced[h] + 1, True):
            self.synced[h] += 1
        if self.cached[h] < self.synced[h]:
            self.cached[h] = self.synced[h]
        while self.cached[h] < last and self.lies(node, turn, self.cached[h] + 1, False):
            self.cached[h] += 1
        return 0

    cdef bint quorum_holds(self, const Members *m, const Config *c, uint64_t index, uint64_t entry,
                           bint platter) except -1:
        """Has a quorum the entry behind `index`, on disk or, with MemFirst, in a cache? Or had it,
        and may have said so before. `platter`: on disk whatever the strategy."""
        cdef uint32_t holders = 0, syncers = 0
        cdef uint64_t h
        cdef bint same
        cdef int i
        for i in range(m.count):
            h = self.home_of(m, i)
            same = self.logs[h].count > index and self.logs[h].at[index] == entry
            holders |= (same and (self.cached[h] if self.mem_first else self.synced[h]) > index
                        or self.had(&self.lost[h], index + 1, entry)) << i
            syncers |= (same and self.synced[h] > index
                        or self.had(&self.rotten[h], index + 1, entry)) << i
        return quorum_has(c, holders) and (not platter or quorum_has(c, syncers))

    cdef int meta_synced(self, int node) except -1:
        """The newest good slot on the platter is what the node can never take back."""
        cdef int h = self.home[node]
        cdef File *f = file_named(self.disks[node], self.meta_paths[node])
        cdef const MetaSlot *slot
        cdef const MetaSlot *best = NULL
        cdef int i
        if f == NULL:
            return 0
        for i in range(2):
            slot = <const MetaSlot *>(f.platter + i * PAGE)
            if slot.crc == crc32c(<const char *>slot + META_CRC_FROM,
                                  sizeof(MetaSlot) - META_CRC_FROM, 0) and slot.format and (
                    best == NULL or slot.sequence > best.sequence):
                best = slot
        if best == NULL:
            raise Violation(f"node {node + 1} has no good copy of its hard state on the platter")
        if best.term < self.term[h] or (best.term == self.term[h] and self.vote[h]
                                        and best.vote != self.vote[h]):
            raise Violation(f"node {node + 1} saves term {best.term} and vote {best.vote} over "
                            f"term {self.term[h]} and vote {self.vote[h]}")
        self.term[h] = best.term
        self.vote[h] = best.vote
        if best.vote:
            self.votes.put(best.term << 16 | h, best.vote)
            if best.doubt == 0:
                self.sure.put(best.term << 16 | h, best.vote)
        return 0

    cdef int at_rest(self, int node, bint broken) except -1:
        """One bad copy of the hard state is always covered by the other."""
        cdef File *f = file_named(self.disks[node], self.meta_paths[node])
        if f != NULL and not broken and memcmp(f.platter, f.platter + PAGE, sizeof(MetaSlot)):
            raise Violation(f"node {node + 1}: the two copies of its hard state differ at rest")
        return 0
