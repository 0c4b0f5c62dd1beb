"""Consensus: elections, replication, commitment, reads by rounds, leases.

It decides who leads and what is committed. It knows no bytes of entries, no clock and no I/O; see
raft.pxd for what goes in and out. References: R is the Raft paper (Ongaro and Ousterhout 2014),
D Ongaro's dissertation.
"""
from libc.stdlib cimport free, realloc
from libc.string cimport memmove, memset

from dengine._core.quorum cimport (all_have, is_voter, quorum_has, quorum_value, slot_of, sole_voter,
                                   voters_below)
from dengine._core.types cimport RUNS, WINDOW_BYTES, likely, unlikely

from dengine.errors import InvariantError


cdef void *grown(void *array, int count, int *capacity, size_t size) except NULL:
    """`array` with room for one element more."""
    if array != NULL and count < capacity[0]:
        return array
    cdef int more = 2 * capacity[0] if capacity[0] else 16
    cdef void *to = realloc(array, more * size)
    if to == NULL:
        raise MemoryError
    capacity[0] = more
    return to


cdef class Raft:
    def __cinit__(self):
        self.out = NULL
        self.grants = NULL
        self.held = NULL
        self.waiting = NULL
        self.terms = Terms()
        memset(&self.config, 0, sizeof(self.config))
        memset(self.peers, 0, sizeof(self.peers))

    def __dealloc__(self):
        free(self.out)
        free(self.grants)
        free(self.held)
        free(self.waiting)

    # ------------------------------------------------------------------------------------- life
    cdef int open(self, const Options *opt, Terms terms, uint64_t term, uint64_t vote,
                  uint64_t commit, uint64_t now_us) except -1:
        self.opt = opt[0]
        self.random = opt.seed | 1
        self.terms = terms
        self.term = term
        self.vote = vote
        self.last = terms.last
        self.durable = terms.last               # recovery has synced what it accepted
        self.commit = commit if commit < self.last else self.last
        self.cut_to = NO_CUT
        if term:                                # the start rule: it may have heard a leader
            self.promise_until_us = now_us + opt.promise_us
        if terms.last_term() > term:
            raise InvariantError(f"the log holds term {terms.last_term()}, the hard state {term}")
        return 0

    cdef int adopt(self, const Config *config, bint formed, uint64_t now_us) except -1:
        """A configuration acts from its append, or is the one that would form the cluster."""
        cdef bint first = self.config.count == 0
        self.config = config[0]
        self.formed = formed
        if not first:
            return 0
        if sole_voter(config, self.opt.id):
            self.election_due_us = now_us       # a single node leads at once
            return 0
        if formed:                              # the start rule
            self.promise_until_us = now_us + self.opt.promise_us
        self.reset_election(now_us)
        if not formed:
            if now_us < self.promise_until_us:
                now_us = self.promise_until_us
            self.election_due_us = now_us + voters_below(config, self.opt.id) * RANK_US
        return 0

    # ----------------------------------------------------------------------------------- inputs
    cdef int tick(self, uint64_t now_us) except -1:
        if self.role == LEADER:
            if self.stalled or self.diverged:
                self.follow(self.term, 0, now_us)
            elif sole_voter(&self.config, self.opt.id):
                return 0
            elif now_us > self.confirmed_us + self.opt.timeout_us:      # check-quorum, D 6.2
                self.follow(self.term, 0, now_us)
            elif now_us >= self.heartbeat_due_us:
                self.mark_due()
            return 0
        if (now_us >= self.election_due_us and not self.stalled and not self.diverged
                and is_voter(&self.config, self.opt.id)):
            self.campaign(not sole_voter(&self.config, self.opt.id), now_us)
        return 0

    cdef int step(self, const Message *m, uint64_t now_us) except -1:
        cdef int slot = slot_of(&self.config, m.peer)
        self.cut_to = NO_CUT
        self.append_from = 0
        if m.kind == MSG_APPEND:
            return self.on_append(m, now_us)
        if m.kind == MSG_VOTE:
            return self.on_vote(m, now_us)
        if m.term > self.term and not (m.kind == MSG_VOTED and m.flags & PRE and m.flags & GRANTED):
            return self.follow(m.term, 0, now_us)
        if slot < 0:
            return 0
        if m.kind == MSG_VOTED:
            return self.on_voted(m, now_us)
        if m.term < self.term or self.role != LEADER:
            return 0
        if m.kind == MSG_HEARD:
            return self.on_heard(m, slot, now_us)
        if m.kind == MSG_DURABLE:
            return self.on_durable(m, slot, now_us)
        return 0

    cdef int propose(self, uint64_t n) except -1:
        if unlikely(self.role != LEADER):
            raise InvariantError("a proposal on a node that does not lead")
        self.terms.append(self.term, n)
        self.last += n
        return 0

    cdef int begun(self, uint64_t n) except -1:
        self.begin = False
        self.propose(n)
        self.noop = self.last
        self.mark_due()
        return 0

    cdef int persisted(self, uint64_t version, uint64_t term, uint64_t index,
                       uint64_t now_us) except -1:
        if version > self.saved:
            self.saved = version
            self.release()
            if self.role == CANDIDATE and self.saved >= self.vote_version:
                self.count_votes(now_us)
        if index > self.durable and self.terms.at(index) == term:
            self.durable = index
            if self.role == LEADER:
                self.advance(now_us)
            else:
                self.announce(False)
        return 0

    cdef int link_up(self, uint64_t peer, uint64_t now_us) except -1:
        cdef int slot = slot_of(&self.config, peer)
        if slot < 0:
            return 0
        self.peers[slot].match = 0              # it may have restarted with less
        self.rewind(&self.peers[slot])
        self.peers[slot].up = True
        if self.role == LEADER:
            self.peers[slot].due = True
            self.round_due = True
        if peer == self.leader_lost:
            self.leader_lost = 0
            self.reset_election(now_us)
        return 0

    cdef int link_down(self, uint64_t peer, uint64_t now_us) except -1:
        cdef int slot = slot_of(&self.config, peer)
        cdef uint64_t due
        if slot < 0:
            return 0
        self.peers[slot].up = False
        self.rewind(&self.peers[slot])
        if peer == self.leader and self.role != LEADER:
            self.leader_lost = peer             # the promise stands, the election need not wait
            due = now_us if now_us > self.promise_until_us else self.promise_until_us
            self.election_due_us = due + voters_below(&self.config, self.opt.id) * RANK_US
        return 0

    cdef void want(self, int slot, uint64_t index) noexcept:
        if index > self.peers[slot].want:
            self.peers[slot].want = index
        if self.commit >= index and self.peers[slot].told < index:
            self.peers[slot].due = True

    # ------------------------------------------------------------------------------------ reads
    cdef int read(self, uint64_t ticket, bint lease, uint64_t now_us) except -1:
        """Grants `ticket` with the index that must be applied before it is answered (D 6.4)."""
        if unlikely(self.role != LEADER):
            raise InvariantError("a read index asked of a node that does not lead")
        if self.commit < self.noop or self.noop == 0:
            return self.wait(ticket, 0, 0)
        if (lease and now_us < self.lease_until_us) or sole_voter(&self.config, self.opt.id):
            return self.grant(ticket, self.commit)
        self.mark_due()                         # all reads of this turn share the next round
        return self.wait(ticket, self.commit, self.round + 1)

    cdef int wait(self, uint64_t ticket, uint64_t index, uint64_t round) except -1:
        self.waiting = <Waiting *>grown(self.waiting, self.waiting_count, &self.waiting_capacity,
                                        sizeof(Waiting))
        self.waiting[self.waiting_count].ticket = ticket
        self.waiting[self.waiting_count].index = index
        self.waiting[self.waiting_count].round = round
        self.waiting_count += 1
        return 0

    cdef int grant(self, uint64_t ticket, uint64_t index) except -1:
        self.grants = <Grant *>grown(self.grants, self.grant_count, &self.grant_capacity,
                                     sizeof(Grant))
        self.grants[self.grant_count].ticket = ticket
        self.grants[self.grant_count].index = index
        self.grant_count += 1
        return 0

    cdef int confirm(self, uint64_t now_us) except -1:
        """A quorum echoed a newer round: the lease moves on, reads that waited for it are granted."""
        cdef uint64_t heard[MAX_MEMBERS]
        cdef uint64_t round
        cdef int i, n = 0
        for i in range(self.config.count):
            heard[i] = self.round if self.config.id[i] == self.opt.id else self.peers[i].heard
        round = quorum_value(&self.config, heard)
        if round <= self.confirmed:
            return 0
        self.confirmed = round
        if self.round - round < ROUNDS:
            self.confirmed_us = self.round_us[round % ROUNDS]
            self.lease_until_us = self.confirmed_us + self.opt.lease_us
        while n < self.waiting_count and 0 < self.waiting[n].round <= round:
            self.grant(self.waiting[n].ticket, self.waiting[n].index)
            n += 1
        if n:
            self.waiting_count -= n
            memmove(self.waiting, self.waiting + n, self.waiting_count * sizeof(Waiting))
        return 0

    cdef int open_reads(self) except -1:
        """The no-op is committed: reads that came before it get their index and a round to wait for."""
        cdef bint alone = sole_voter(&self.config, self.opt.id)     # nobody echoes its rounds
        cdef int i
        for i in range(self.waiting_count):
            if alone:
                self.grant(self.waiting[i].ticket, self.commit)
            self.waiting[i].index = self.commit
            self.waiting[i].round = self.round + 1
        if alone:
            self.waiting_count = 0
        elif self.waiting_count:
            self.mark_due()
        return 0

    cdef bint leads(self, uint64_t now_us) noexcept:
        if self.role != LEADER or self.noop == 0 or self.commit < self.noop:
            return False
        return now_us < self.lease_until_us or sole_voter(&self.config, self.opt.id)

    # -------------------------------------------------------------------------------- elections
    cdef uint64_t draw(self, uint64_t below) noexcept:
        self.random ^= self.random << 13        # xorshift64
        self.random ^= self.random >> 7
        self.random ^= self.random << 17
        return self.random % below if below else 0

    cdef void reset_election(self, uint64_t now_us) noexcept:
        self.election_due_us = (now_us + self.opt.promise_us
                                + self.draw(self.opt.timeout_us - self.opt.promise_us))

    cdef int follow(self, uint64_t term, uint64_t leader, uint64_t now_us) except -1:
        if term > self.term:
            self.term = term
            self.vote = 0
            self.version += 1
            self.save = True
            self.verified = 0
            self.announced = 0
        if self.role == LEADER:
            self.steps_down += 1
            self.waiting_count = 0              # their askers ask the next leader
            self.lease_until_us = 0
            self.noop = 0
            self.begin = False
            self.round_due = False
        if self.role != FOLLOWER:
            self.role = FOLLOWER
            self.reset_election(now_us)
        if leader != self.leader:
            self.leader = leader
            self.verified = 0
            self.announced = 0
        return 0

    cdef int campaign(self, bint pre, uint64_t now_us) except -1:
        """A pre-vote asks whether an election would be won; only then the term is raised (D 9.6)."""
        cdef int i, self_slot = slot_of(&self.config, self.opt.id)
        cdef Message m
        self.leader = 0
        if pre:
            self.role = PRECANDIDATE
            self.votes = <uint32_t>1 << self_slot
        else:
            self.role = CANDIDATE
            self.elections += 1
            self.term += 1
            self.vote = self.opt.id
            self.votes = 0                      # its own counts once it is durable
            self.version += 1
            self.vote_version = self.version
            self.save = True
            self.verified = 0
            self.announced = 0
        if pre and self.leader_lost:
            self.election_due_us = now_us + RANK_US
        else:
            self.reset_election(now_us)
            if not self.formed:                 # everyone is here: no need to be patient
                self.election_due_us = now_us + self.opt.heartbeat_us + self.draw(
                    self.opt.heartbeat_us)
        for i in range(self.config.count):
            if i == self_slot or not (self.config.voters | self.config.outgoing) >> i & 1:
                continue
            message(&m, MSG_VOTE, self.config.id[i], self.term + 1 if pre else self.term)
            m.flags = PRE if pre else 0
            m.index = self.last
            m.index_term = self.terms.last_term()
            self.send(&m, not pre)
        return 0

    cdef int count_votes(self, uint64_t now_us) except -1:
        if self.role == CANDIDATE and self.saved >= self.vote_version:
            self.votes |= <uint32_t>1 << slot_of(&self.config, self.opt.id)
        # The first election of a cluster needs every vote: two halves cannot form two clusters.
        if not (quorum_has(&self.config, self.votes) if self.last
                else all_have(&self.config, self.votes)):
            return 0
        if self.role == PRECANDIDATE:
            return self.campaign(False, now_us)
        return self.lead(now_us)

    cdef int lead(self, uint64_t now_us) except -1:
        cdef int i
        self.role = LEADER
        self.leader = self.opt.id
        self.leader_lost = 0
        self.begin = True
        self.noop = 0
        self.round = 0
        self.confirmed = 0
        self.confirmed_us = now_us
        self.heartbeat_due_us = now_us
        self.lease_until_us = 0
        self.waiting_count = 0
        for i in range(self.config.count):
            self.peers[i].match = 0
            self.peers[i].next = self.last + 1
            self.peers[i].heard = 0
            self.peers[i].told = 0
            self.peers[i].want = 0
            self.peers[i].backoff = 0
            self.peers[i].frames = 0
            self.peers[i].bytes = 0
            self.peers[i].fetching = False
            self.peers[i].probing = True
            self.peers[i].diverged = False
        return 0

    cdef int on_vote(self, const Message *m, uint64_t now_us) except -1:
        cdef bint pre = (m.flags & PRE) != 0
        cdef bint bound = (now_us < self.promise_until_us
                           or (self.role == LEADER and (now_us < self.lease_until_us
                                                        or sole_voter(&self.config, self.opt.id))))
        cdef bint fresh, granted
        cdef Message reply
        if m.term > self.term and not bound and not pre:
            self.follow(m.term, 0, now_us)
        fresh = (m.index_term > self.terms.last_term()          # R 5.4.1
                 or (m.index_term == self.terms.last_term() and m.index >= self.last))
        granted = not bound and fresh and m.term >= self.term and not self.diverged
        if pre:
            granted = granted and m.term > self.term
        else:
            granted = granted and (self.vote == 0 or self.vote == m.peer)
            if granted and self.vote == 0:
                self.vote = m.peer
                self.version += 1
                self.save = True
            if granted:
                self.reset_election(now_us)
        message(&reply, MSG_VOTED, m.peer, m.term if granted else self.term)
        reply.flags = (PRE if pre else 0) | (GRANTED if granted else 0)
        return self.send(&reply, not pre)

    cdef int on_voted(self, const Message *m, uint64_t now_us) except -1:
        cdef bint pre = (m.flags & PRE) != 0
        if not m.flags & GRANTED:
            return 0
        if pre and self.role == PRECANDIDATE and m.term == self.term + 1:
            self.votes |= <uint32_t>1 << slot_of(&self.config, m.peer)
            return self.count_votes(now_us)
        if not pre and self.role == CANDIDATE and m.term == self.term:
            self.votes |= <uint32_t>1 << slot_of(&self.config, m.peer)
            return self.count_votes(now_us)
        return 0

    # ------------------------------------------------------------------------------ replication
    cdef int on_append(self, const Message *m, uint64_t now_us) except -1:
        cdef Message reply
        message(&reply, MSG_HEARD, m.peer, self.term)
        if m.term < self.term:
            reply.flags = REJECTED
            return self.send(&reply, True)
        if unlikely(m.term == self.term and self.role == LEADER):
            raise InvariantError(f"nodes {m.peer} and {self.opt.id} both lead term {m.term}")
        self.follow(m.term, m.peer, now_us)
        self.leader_lost = 0
        self.promise_until_us = now_us + self.opt.promise_us
        self.reset_election(now_us)
        reply.term = self.term
        reply.round = m.round
        if m.flags & DIVERGED:
            self.diverged = True
        if self.diverged:
            reply.flags = REJECTED | DIVERGED
        elif not self.matches(m, &reply):
            reply.flags = REJECTED
        else:
            self.accept(m)
            reply.index = m.index + m.count
            self.send(&reply, True)
            return self.announce(m.count == 0)
        return self.send(&reply, True)

    cdef int matches(self, const Message *m, Message *reply) except -1:
        """Does prev lie in this log? If not, where the two logs may still agree (R 5.3)."""
        if m.index < self.terms.base:
            return True                         # compacted, so committed, so equal
        if self.terms.at(m.index) == m.index_term and m.index <= self.last:
            return True
        if unlikely(m.index <= self.commit):
            raise InvariantError(
                f"the leader's entry {m.index} has term {m.index_term}, the committed one here "
                f"has {self.terms.at(m.index)}")
        reply.index = self.terms.agree(m.index, m.index_term)
        reply.index_term = self.terms.at(reply.index)
        return False

    cdef int accept(self, const Message *m) except -1:
        """Entries after a prev that matches: skip those here already, cut what conflicts (R 5.3)."""
        cdef uint64_t index = m.index, end = m.index + m.count, left
        cdef uint32_t run = 0
        left = m.runs[0].count if m.run_count else 0
        while index < end and index < self.last:        # entries that may be here already
            while left == 0:
                run += 1
                left = m.runs[run].count
            if index + 1 > self.terms.base and self.terms.at(index + 1) != m.runs[run].term:
                if unlikely(index < self.commit):
                    raise InvariantError(f"the leader would overwrite committed entry {index + 1}")
                self.cut_to = index
                self.terms.cut(index)
                self.last = index
                if self.durable > index:
                    self.durable = index
                break
            index += 1
            left -= 1
        if index < end:
            self.append_from = index + 1
            while index < end:
                while left == 0:
                    run += 1
                    left = m.runs[run].count
                self.terms.append(m.runs[run].term, left)
                index += left
                left = 0
            self.last = end
        if end > self.verified:
            self.verified = end
        index = m.commit if m.commit < end else end     # only what this message verified
        if index > self.commit:
            self.commit = index
        return 0

    cdef int announce(self, bint again) except -1:
        """Tells the leader how much of what matches its log is durable here."""
        cdef uint64_t index = self.durable if self.durable < self.verified else self.verified
        cdef Message m
        if (self.leader == 0 or self.leader == self.opt.id or index == 0 or self.diverged
                or not (index > self.announced or again)):
            return 0
        self.announced = index
        message(&m, MSG_DURABLE, self.leader, self.term)
        m.index = index
        return self.send(&m, True)

    cdef int on_heard(self, const Message *m, int slot, uint64_t now_us) except -1:
        cdef Progress *p = &self.peers[slot]
        cdef uint64_t next
        if m.round > p.heard and m.round <= self.round:
            p.heard = m.round
            self.confirm(now_us)
        if m.flags & DIVERGED:
            return self.on_diverged(p, now_us)
        if m.flags & REJECTED:
            next = self.terms.agree(m.index, m.index_term) + 1
            if m.round >= p.backoff and p.match < next <= p.next:
                self.rewind(p)
                p.next = next
                p.backoff = self.round + 1
                p.due = True
                self.round_due = True
            return 0
        if p.probing and m.index + 1 >= p.next and m.round >= p.backoff:
            p.probing = False
            p.next = m.index + 1 if m.index + 1 > p.next else p.next
        return 0

    cdef int on_diverged(self, Progress *p, uint64_t now_us) except -1:
        """Told so by a majority, the leader's own log is the odd one: it steps down for good."""
        cdef uint32_t slots = 0
        cdef int i
        p.diverged = True
        for i in range(self.config.count):
            if self.peers[i].diverged:
                slots |= <uint32_t>1 << i
        if quorum_has(&self.config, slots):
            self.diverged = True
            self.follow(self.term, 0, now_us)
        return 0

    cdef int on_durable(self, const Message *m, int slot, uint64_t now_us) except -1:
        cdef Progress *p = &self.peers[slot]
        if m.index > self.last:
            raise InvariantError(f"node {m.peer} has {m.index}, the leader only {self.last}")
        if m.index > p.match:
            p.match = m.index
        if p.next <= p.match:
            p.next = p.match + 1
        while p.frames and p.frame_last[p.frame_first] <= p.match:
            p.bytes -= p.frame_bytes[p.frame_first]
            p.frame_first = (p.frame_first + 1) % WINDOW_FRAMES
            p.frames -= 1
        return self.advance(now_us)

    cdef int advance(self, uint64_t now_us) except -1:
        """Commits what a quorum has durable, if it is of this term (R 5.4.2)."""
        cdef uint64_t match[MAX_MEMBERS]
        cdef uint64_t index
        cdef int i
        for i in range(self.config.count):
            match[i] = self.durable if self.config.id[i] == self.opt.id else self.peers[i].match
        index = quorum_value(&self.config, match)
        if index <= self.commit or self.terms.at(index) != self.term:
            return 0
        cdef bint ready = self.commit < self.noop <= index
        self.commit = index
        if ready:
            self.open_reads()
        for i in range(self.config.count):
            if self.peers[i].told < self.peers[i].want <= index:
                self.peers[i].due = True
        return 0

    # ---------------------------------------------------------------------- outputs to the turn
    cdef void mark_due(self) noexcept:
        """Every voter and learner is sent something in this Ready, under a new round."""
        cdef int i
        for i in range(self.config.count):
            self.peers[i].due = True
        self.round_due = True

    cdef int start_round(self, uint64_t now_us) noexcept:
        cdef int i
        cdef bint entries = False
        if self.role != LEADER:
            return 0
        for i in range(self.config.count):
            if self.config.id[i] != self.opt.id and self.peers[i].up and self.sendable(i):
                entries = True
        if not (entries or self.round_due):
            return 0
        if self.round_due:
            self.heartbeat_due_us = now_us + self.opt.heartbeat_us
        self.round_due = False
        self.round += 1
        self.round_us[self.round % ROUNDS] = now_us
        return 1

    cdef bint sendable(self, int slot) noexcept:
        """Entries wait for this peer and its window has room."""
        cdef Progress *p = &self.peers[slot]
        if p.next > self.last or p.fetching:
            return False
        if p.probing:
            return p.frames == 0
        return p.frames < WINDOW_FRAMES and p.bytes < WINDOW_BYTES

    cdef bint next_append(self, int slot, Message *m) noexcept:
        cdef Progress *p = &self.peers[slot]
        cdef bint entries
        if self.role != LEADER or not p.up or self.config.id[slot] == self.opt.id or self.begin:
            return False
        entries = self.sendable(slot)
        if not entries and not p.due:
            return False
        memset(m, 0, sizeof(Message))
        m.kind = MSG_APPEND
        m.peer = self.config.id[slot]
        m.term = self.term
        m.index = p.next - 1
        m.index_term = self.terms.at(m.index)
        m.count = self.terms.runs_end(p.next, RUNS) - m.index if entries else 0
        m.commit = self.commit
        m.round = self.round
        return True

    cdef void sent(self, int slot, uint64_t count, uint64_t size) noexcept:
        cdef Progress *p = &self.peers[slot]
        cdef uint32_t at
        p.due = False
        p.told = self.commit
        if count == 0:
            return
        at = (p.frame_first + p.frames) % WINDOW_FRAMES
        p.next += count
        p.frame_last[at] = p.next - 1
        p.frame_bytes[at] = <uint32_t>size
        p.frames += 1
        p.bytes += size

    cdef void rewind(self, Progress *p) noexcept:
        """What was in flight is lost: go on from what is known to match, carefully."""
        p.frames = 0
        p.bytes = 0
        p.frame_first = 0
        p.fetching = False
        p.probing = True
        if self.role == LEADER:
            p.next = p.match + 1 if p.match else self.last + 1

    cdef void taken(self) noexcept:
        self.out_count = 0
        self.grant_count = 0

    cdef int send(self, const Message *m, bint after_save) except -1:
        """Into Ready; or kept until the hard state that it relies on is saved."""
        if after_save and self.version > self.saved:
            self.held = <Held *>grown(self.held, self.held_count, &self.held_capacity,
                                      sizeof(Held))
            self.held[self.held_count].message = m[0]
            self.held[self.held_count].version = self.version
            self.held_count += 1
            return 0
        self.out = <Message *>grown(self.out, self.out_count, &self.out_capacity, sizeof(Message))
        self.out[self.out_count] = m[0]
        self.out_count += 1
        return 0

    cdef int release(self) except -1:
        cdef int i, kept = 0
        cdef int n = self.held_count
        self.held_count = 0
        for i in range(n):
            if self.held[i].version <= self.saved:
                self.send(&self.held[i].message, False)
            else:
                self.held[kept] = self.held[i]
                kept += 1
        self.held_count = kept
        return 0


cdef void message(Message *m, uint8_t kind, uint64_t peer, uint64_t term) noexcept:
    memset(m, 0, sizeof(Message))
    m.kind = kind
    m.peer = peer
    m.term = term
