"""Raft alone, for tests that read like the paper: one call in, named messages out."""
from collections import namedtuple

from libc.stdint cimport uint64_t
from libc.string cimport memset

from dengine._core.consensus cimport MSG_APPEND, MSG_TIMEOUT_NOW, Message, Options, Run
from dengine._core.quorum cimport Config
from dengine._core.following cimport NO_CUT
from dengine._core.raft cimport Raft
from dengine._core.terms cimport Terms
from dengine._core.types cimport RUNS

Msg = namedtuple("Msg", "kind to term index index_term count commit round flags")
MS = 1000


cdef class BareRaft:
    """Node `id` of nodes 1 to `nodes`; `log` holds the term of each entry in its log."""
    cdef Raft raft
    cdef public uint64_t now
    cdef public uint64_t entry_bytes
    cdef readonly bint save                 # a hard state waits to be saved

    def __init__(self, uint64_t id=1, int nodes=3, log=(), uint64_t term=0, uint64_t vote=0,
                 uint64_t commit=0, bint formed=True, bint start_rule=False, uint64_t seed=7,
                 bint doubt=False):
        cdef Options o
        cdef Config c
        cdef Terms terms = Terms()
        cdef int i
        memset(&o, 0, sizeof(o))
        o.id = id
        o.seed = seed
        o.heartbeat_us = 100 * MS
        o.promise_us = 600 * MS
        o.timeout_us = 1200 * MS
        o.lease_us = 500 * MS
        o.doubt = doubt
        for entry in log:
            terms.append(entry, 1)
        self.now = 10_000 * MS
        self.entry_bytes = 100
        self.raft = Raft()
        self.raft.open(&o, terms, term, vote, commit, self.now)
        memset(&c, 0, sizeof(c))
        c.count = nodes
        for i in range(nodes):
            c.id[i] = i + 1
            c.voters |= 1 << i
        self.raft.adopt(&c, 1 if formed else 0, self.now)
        for i in range(nodes):
            if i + 1 != <int>id:
                self.raft.link_up(i + 1, self.now)
        if not start_rule:                  # it started long ago
            self.raft.promise_until_us = 0

    # ------------------------------------------------------------------------------------ inputs
    def tick(self, ms=0):
        """Time goes on by so many milliseconds, then the clock is looked at."""
        self.now += ms * MS
        self.raft.tick(self.now)
        return self.take()

    def campaigns(self):
        """Time goes on to its election timeout."""
        self.now = max(self.now, self.raft.election_due_us)
        return self.tick()

    def step(self, int kind, uint64_t peer, uint64_t term, uint64_t index=0, uint64_t index_term=0,
             entries=(), uint64_t commit=0, uint64_t round=0, int flags=0, uint64_t last=0):
        """One message; `entries` are terms, `last` is their end unless given. See `cut_to` and
        `append_from` after it."""
        cdef Message m
        cdef Run runs[RUNS]
        memset(&m, 0, sizeof(m))
        m.kind = kind
        m.peer = peer
        m.term = term
        m.index = index
        m.index_term = index_term
        m.count = len(entries)
        m.last = last or index + m.count
        m.commit = commit
        m.round = round
        m.flags = flags
        m.runs = runs
        for entry in entries:
            if m.run_count == 0 or runs[m.run_count - 1].term != entry:
                runs[m.run_count].term = entry
                runs[m.run_count].count = 0
                m.run_count += 1
            runs[m.run_count - 1].count += 1
        self.raft.step(&m, self.now)
        return self.take()

    def saved(self):
        """The hard state is on disk."""
        self.save = False
        self.raft.persisted(self.raft.version, 0, 0, self.now)
        return self.take()

    def durable(self, uint64_t index, uint64_t term=0):
        """Its own log is on disk up to here; `term` of that entry when it was written."""
        self.raft.persisted(0, term or self.raft.terms.at(index), index, self.now)
        return self.take()

    def propose(self, uint64_t n=1):
        self.raft.propose(n)
        return self.take()

    def read(self, uint64_t ticket, bint lease=False):
        """The grants that follow at once, and what is sent."""
        self.raft.read(ticket, lease, self.now)
        return self.grants()

    def compact(self, uint64_t to):
        self.raft.compact(to)

    def transfer(self, uint64_t to):
        self.raft.transfer(to, self.now)
        return self.take()

    def grants(self):
        out = [(self.raft.grants[i].ticket, self.raft.grants[i].index)
               for i in range(self.raft.grant_count)]
        self.raft.grant_count = 0
        return out

    def link_down(self, uint64_t peer):
        self.raft.link_down(peer, self.now)

    def link_up(self, uint64_t peer):
        self.raft.link_up(peer, self.now)
        return self.take()

    def stall(self, bint stalled=True):
        self.raft.stalled = stalled

    # ----------------------------------------------------------------------------------- outputs
    def take(self):
        """Ready, as the turn takes it; grants are kept."""
        cdef Message m
        cdef size_t n
        cdef int i
        grants = self.grants()
        out = []
        if self.raft.begin:
            self.raft.begun(1)
        self.save |= self.raft.save
        self.raft.save = False
        self.raft.start_round(self.now)
        for n in range(self.raft.out_count):
            out.append(named(&self.raft.out[n]))
        self.raft.taken()
        for i in range(self.raft.config.count):
            while self.raft.next_append(i, &m):
                m.count = min(m.count, max(<uint64_t>1, (1 << 20) // self.entry_bytes))
                out.append(named(&m))
                self.raft.sent(i, m.count, m.count * self.entry_bytes)
                if m.count == 0:
                    break
        for ticket, index in grants:
            self.raft.grant(ticket, index)
        return out

    @property
    def role(self):
        return ("follower", "precandidate", "candidate", "leader")[self.raft.role]

    @property
    def cut_to(self):
        return None if self.raft.cut_to == NO_CUT else self.raft.cut_to

    @property
    def append_from(self):
        return self.raft.append_from

    @property
    def promise_left_ms(self):
        return max(0, <long>self.raft.promise_until_us - <long>self.now) // MS

    @property
    def election_in_ms(self):
        return (<long>self.raft.election_due_us - <long>self.now) // MS

    @property
    def lease_left_ms(self):
        return max(0, <long>self.raft.lease_until_us - <long>self.now) // MS

    @property
    def leads(self):
        return self.raft.leads(self.now)

    @property
    def takes_writes(self):
        return self.raft.takes_writes(self.now)

    @property
    def log(self):
        return [self.raft.terms.at(i) for i in range(1, self.raft.last + 1)]

    def __getattr__(self, name):
        return getattr(self.raft, name)     # term, vote, leader, last, commit, diverged, ...


cdef object named(const Message *m):
    kinds = {2: "vote", 3: "voted", MSG_APPEND: "append", 5: "heard", 6: "durable",
             MSG_TIMEOUT_NOW: "timeout now"}
    return Msg(kinds[m.kind], m.peer, m.term, m.index, m.index_term, m.count, m.commit, m.round,
               m.flags)
