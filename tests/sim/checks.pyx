"""The invariants of Raft and of the durability table, checked online. See checks.pxd.

It decides what is a violation. It reads the nodes and changes nothing; node i has the id i + 1.
"""
from libc.stdlib cimport free
from libc.string cimport memset

from dengine._core.codec cimport (ENTRY_COMMAND, ENTRY_CONFIG, ENTRY_NOOP, ENTRY_TICK, Record)
from dengine._core.consensus cimport GRANTED, LEADER, MARKED, PRE, Message
from dengine._core.crc cimport crc32c
from dengine._core.members cimport VOTER, VOTER_OLD, Members, members_decode
from dengine._core.quorum cimport all_have, quorum_has
from dengine._core.session cimport Session
from dengine._core.types cimport RECORD_HEADER
from dengine._core.wire cimport (FRAME_DURABLE, FRAME_OK, FRAME_VOTE,
                                 FRAME_VOTED, Frame, frame_check, message_decode)
from tests.sim.maps cimport Map, Words, push

from tests.sim.holdings import Violation

cdef enum:
    # between two looks at the clock: an acknowledgement may be as much later than it was decided
    SLACK_US = 100_000


cdef uint64_t time_of(Session s) noexcept:
    """Replicated time, and what is kept by it."""
    cdef uint64_t[3] all = [s.clock_ms, s.idempotency.horizon_ms, s.idempotency.count()]
    return <uint64_t>crc32c(<const char *>all, sizeof(all), 0) << 32


# ----------------------------------------------------------------------------------------- checks
cdef class Checks(Holdings):
    def __cinit__(self, int nodes, int strategy):
        self.configs = []
        self.commands = []
        self.chain, self.leaders, self.given, self.noops = Map(), Map(), Map(), Map()

    def __dealloc__(self):
        free(self.committed_in.at)
        free(self.committed_us.at)
        free(self.digests.at)

    cdef int booted(self, int node, Turn turn) except -1:
        """A restart forgets nothing that its disk held, and no term or vote that was saved."""
        cdef int h = self.home[node]
        cdef Words *log = &self.logs[h]
        cdef uint64_t held = self.cached[h]
        cdef uint64_t base = turn.raft.terms.base
        self.meta_synced(node)
        if base and held >= base and log.at[base - 1] != self.committed.at[base - 1]:
            held = base                     # a snapshot came, and the log did not lead to it
            while held and log.at[held - 1] != self.committed.at[held - 1]:
                held -= 1
            self.synced[h] = min(self.synced[h], held)
        if turn.meta.state.term != self.term[h] or turn.meta.state.vote != self.vote[h]:
            raise Violation(f"node {node + 1} had saved term {self.term[h]} and vote "
                            f"{self.vote[h]}, and starts with {turn.meta.state.term} and "
                            f"{turn.meta.state.vote}")
        if turn.log.last < held or (held > turn.raft.terms.base
                                    and log.at[held - 1] != key(turn, held)):
            raise Violation(f"node {node + 1} held entries up to {held}, and starts with "
                            f"{turn.log.last}")
        log.count = held
        if turn.machine.applied > self.synced[h]:    # in a snapshot, which is on its disk
            self.synced[h] = turn.machine.applied
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

    cdef int after(self, int node, Turn turn) except -1:
        cdef int h = self.home[node]
        cdef uint64_t digest, i
        if turn.raft.last != turn.log.last and turn.failed is None:
            raise Violation(f"node {node + 1}: raft ends at {turn.raft.last}, the log at "
                            f"{turn.log.last}")
        self.see_log(node, turn)
        i = turn.raft.known_leader()
        if i and self.leaders.get(turn.raft.saved_term) != i and turn.raft.role != LEADER:
            raise Violation(f"node {node + 1} says that {i} leads term {turn.raft.saved_term}")
        if turn.log.synced > self.synced[h]:
            self.see_disk(node, turn)
            if turn.log.synced > self.synced[h]:
                raise Violation(f"node {node + 1} takes entries up to {turn.log.synced} for "
                                f"synced, the platter has {self.synced[h]}")
        if turn.raft.role == LEADER:
            self.see_leader(node, turn)
        else:
            self.led[node] = 0
        if turn.raft.commit != self.commit[node]:
            self.see_commit(node, turn)
        if turn.raft.config_index != self.config_index[node]:
            self.config_index[node] = turn.raft.config_index
            self.members_of[node] = turn.members
            self.config_of[node] = turn.raft.config
        i = turn.machine.applied
        if i == self.applied[node]:
            return 0
        if i < self.applied[node]:
            raise Violation(f"node {node + 1}: applied falls from {self.applied[node]} to {i}")
        self.applied[node] = i
        if self.may_be_ahead(turn):
            return 0
        digest = (turn.kv.digest() ^ time_of(turn.session)) | 1
        while self.digests.count <= i:
            push(&self.digests, 0)
        if self.digests.at[i] == 0:
            self.digests.at[i] = digest
        if self.digests.at[i] != digest:
            raise Violation(f"node {node + 1} has another state at {i} than the node that applied "
                            "it first")
        return 0

    cdef bint may_be_ahead(self, Turn turn) noexcept:
        """A learner may hold what all voters forgot."""
        return self.by_all and not turn.raft.surely_votes() and turn.raft.role != LEADER

    cdef int see_log(self, int node, Turn turn) except -1:
        """Log matching: equal (index, term) is an equal crc, and so an equal chain before it."""
        cdef int h = self.home[node]
        cdef Words *log = &self.logs[h]
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
            self.cached[h] = min(self.cached[h], i)
            self.synced[h] = min(self.synced[h], i)
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

    cdef int see_leader(self, int node, Turn turn) except -1:
        cdef uint64_t term = turn.raft.term
        cdef uint64_t home
        cdef uint32_t votes = 0, sure = 0
        cdef int i
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
        for i in range(turn.members.count):
            home = self.home_of(&turn.members, i)
            votes |= (self.votes.get(term << 16 | home) == <uint64_t>node + 1) << i
            sure |= (self.sure.get(term << 16 | home) == <uint64_t>node + 1) << i
        if not all_have(&turn.raft.config, votes) and (
                not quorum_has(&turn.raft.config, sure)
                or (turn.raft.commit == 0 and self.committed.count == 0
                    and turn.raft.config_index == 0)):
            raise Violation(f"node {node + 1} leads term {term} by the durable votes {votes:b}, "
                            f"{sure:b} without doubt")
        return self.complete(node)

    cdef int complete(self, int node) except -1:
        """Leader completeness: it has all that leaders of earlier terms committed."""
        cdef int h = self.home[node]
        cdef Words *log = &self.logs[h]
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
        cdef Words *log = &self.logs[self.home[node]]
        cdef Turn turn = <Turn>self.turns[node]
        cdef size_t kept = min(n, log.count), i
        cdef uint64_t h
        cdef int j
        while kept and log.at[kept - 1] != self.committed.at[kept - 1]:
            kept -= 1
        for j in range(turn.members.count):
            if not turn.members.flags[j] & (VOTER | VOTER_OLD):
                continue
            h = self.home_of(&turn.members, j)
            if self.logs[h].count > kept and self.logs[h].at[kept] == self.committed.at[kept] and (
                    max(self.cached[h], self.synced[h]) > kept):
                raise Violation(f"node {node + 1} leads term {self.led[node]} without the "
                                f"committed entry {kept + 1}, which node {turn.members.id[j]} has")
        if not self.mem_first or self.committed_us.at[n - 1] > (
                self.committed_us.at[kept] + self.max_unflushed_us + SLACK_US):
            raise Violation(f"entries {kept + 1} to {n} are lost, acknowledged over more than may "
                            "be unflushed")
        self.lost_writes += n - kept
        self.committed.count = self.committed_in.count = self.committed_us.count = kept
        self.commands = [c for c in self.commands if c[0] <= kept]
        self.configs = [c for c in self.configs if c[0] <= kept]
        self.members = self.configs[len(self.configs) - 1][1] if self.configs else {}
        for i in range(kept + 1, self.digests.count):
            self.digests.at[i] = 0
        return 0

    cdef int see_commit(self, int node, Turn turn) except -1:
        cdef int h = self.home[node]
        cdef uint64_t i, commit = turn.raft.commit
        cdef bint noop
        cdef int j
        cdef Words *log = &self.logs[h]
        if commit < self.commit[node]:
            raise Violation(f"node {node + 1}: commit falls from {self.commit[node]} to {commit}")
        if commit > log.count:
            raise Violation(f"node {node + 1} commits {commit} and holds {log.count}")
        if turn.raft.role == LEADER and log.at[commit - 1] >> 32 != turn.raft.term:
            raise Violation(f"node {node + 1} leads term {turn.raft.term} and commits up to entry "
                            f"{commit} of term {log.at[commit - 1] >> 32}")
        for i in range(self.commit[node], commit):
            if i < self.committed.count:
                if self.committed.at[i] != log.at[i] and self.may_be_ahead(turn):
                    break
                if self.committed.at[i] != log.at[i]:
                    raise Violation(f"node {node + 1} commits another entry {i + 1}")
                continue
            for j in range(self.nodes):
                if self.turns[j] is not None:
                    self.see_disk(j, <Turn>self.turns[j])
            noop = self.noops.get(log.at[i] >> 32) == i + 1 or (
                (<const Record *>turn.log.record(i + 1)).kind == ENTRY_CONFIG)
            if not self.quorum_holds(&turn.members, &turn.raft.config, i, log.at[i], noop) and (
                    turn.raft.config_index == self.config_index[node]   # else both, in this step
                    or not self.quorum_holds(&self.members_of[node], &self.config_of[node], i,
                                             log.at[i], noop)):
                raise Violation(f"node {node + 1} commits entry {i + 1}"
                                f"{', which has to be synced,' if noop else ''} and no quorum "
                                "has it")
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
        cdef Members m
        cdef int i
        if r.kind == ENTRY_COMMAND:
            self.commands.append((index, (<const char *>r)[RECORD_HEADER:r.length]))
        elif r.kind == ENTRY_NOOP and r.length > RECORD_HEADER:
            self.commands.append((index,
                                  (<const uint64_t *>(<const char *>r + RECORD_HEADER))[0]))
        elif r.kind == ENTRY_CONFIG:
            memset(&m, 0, sizeof(m))
            members_decode(<const char *>r + RECORD_HEADER, r.length - RECORD_HEADER, &m)
            self.members = {m.incarnation[i]: m.id[i] for i in range(m.count)}
            self.configs.append((index, self.members))
        elif r.kind == ENTRY_TICK:
            self.commands.append((index, (
                (<const uint64_t *>(<const char *>r + RECORD_HEADER))[0],
                (<const uint64_t *>(<const char *>r + RECORD_HEADER))[1])))
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
        cdef int h = self.home[node]
        cdef Frame f
        cdef Message m
        cdef uint64_t held, noop
        cdef bint voted
        if frame_check(at, n, &f, used) != FRAME_OK:
            raise Violation(f"node {node + 1} sends what is no frame")
        if f.kind < FRAME_VOTE or f.kind > FRAME_DURABLE or (
                f.kind <= FRAME_VOTED and f.flags & PRE):
            return 0
        if f.term > self.term[h]:
            raise Violation(f"node {node + 1} speaks in term {f.term}, saved {self.term[h]}")
        voted = f.kind == FRAME_VOTED and f.flags & GRANTED
        if voted and self.term[h] > f.term:  # it can vote in that term no more: as good as saved
            self.votes.first(f.term << 16 | h, to + 1)
            if not f.flags & MARKED:
                self.sure.first(f.term << 16 | h, to + 1)
        if voted and self.votes.get(f.term << 16 | h) != <uint64_t>to + 1:
            raise Violation(f"node {node + 1} votes for {to + 1} in term {f.term} before that is "
                            "saved")
        if voted and self.given.first(f.term << 16 | h, to + 1) != <uint64_t>to + 1:
            raise Violation(f"node {node + 1} votes for {to + 1} in term {f.term}, in which it has "
                            f"voted for {self.given.get(f.term << 16 | h)}")
        if voted and not f.flags & MARKED and self.forgets(node):
            raise Violation(f"node {node + 1} votes for {to + 1} without a mark, and has forgotten "
                            f"the committed entry {self.forgets(node)}")
        # What it said in an earlier term, a new leader may have cut in this very turn.
        if f.kind == FRAME_DURABLE and f.term == turn.raft.term:
            memset(&m, 0, sizeof(m))
            message_decode(&f, to + 1, &m)
            self.see_disk(node, turn)
            held = self.cached[h] if self.mem_first else self.synced[h]
            if m.index > held:
                raise Violation(f"node {node + 1} acknowledges {m.index} and holds {held}")
            noop = self.noops.get(f.term)
            if noop and self.synced[h] < noop <= m.index:
                raise Violation(f"node {node + 1} acknowledges the no-op {noop}, synced "
                                f"{self.synced[h]}")
        return 0


cdef inline uint64_t key(Turn turn, uint64_t index) except? 0:
    return turn.raft.terms.at(index) << 32 | <uint64_t>turn.log.crc_at(index)
