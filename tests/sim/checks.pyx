"""The invariants of Raft and of the durability table, checked online from what the nodes show.

It decides what is a violation. It reads the nodes and changes nothing; node i has the id i + 1.
"""
from bisect import bisect_left

from libc.string cimport memset

from dengine._core.meta cimport MetaSlot
from dengine._core.consensus cimport GRANTED, LEADER, PRE, Message
from dengine._core.types cimport MEM_FIRST
from dengine._core.wire cimport (FRAME_DURABLE, FRAME_OK, FRAME_VOTE,
                                 FRAME_VOTED, Frame, frame_check, message_decode)


class Violation(AssertionError):
    """A rule that protects data does not hold."""


cdef class Checks:
    def __cinit__(self, int nodes, int strategy):
        cdef int i
        self.nodes = nodes
        self.mem_first = strategy == MEM_FIRST
        self.committed = []
        self.committed_in = []
        self.leaders = {}
        self.chain = {}
        self.digests = {}
        self.votes = {}
        self.noops = {}
        self.logs = [[] for _ in range(nodes)]
        for i in range(nodes):
            self.held[i] = self.synced[i] = self.term[i] = self.vote[i] = 0
            self.commit[i] = self.applied[i] = self.led[i] = 0

    cdef int booted(self, int node, Turn turn) except -1:
        """A restart forgets nothing that its files held, and no term or vote that was saved."""
        cdef list log = <list>self.logs[node]
        cdef uint64_t held = self.held[node]
        if turn.meta.state.term != self.term[node] or turn.meta.state.vote != self.vote[node]:
            raise Violation(f"node {node + 1} had saved term {self.term[node]} and vote "
                            f"{self.vote[node]}, and starts with {turn.meta.state.term} and "
                            f"{turn.meta.state.vote}")
        if turn.log.last < held or (held and log[held - 1] != key(turn, held)):
            raise Violation(f"node {node + 1} held entries up to {held}, and starts with "
                            f"{turn.log.last}")
        del log[held:]
        self.commit[node] = self.applied[node] = self.led[node] = 0
        return self.after(node, turn)

    cdef int forget(self, int node) except -1:
        """Its directory is gone: nothing that it held counts."""
        (<list>self.logs[node]).clear()
        self.held[node] = self.synced[node] = self.term[node] = self.vote[node] = 0
        return 0

    cdef int after(self, int node, Turn turn) except -1:
        if turn.raft.last != turn.log.last and turn.failed is None:
            raise Violation(f"node {node + 1}: raft ends at {turn.raft.last}, the log at "
                            f"{turn.log.last}")
        self.see_log(node, turn)
        if turn.raft.role == LEADER:
            self.see_leader(node, turn)
        else:
            self.led[node] = 0
        if turn.raft.commit != self.commit[node]:
            self.see_commit(node, turn)
        if turn.machine.applied < self.applied[node]:
            raise Violation(f"node {node + 1}: applied falls from {self.applied[node]} to "
                            f"{turn.machine.applied}")
        if turn.machine.applied > self.applied[node]:
            self.applied[node] = turn.machine.applied
            digest = turn.kv.digest()
            if self.digests.setdefault(turn.machine.applied, digest) != digest:
                raise Violation(f"node {node + 1} has another state at {turn.machine.applied} "
                                "than the node that applied it first")
        return 0

    cdef int see_log(self, int node, Turn turn) except -1:
        """Log matching: equal (index, term) is an equal crc, and so an equal chain before it."""
        cdef list log = <list>self.logs[node]
        cdef uint64_t last = turn.log.last, i = min(<uint64_t>len(log), last)
        while i and log[i - 1] != key(turn, i):
            i -= 1
        if i < <uint64_t>len(log):
            self.cuts += 1
            if i < self.commit[node]:
                raise Violation(f"node {node + 1} cut to {i} below its commit {self.commit[node]}")
            del log[i:]
        while i < last:
            i += 1
            entry = key(turn, i)
            log.append(entry)
            if self.chain.setdefault((i, turn.raft.terms.at(i)), entry) != entry:
                raise Violation(f"node {node + 1}: entry {i} of term {turn.raft.terms.at(i)} is "
                                "not the one that another node has")
        self.synced[node] = min(turn.log.synced, last)
        self.held[node] = min(turn.log.written, last) if self.mem_first else self.synced[node]
        return 0

    cdef int see_leader(self, int node, Turn turn) except -1:
        cdef uint64_t term = turn.raft.term
        cdef int i, votes = 0
        if turn.raft.noop:
            self.noops[term] = turn.raft.noop
        if self.led[node] == term:
            return 0
        self.led[node] = term
        self.elections += 1
        if self.leaders.setdefault(term, node) != node:
            raise Violation(f"nodes {node + 1} and {self.leaders[term] + 1} both lead term {term}")
        for i in range(self.nodes):
            votes += self.votes.get((term, i), 0) == node + 1
        if 2 * votes <= self.nodes or (turn.raft.commit == 0 and not self.committed
                                       and not turn.raft.formed and votes < self.nodes):
            raise Violation(f"node {node + 1} leads term {term} by {votes} durable votes")
        return self.complete(node)

    def complete(self, int node):
        """Leader completeness: it has all that leaders of earlier terms committed."""
        cdef list log = <list>self.logs[node]
        cdef Py_ssize_t n = bisect_left(self.committed_in, self.led[node])
        if n and (len(log) < n or log[n - 1] != self.committed[n - 1]):
            raise Violation(f"node {node + 1} leads term {self.led[node]} without the committed "
                            f"entry {n}")
        return 0

    cdef int see_commit(self, int node, Turn turn) except -1:
        cdef uint64_t i, commit = turn.raft.commit
        cdef int j, holders, syncers
        cdef list log = <list>self.logs[node]
        if commit < self.commit[node]:
            raise Violation(f"node {node + 1}: commit falls from {self.commit[node]} to {commit}")
        for i in range(self.commit[node], commit):
            if i < <uint64_t>len(self.committed):
                if self.committed[i] != log[i]:
                    raise Violation(f"node {node + 1} commits another entry {i + 1}")
                continue
            holders = syncers = 0
            for j in range(self.nodes):
                if self.held[j] > i and self.logs[j][i] == log[i]:
                    holders += 1
                    syncers += self.synced[j] > i
            if 2 * holders <= self.nodes:
                raise Violation(f"node {node + 1} commits entry {i + 1}, which {holders} hold")
            if self.noops.get(log[i] >> 32) == i + 1 and 2 * syncers <= self.nodes:
                raise Violation(f"node {node + 1} commits the no-op {i + 1}, synced "
                                f"by {syncers}")
            self.committed.append(log[i])
            self.committed_in.append(turn.raft.term)
            for j in range(self.nodes):         # an older leader may commit late
                if self.led[j] > turn.raft.term:
                    self.complete(j)
        self.commit[node] = commit
        return 0

    cdef int saved(self, int node, const Job *job) except -1:
        cdef const MetaSlot *slot = <const MetaSlot *>job.iov[0].iov_base
        if slot.term < self.term[node] or (slot.term == self.term[node] and self.vote[node]
                                           and slot.vote != self.vote[node]):
            raise Violation(f"node {node + 1} saves term {slot.term} and vote {slot.vote} over "
                            f"term {self.term[node]} and vote {self.vote[node]}")
        self.term[node] = slot.term
        self.vote[node] = slot.vote
        if slot.vote:
            self.votes[slot.term, node] = slot.vote
        return 0

    cdef int sends(self, int node, Turn turn, int to, bytes data) except -1:
        """What is said relies on durable bytes only."""
        cdef const char *at = data
        cdef size_t n = len(data), used = 0
        while n:
            self.sends_one(node, turn, to, at, n, &used)
            at += used
            n -= used
        return 0

    cdef int sends_one(self, int node, Turn turn, int to, const char *at, size_t n,
                       size_t *used) except -1:
        cdef Frame f
        cdef Message m
        if frame_check(at, n, &f, used) != FRAME_OK:
            raise Violation(f"node {node + 1} sends what is no frame")
        if f.kind < FRAME_VOTE or f.kind > FRAME_DURABLE or (
                f.kind <= FRAME_VOTED and f.flags & PRE):
            return 0
        if f.term > self.term[node]:
            raise Violation(f"node {node + 1} speaks in term {f.term}, saved {self.term[node]}")
        voted = f.kind == FRAME_VOTED and f.flags & GRANTED
        if voted and self.term[node] > f.term:  # it can vote in that term no more: as good as saved
            self.votes.setdefault((f.term, node), to + 1)
        if voted and self.votes.get((f.term, node)) != to + 1:
            raise Violation(f"node {node + 1} votes for {to + 1} in term {f.term} before that is "
                            "saved")
        if f.kind == FRAME_DURABLE:
            memset(&m, 0, sizeof(m))
            message_decode(&f, to + 1, &m)
            held = turn.log.written if self.mem_first else turn.log.synced
            if m.index > held:
                raise Violation(f"node {node + 1} acknowledges {m.index} and holds {held}")
            noop = self.noops.get(f.term, 0)
            if noop and turn.log.synced < noop <= m.index:
                raise Violation(f"node {node + 1} acknowledges the no-op {noop}, synced "
                                f"{turn.log.synced}")
        return 0


cdef inline object key(Turn turn, uint64_t index):
    return turn.raft.terms.at(index) << 32 | <uint64_t>turn.log.crc_at(index)
