"""The invariants of Raft and of the durability table, checked online. See checks.pxd.

It decides what is a violation. It reads the nodes and changes nothing; node i has the id i + 1.
"""
from libc.stdlib cimport free
from libc.string cimport memcmp, memset

from dengine._core.codec cimport ENTRY_COMMAND, ENTRY_NOOP, ENTRY_TICK, Record
from dengine._core.consensus cimport GRANTED, LEADER, MARKED, PRE, Message
from dengine._core.crc cimport crc32c
from dengine._core.segments cimport Segment, offset_of
from dengine._core.session cimport Session
from dengine._core.types cimport MEM_FIRST, PAGE, RECORD_HEADER
from dengine._core.wire cimport (FRAME_DURABLE, FRAME_OK, FRAME_VOTE,
                                 FRAME_VOTED, Frame, frame_check, message_decode)
from tests.sim.maps cimport Map, Words, push
from tests.sim.platter cimport File, Name, file_at, file_named, name_of

cdef enum:
    META_CRC_FROM = 16
    # between two looks at the clock: an acknowledgement may be as much later than it was decided
    SLACK_US = 100_000


class Violation(AssertionError):
    """A rule that protects data does not hold."""


cdef uint64_t time_of(Session s) noexcept:
    """Replicated time, and what is kept by it."""
    cdef uint64_t[3] all = [s.clock_ms, s.idempotency.horizon_ms, s.idempotency.count()]
    return <uint64_t>crc32c(<const char *>all, sizeof(all), 0) << 32


# ----------------------------------------------------------------------------------------- checks
cdef class Checks:
    def __cinit__(self, int nodes, int strategy):
        self.nodes = nodes
        self.mem_first = strategy == MEM_FIRST
        self.turns = [None] * nodes
        self.commands = []
        self.chain, self.leaders, self.votes = Map(), Map(), Map()
        self.sure, self.given, self.noops = Map(), Map(), Map()

    def __dealloc__(self):
        cdef int i
        for i in range(MAX_MEMBERS):
            free(self.logs[i].at)
            free(self.lost[i].at)
            free(self.rotten[i].at)
        free(self.committed.at)
        free(self.committed_in.at)
        free(self.committed_us.at)
        free(self.digests.at)

    cdef int booted(self, int node, Turn turn) except -1:
        """A restart forgets nothing that its disk held, and no term or vote that was saved."""
        cdef Words *log = &self.logs[node]
        cdef uint64_t held = self.cached[node]
        cdef uint64_t base = turn.raft.terms.base
        self.meta_synced(node)
        if base and held >= base and log.at[base - 1] != self.committed.at[base - 1]:
            held = base                     # a snapshot came, and the log did not lead to it
            while held and log.at[held - 1] != self.committed.at[held - 1]:
                held -= 1
            self.synced[node] = min(self.synced[node], held)
        if turn.meta.state.term != self.term[node] or turn.meta.state.vote != self.vote[node]:
            raise Violation(f"node {node + 1} had saved term {self.term[node]} and vote "
                            f"{self.vote[node]}, and starts with {turn.meta.state.term} and "
                            f"{turn.meta.state.vote}")
        if turn.log.last < held or (held > turn.raft.terms.base
                                    and log.at[held - 1] != key(turn, held)):
            raise Violation(f"node {node + 1} held entries up to {held}, and starts with "
                            f"{turn.log.last}")
        log.count = held
        if turn.machine.applied > self.synced[node]:    # in a snapshot, which is on its disk
            self.synced[node] = turn.machine.applied
        self.commit[node] = self.applied[node] = self.led[node] = 0
        self.turns[node] = turn
        return self.after(node, turn)

    cdef int dies(self, int node, Turn turn, bint power) except -1:
        """What its disk holds now must be there when it starts again: after a kill all that is in
        the page cache, after a loss of power what is on the platter."""
        self.see_disk(node, turn)
        if power:
            self.loses_cache(node)
        self.led[node] = 0
        self.turns[node] = None
        return 0

    cdef int loses_cache(self, int node) except -1:
        if self.mem_first:
            self.loses(node, self.synced[node])
        self.cached[node] = self.synced[node]
        return 0

    cdef int damaged(self, int node, uint64_t index) except -1:
        cdef uint64_t i
        for i in range(index - 1, self.synced[node]):
            push(&self.rotten[node], i + 1)
            push(&self.rotten[node], self.logs[node].at[i])
        self.loses(node, index - 1)
        self.synced[node] = min(self.synced[node], index - 1)
        self.cached[node] = self.synced[node]
        return 0

    cdef int loses(self, int node, uint64_t after) except -1:
        cdef uint64_t i
        for i in range(after, self.cached[node]):
            push(&self.lost[node], i + 1)
            push(&self.lost[node], self.logs[node].at[i])
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
        cdef Words *lost = &self.lost[node]
        cdef size_t i
        cdef uint64_t at
        for i in range(0, lost.count, 2):
            at = lost.at[i]
            if at <= self.committed.count and self.committed.at[at - 1] == lost.at[i + 1] and (
                    self.logs[node].count < at or self.logs[node].at[at - 1] != lost.at[i + 1]):
                return at
        return 0

    cdef int forget(self, int node) except -1:
        """Its directory is gone: nothing that it held counts."""
        self.logs[node].count = self.lost[node].count = self.rotten[node].count = 0
        self.cached[node] = self.synced[node] = self.term[node] = self.vote[node] = 0
        return 0

    cdef int renewed(self, int node, uint64_t term) except -1:
        """It may have saved a later term than any other node, and told nobody."""
        self.term[node] = term
        self.vote[node] = node + 1
        return 0

    cdef int after(self, int node, Turn turn) except -1:
        cdef uint64_t digest, i
        if turn.raft.last != turn.log.last and turn.failed is None:
            raise Violation(f"node {node + 1}: raft ends at {turn.raft.last}, the log at "
                            f"{turn.log.last}")
        self.see_log(node, turn)
        i = turn.raft.known_leader()
        if i and self.leaders.get(turn.raft.saved_term) != i and turn.raft.role != LEADER:
            raise Violation(f"node {node + 1} says that {i} leads term {turn.raft.saved_term}")
        if turn.log.synced > self.synced[node]:
            self.see_disk(node, turn)
            if turn.log.synced > self.synced[node]:
                raise Violation(f"node {node + 1} takes entries up to {turn.log.synced} for "
                                f"synced, the platter has {self.synced[node]}")
        if turn.raft.role == LEADER:
            self.see_leader(node, turn)
        else:
            self.led[node] = 0
        if turn.raft.commit != self.commit[node]:
            self.see_commit(node, turn)
        i = turn.machine.applied
        if i == self.applied[node]:
            return 0
        if i < self.applied[node]:
            raise Violation(f"node {node + 1}: applied falls from {self.applied[node]} to {i}")
        self.applied[node] = i
        digest = (turn.kv.digest() ^ time_of(turn.session)) | 1
        while self.digests.count <= i:
            push(&self.digests, 0)
        if self.digests.at[i] == 0:
            self.digests.at[i] = digest
        if self.digests.at[i] != digest:
            raise Violation(f"node {node + 1} has another state at {i} than the node that applied "
                            "it first")
        return 0

    cdef int see_log(self, int node, Turn turn) except -1:
        """Log matching: equal (index, term) is an equal crc, and so an equal chain before it."""
        cdef Words *log = &self.logs[node]
        cdef uint64_t last = turn.log.last, i = min(<uint64_t>log.count, last), term, entry
        cdef uint64_t base = turn.raft.terms.base
        while i > base and log.at[i - 1] != key(turn, i):
            i -= 1
        while 0 < i <= base and log.at[i - 1] != self.committed.at[i - 1]:
            i -= 1
        if i < log.count:
            self.cuts += 1
            if i < self.commit[node]:
                raise Violation(f"node {node + 1} cut to {i} below its commit {self.commit[node]}")
            log.count = i
            self.cached[node] = min(self.cached[node], i)
            self.synced[node] = min(self.synced[node], i)
        self.see_snapshot(node, turn)
        while i < last:
            i += 1
            # What a snapshot holds is committed; the digest of the store tells whether it does.
            entry = key(turn, i) if i > base else self.committed.at[i - 1]
            push(log, entry)
            term = entry >> 32
            if self.chain.first(i << 24 | term, entry) != entry:
                raise Violation(f"node {node + 1}: entry {i} of term {term} is not the one that "
                                "another node has")
        return 0

    cdef int see_snapshot(self, int node, Turn turn) except -1:
        """What left its log is in a snapshot, also where the log never held it."""
        cdef uint64_t base = turn.raft.terms.base
        if base > self.synced[node]:
            if not self.has_snapshot(node, base):
                raise Violation(f"node {node + 1} drops its log up to {base}, and has no snapshot "
                                "of it on its disk")
            self.synced[node] = base
            self.cached[node] = max(self.cached[node], base)
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
        cdef const Segment *s = turn.log.holder(index)
        cdef File *f = NULL if s == NULL else file_at(self.disks[node], s.fd)
        cdef const Record *r
        cdef uint64_t at
        if f == NULL:
            return False
        at = offset_of(s, index)
        r = <const Record *>(f.cache + at)
        if r.index != index or r.crc != <uint32_t>self.logs[node].at[index - 1] or (
                r.crc != crc32c(f.cache + at + 8, r.length - 8, turn.log.crc_at(index - 1))):
            return False
        return not platter or (at + r.length <= f.synced_size
                               and memcmp(f.cache, f.platter, PAGE) == 0        # its header
                               and memcmp(f.cache + at, f.platter + at, r.length) == 0)

    cdef int see_disk(self, int node, Turn turn) except -1:
        """How far its entries are in the page cache and on the platter: the bytes are compared."""
        cdef uint64_t last = self.logs[node].count
        self.see_snapshot(node, turn)
        while self.synced[node] < last and self.lies(node, turn, self.synced[node] + 1, True):
            self.synced[node] += 1
        if self.cached[node] < self.synced[node]:
            self.cached[node] = self.synced[node]
        while self.cached[node] < last and self.lies(node, turn, self.cached[node] + 1, False):
            self.cached[node] += 1
        return 0

    cdef int see_leader(self, int node, Turn turn) except -1:
        cdef uint64_t term = turn.raft.term
        cdef int i, votes = 0, sure = 0
        if turn.raft.noop:
            self.noops.put(term, turn.raft.noop)
        if self.led[node] == term:
            return 0
        self.led[node] = term
        self.elections += 1
        self.by_all += turn.raft.by_all
        i = <int>self.leaders.first(term, node + 1)
        if i != node + 1:
            raise Violation(f"nodes {node + 1} and {i} both lead term {term}")
        for i in range(self.nodes):
            votes += self.votes.get(term << 4 | i) == <uint64_t>node + 1
            sure += self.sure.get(term << 4 | i) == <uint64_t>node + 1
        if votes < self.nodes and (2 * sure <= self.nodes or (
                turn.raft.commit == 0 and self.committed.count == 0 and not turn.raft.formed)):
            raise Violation(f"node {node + 1} leads term {term} by {votes} durable votes, {sure} "
                            "without doubt")
        return self.complete(node)

    cdef int complete(self, int node) except -1:
        """Leader completeness: it has all that leaders of earlier terms committed."""
        cdef Words *log = &self.logs[node]
        cdef size_t n = self.committed.count
        while n and self.committed_in.at[n - 1] >= self.led[node]:
            n -= 1
        if n and (log.count < n or log.at[n - 1] != self.committed.at[n - 1]):
            if self.turns[node] is not None and (<Turn>self.turns[node]).raft.by_all:
                return self.gives_up(node, n)
            raise Violation(f"node {node + 1} leads term {self.led[node]} without the committed "
                            f"entry {n}")
        return 0

    cdef int gives_up(self, int node, size_t n) except -1:
        """Elected by all, as a majority may have forgotten: it has what any voter kept."""
        cdef Words *log = &self.logs[node]
        cdef size_t kept = min(n, log.count), i
        cdef int j
        while kept and log.at[kept - 1] != self.committed.at[kept - 1]:
            kept -= 1
        for j in range(self.nodes):
            if self.logs[j].count > kept and self.logs[j].at[kept] == self.committed.at[kept] and (
                    max(self.cached[j], self.synced[j]) > kept):
                raise Violation(f"node {node + 1} leads term {self.led[node]} without the "
                                f"committed entry {kept + 1}, which node {j + 1} has")
        if not self.mem_first or self.committed_us.at[n - 1] > (
                self.committed_us.at[kept] + self.max_unflushed_us + SLACK_US):
            raise Violation(f"entries {kept + 1} to {n} are lost, acknowledged over more than may "
                            "be unflushed")
        self.lost_writes += n - kept
        self.committed.count = self.committed_in.count = self.committed_us.count = kept
        self.commands = [c for c in self.commands if c[0] <= kept]
        for i in range(kept + 1, self.digests.count):
            self.digests.at[i] = 0
        return 0

    cdef int see_commit(self, int node, Turn turn) except -1:
        cdef uint64_t i, commit = turn.raft.commit
        cdef int j, holders, syncers
        cdef bint same
        cdef Words *log = &self.logs[node]
        if commit < self.commit[node]:
            raise Violation(f"node {node + 1}: commit falls from {self.commit[node]} to {commit}")
        if commit > log.count:
            raise Violation(f"node {node + 1} commits {commit} and holds {log.count}")
        if turn.raft.role == LEADER and log.at[commit - 1] >> 32 != turn.raft.term:
            raise Violation(f"node {node + 1} leads term {turn.raft.term} and commits up to entry "
                            f"{commit} of term {log.at[commit - 1] >> 32}")
        for i in range(self.commit[node], commit):
            if i < self.committed.count:
                if self.committed.at[i] != log.at[i]:
                    raise Violation(f"node {node + 1} commits another entry {i + 1}")
                continue
            holders = syncers = 0
            for j in range(self.nodes):
                same = self.logs[j].count > i and self.logs[j].at[i] == log.at[i]
                if same and self.turns[j] is not None:
                    self.see_disk(j, <Turn>self.turns[j])
                # or it had, and may have said so before
                holders += (same and (self.cached[j] if self.mem_first else self.synced[j]) > i
                            or self.had(&self.lost[j], i + 1, log.at[i]))
                syncers += (same and self.synced[j] > i
                            or self.had(&self.rotten[j], i + 1, log.at[i]))
            if 2 * holders <= self.nodes:
                raise Violation(f"node {node + 1} commits entry {i + 1}, which {holders} hold")
            if self.noops.get(log.at[i] >> 32) == i + 1 and 2 * syncers <= self.nodes:
                raise Violation(f"node {node + 1} commits the no-op {i + 1}, synced "
                                f"by {syncers}")
            push(&self.committed, log.at[i])
            push(&self.committed_in, turn.raft.term)
            push(&self.committed_us, self.now_us[0])
            self.note_command(turn, i + 1)
            for j in range(self.nodes):         # an older leader may commit late
                if self.led[j] > turn.raft.term:
                    self.complete(j)
        self.commit[node] = commit
        return 0

    cdef int note_command(self, Turn turn, uint64_t index) except -1:
        cdef const Record *r = <const Record *>turn.log.record(index)
        if r.kind == ENTRY_COMMAND:
            self.commands.append((index, (<const char *>r)[RECORD_HEADER:r.length]))
        elif r.kind == ENTRY_NOOP and r.length > RECORD_HEADER:
            self.commands.append((index,
                                  (<const uint64_t *>(<const char *>r + RECORD_HEADER))[0]))
        elif r.kind == ENTRY_TICK:
            self.commands.append((index, (
                (<const uint64_t *>(<const char *>r + RECORD_HEADER))[0],
                (<const uint64_t *>(<const char *>r + RECORD_HEADER))[1])))
        return 0

    cdef int meta_synced(self, int node) except -1:
        """The newest good slot on the platter is what the node can never take back."""
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
        if best.term < self.term[node] or (best.term == self.term[node] and self.vote[node]
                                           and best.vote != self.vote[node]):
            raise Violation(f"node {node + 1} saves term {best.term} and vote {best.vote} over "
                            f"term {self.term[node]} and vote {self.vote[node]}")
        self.term[node] = best.term
        self.vote[node] = best.vote
        if best.vote:
            self.votes.put(best.term << 4 | node, best.vote)
            if best.doubt == 0:
                self.sure.put(best.term << 4 | node, best.vote)
        return 0

    cdef int at_rest(self, int node, bint broken) except -1:
        """One bad copy of the hard state is always covered by the other."""
        cdef File *f = file_named(self.disks[node], self.meta_paths[node])
        if f != NULL and not broken and memcmp(f.platter, f.platter + PAGE, sizeof(MetaSlot)):
            raise Violation(f"node {node + 1}: the two copies of its hard state differ at rest")
        return 0

    cdef int sends(self, int node, Turn turn, int to, const char *data, size_t n) except -1:
        """What is said relies on durable bytes only."""
        cdef size_t used = 0
        while n:
            self.sends_one(node, turn, to, data, n, &used)
            data += used
            n -= used
        return 0

    cdef int sends_one(self, int node, Turn turn, int to, const char *at, size_t n,
                       size_t *used) except -1:
        cdef Frame f
        cdef Message m
        cdef uint64_t held, noop
        cdef bint voted
        if frame_check(at, n, &f, used) != FRAME_OK:
            raise Violation(f"node {node + 1} sends what is no frame")
        if f.kind < FRAME_VOTE or f.kind > FRAME_DURABLE or (
                f.kind <= FRAME_VOTED and f.flags & PRE):
            return 0
        if f.term > self.term[node]:
            raise Violation(f"node {node + 1} speaks in term {f.term}, saved {self.term[node]}")
        voted = f.kind == FRAME_VOTED and f.flags & GRANTED
        if voted and self.term[node] > f.term:  # it can vote in that term no more: as good as saved
            self.votes.first(f.term << 4 | node, to + 1)
            if not f.flags & MARKED:
                self.sure.first(f.term << 4 | node, to + 1)
        if voted and self.votes.get(f.term << 4 | node) != <uint64_t>to + 1:
            raise Violation(f"node {node + 1} votes for {to + 1} in term {f.term} before that is "
                            "saved")
        if voted and self.given.first(f.term << 4 | node, to + 1) != <uint64_t>to + 1:
            raise Violation(f"node {node + 1} votes for {to + 1} in term {f.term}, in which it has "
                            f"voted for {self.given.get(f.term << 4 | node)}")
        if voted and not f.flags & MARKED and self.forgets(node):
            raise Violation(f"node {node + 1} votes for {to + 1} without a mark, and has forgotten "
                            f"the committed entry {self.forgets(node)}")
        # What it said in an earlier term, a new leader may have cut in this very turn.
        if f.kind == FRAME_DURABLE and f.term == turn.raft.term:
            memset(&m, 0, sizeof(m))
            message_decode(&f, to + 1, &m)
            self.see_disk(node, turn)
            held = self.cached[node] if self.mem_first else self.synced[node]
            if m.index > held:
                raise Violation(f"node {node + 1} acknowledges {m.index} and holds {held}")
            noop = self.noops.get(f.term)
            if noop and self.synced[node] < noop <= m.index:
                raise Violation(f"node {node + 1} acknowledges the no-op {noop}, synced "
                                f"{self.synced[node]}")
        return 0


cdef inline uint64_t key(Turn turn, uint64_t index) except? 0:
    return turn.raft.terms.at(index) << 32 | <uint64_t>turn.log.crc_at(index)
