"""Elections, terms and votes. See raft.pxd for what goes in and out.

References: R is the Raft paper (Ongaro and Ousterhout 2014), D Ongaro's dissertation.
"""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from dengine._core.consensus cimport (CANDIDATE, DIVERGED, FOLLOWER, FORCED, FULL, GRANTED, LEADER,
                                      MARKED, MSG_APPEND, MSG_DURABLE, MSG_HEARD,
                                      MSG_TIMEOUT_NOW, MSG_VOTE, MSG_VOTED, PACKED, PRE,
                                      PRECANDIDATE, REJECTED, message)
from dengine._core.fault cimport MUTANT
from dengine._core.following cimport NO_CUT
from dengine._core.quorum cimport (all_have, is_voter, quorum_has, slot_of, sole_voter,
                                   voters_below)
from dengine._core.terms cimport Terms
from dengine._core.types cimport unlikely

from dengine.errors import InvariantError


@cython.final
cdef class Raft(Following):
    # ------------------------------------------------------------------------------------- life
    cdef int open(self, const Options *opt, Terms terms, uint64_t term, uint64_t vote,
                  uint64_t commit, uint64_t now_us) except -1:
        self.opt = opt[0]
        self.random = opt.seed | 1
        self.terms = terms
        self.term = self.saved_term = term
        self.vote = vote
        self.last = terms.last
        self.durable = terms.last               # recovery has synced what it accepted
        self.commit = commit if commit < self.last else self.last
        self.cut_to = NO_CUT
        self.doubt = opt.doubt
        self.start_term = term
        if term and not MUTANT(10):              # the start rule: it may have heard a leader
            self.promise_until_us = now_us + opt.promise_us
        if terms.last_term() > term:
            raise InvariantError(f"the log holds term {terms.last_term()}, the hard state {term}")
        return 0

    cdef int adopt(self, const Config *config, uint64_t index, uint64_t now_us) except -1:
        """A configuration acts from its append, or is the one that would form the cluster."""
        cdef bint first = self.config.count == 0
        cdef bint formed = index != 0
        if self.role == LEADER and sole_voter(&self.config, self.opt.id):
            self.confirmed_us = now_us          # nobody else was to be asked until now
            self.lease_until_us = 0 if self.given else now_us + self.opt.lease_us
        self.reseat(config)
        self.config_index = index
        if not first:
            return 0
        if sole_voter(config, self.opt.id):
            self.election_due_us = now_us       # a single node leads at once
            return 0
        self.reset_election(now_us)
        if not formed:
            if now_us < self.promise_until_us:
                now_us = self.promise_until_us
            self.election_due_us = now_us + voters_below(config, self.opt.id) * RANK_US
        return 0

    # ----------------------------------------------------------------------------------- inputs
    cdef int tick(self, uint64_t now_us) except -1:
        if self.role == LEADER:
            if self.stalled or self.diverged or self.is_out():
                self.follow(self.term, 0, now_us)
            elif sole_voter(&self.config, self.opt.id):
                if self.config.count > 1 and now_us >= self.heartbeat_due_us:
                    self.mark_due()             # there may be learners
            elif now_us > self.confirmed_us + self.opt.timeout_us and not MUTANT(13):    # D 6.2
                self.follow(self.term, 0, now_us)
            elif self.full and self.roomy() and not MUTANT(132):
                self.follow(self.term, 0, now_us)
            elif self.transferee and now_us >= self.transfer_until_us:
                self.take_back(now_us)
            elif now_us >= self.heartbeat_due_us:
                self.mark_due()
            return 0
        if (now_us >= self.election_due_us and not (self.stalled or self.diverged or self.cramped)
                and self.may_lead()):
            self.campaign(0 if sole_voter(&self.config, self.opt.id) or MUTANT(12) else PRE, now_us)
        return 0

    cdef int step(self, const Message *m, uint64_t now_us) except -1:
        cdef int slot = slot_of(&self.config, m.peer)
        self.cut_to = NO_CUT
        self.append_from = 0
        if m.kind == MSG_APPEND:
            return self.on_append(m, now_us)
        if m.kind == MSG_VOTE:
            return self.on_vote(m, now_us)
        if m.kind == MSG_TIMEOUT_NOW:
            return self.on_timeout_now(m, now_us)
        if m.term > self.term and not (m.kind == MSG_VOTED and m.flags & PRE and m.flags & GRANTED):
            return self.follow(m.term, 0, now_us)
        if slot < 0:
            return 0
        if m.kind == MSG_VOTED:
            return self.on_voted(m, now_us)
        if (m.term < self.term and not MUTANT(58)) or self.role != LEADER:
            return 0
        if m.kind == MSG_HEARD:
            self.on_heard(m, slot, now_us)
            if unlikely(self.diverged):         # its own log is the odd one: for good
                return self.follow(self.term, 0, now_us)
            return 0
        if m.kind == MSG_DURABLE:
            self.on_durable(m, slot, now_us)
            return self.hand_over() if unlikely(self.transferee) else 0
        return 0

    cdef int persisted(self, uint64_t version, uint64_t term, uint64_t index,
                       uint64_t now_us) except -1:
        if version > self.saved:
            self.saved = version
            if version == self.version:
                self.saved_term = self.term
            self.release()
            if self.role == CANDIDATE and self.saved >= self.vote_version:
                self.count_votes(now_us)
        if index > self.durable and (self.terms.at(index) == term or MUTANT(20)):
            self.durable = index
            if self.role == LEADER:
                if self.doubt and 0 < self.noop <= index:   # else the jump in it might be lost
                    self.end_doubt()
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
        self.peers[slot].packed = False
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

    # -------------------------------------------------------------------------------- elections
    cdef uint64_t draw(self, uint64_t below) noexcept:
        self.random ^= self.random << 13        # xorshift64
        self.random ^= self.random >> 7
        self.random ^= self.random << 17
        return self.random % below if below else 0

    cdef void reset_election(self, uint64_t now_us) noexcept:
        self.election_due_us = (now_us + self.opt.promise_us + self.full * self.opt.timeout_us
                                + self.draw(self.opt.timeout_us - self.opt.promise_us))

    cdef bint may_lead(self) noexcept:
        """One that is being left out may have the longest log, and then finishes it (D 4.2.2)."""
        return is_voter(&self.config, self.opt.id) or (
            self.left_out and self.config_index > self.commit and not MUTANT(171))

    cdef bint is_out(self) noexcept:
        return self.config_index <= self.commit and not is_voter(&self.config, self.opt.id) and (
            self.config_index != 0)

    cdef int follow(self, uint64_t term, uint64_t leader, uint64_t now_us) except -1:
        if term > self.term:
            self.term = term
            self.vote = self.vote if MUTANT(7) else 0
            self.version += 1
            self.save = True
            self.verified = 0
            self.announced = 0
            self.target = 0
        if self.role == LEADER:
            self.steps_down += 1
            self.stop_leading()
        if self.role != FOLLOWER:
            self.role = FOLLOWER
            self.reset_election(now_us)
        if leader != self.leader:
            self.leader = leader
            self.verified = 0
            self.announced = 0
        return 0

    cdef int campaign(self, uint8_t how, uint64_t now_us) except -1:
        """A pre-vote asks whether an election would be won; only then is the term raised (9.6)."""
        cdef int i, self_slot = slot_of(&self.config, self.opt.id)
        cdef bint pre = how == PRE
        cdef Message m
        self.leader = 0
        if pre:
            self.role = PRECANDIDATE
            self.votes = <uint32_t>1 << self_slot
            self.marked = <uint32_t>self.doubt << self_slot
        else:
            self.role = CANDIDATE
            self.elections += 1
            self.term += 1
            self.vote = self.opt.id
            self.votes = <uint32_t>MUTANT(5) << self_slot   # its own counts once it is durable
            self.marked = <uint32_t>self.doubt << self_slot
            self.target = 0
            self.version += 1
            self.vote_version = self.version
            self.save = True
            self.verified = 0
            self.announced = 0
        if pre and self.leader_lost:
            self.election_due_us = now_us + RANK_US
        else:
            self.reset_election(now_us)
            if self.config_index == 0:          # everyone is here: no need to be patient
                self.election_due_us = now_us + self.opt.heartbeat_us + self.draw(
                    self.opt.heartbeat_us)
        for i in range(self.config.count):
            if i == self_slot or not (self.config.voters | self.config.outgoing) >> i & 1:
                continue
            message(&m, MSG_VOTE, self.config.id[i], self.term + 1 if pre else self.term)
            m.flags = how
            m.index = self.last
            m.index_term = self.terms.last_term()
            self.send(&m, not pre and not MUTANT(5))
        return 0

    cdef int count_votes(self, uint64_t now_us) except -1:
        """Won by a majority that forgot nothing, or by all: then the best log of all wins."""
        cdef uint32_t sure
        if self.role == CANDIDATE and self.saved >= self.vote_version:
            self.votes |= <uint32_t>1 << slot_of(&self.config, self.opt.id)
        sure = self.votes if MUTANT(90) else self.votes & ~self.marked
        # The first election of a cluster needs every vote: two halves cannot form two clusters.
        if not (all_have(&self.config, self.votes)
                or (quorum_has(&self.config, sure) and (self.last or MUTANT(9)))):
            return 0
        if self.role == PRECANDIDATE:
            return self.campaign(0, now_us)
        self.by_all = not quorum_has(&self.config, sure)
        self.leader = self.opt.id
        self.leader_lost = 0
        if self.doubt and MUTANT(112):
            self.end_doubt()
        self.start_leading(now_us)
        return 0

    cdef int on_vote(self, const Message *m, uint64_t now_us) except -1:
        cdef bint pre = (m.flags & PRE) != 0
        cdef bint bound = (m.flags & (PRE | FORCED)) != FORCED and (
            now_us < self.promise_until_us and not MUTANT(11)
            or (self.role == LEADER and (now_us < self.lease_until_us
                                         or sole_voter(&self.config, self.opt.id))))
        cdef bint fresh, granted
        cdef Message reply
        if m.term > self.term and not bound and not pre:
            self.follow(m.term, 0, now_us)
        fresh = (m.index_term > self.terms.last_term() or MUTANT(1)     # R 5.4.1
                 or (m.index_term == self.terms.last_term() and m.index >= self.last))
        granted = not bound and fresh and m.term >= self.term and not self.diverged
        if pre:
            granted = granted and m.term > self.term
        else:
            granted = granted and (self.vote == 0 or self.vote == m.peer or MUTANT(6))
            if granted and self.vote == 0:
                self.vote = m.peer
                self.version += 1
                self.save = True
            if granted:
                self.reset_election(now_us)
        message(&reply, MSG_VOTED, m.peer, m.term if granted else self.term)
        reply.flags = ((PRE if pre else 0) | (GRANTED if granted else 0)
                       | (MARKED if self.doubt and not MUTANT(91) else 0))
        return self.send(&reply, not pre and not MUTANT(4))

    cdef int on_timeout_now(self, const Message *m, uint64_t now_us) except -1:
        """Its leader wants this node to lead: then and there, and with this log (D 3.10)."""
        cdef bint meant = (m.term == self.term or MUTANT(145)) and (
            m.index == self.last and m.index_term == self.terms.last_term() or MUTANT(147))
        if (not meant or self.role == LEADER or not is_voter(&self.config, self.opt.id)
                or self.stalled or self.diverged or self.cramped):
            return 0
        return self.campaign(FORCED, now_us)

    cdef int transfer(self, uint64_t to, uint64_t now_us) except -1:
        self.transferee = to
        self.transfer_until_us = now_us + self.opt.promise_us
        return self.hand_over()

    cdef int hand_over(self) except -1:
        """Who has everything is told to campaign; no lease holds in this term any more (D 3.10)."""
        cdef Message m
        if not self.may_go():
            return 0
        self.given = True
        if not MUTANT(144):
            self.lease_until_us = 0
        message(&m, MSG_TIMEOUT_NOW, self.transferee, self.term)
        m.index = self.last
        m.index_term = self.terms.last_term()
        return self.send(&m, False)

    cdef int take_back(self, uint64_t now_us) except -1:
        """The transfer has failed. Without a lease, the lead goes on in a term of its own."""
        cdef bint given = self.given
        self.transferee = 0
        if not given:
            return 0
        self.follow(self.term, 0, now_us)
        return self.campaign(FORCED, now_us)

    cdef int on_voted(self, const Message *m, uint64_t now_us) except -1:
        cdef bint pre = (m.flags & PRE) != 0
        cdef bint counts = (not pre or MUTANT(8)) and self.role == CANDIDATE and (
            m.term == self.term or MUTANT(53))
        cdef uint32_t slot = <uint32_t>1 << slot_of(&self.config, m.peer)
        if pre and self.role == PRECANDIDATE and m.term == self.term + 1:
            counts = True
        if not counts or not m.flags & GRANTED:
            return 0
        self.votes |= slot
        if m.flags & MARKED:
            self.marked |= slot
        else:
            self.marked &= ~slot
        return self.count_votes(now_us)

    # ----------------------------------------------------------------------- the follower's side
    cdef int on_append(self, const Message *m, uint64_t now_us) except -1:
        cdef Message reply
        message(&reply, MSG_HEARD, m.peer, self.term)
        if m.term < self.term and not MUTANT(54):
            reply.flags = REJECTED
            return self.send(&reply, True)
        if unlikely(m.term == self.term and self.role == LEADER):
            raise InvariantError(f"nodes {m.peer} and {self.opt.id} both lead term {m.term}")
        self.follow(m.term, m.peer, now_us)
        if self.target == 0:
            self.target = m.last
        self.leader_lost = 0
        self.promise_until_us = now_us + self.opt.promise_us
        self.reset_election(now_us)
        reply.term = self.term
        reply.round = m.round
        if unlikely(self.full):
            reply.flags = FULL | (PACKED if self.packed else 0)
        if m.flags & DIVERGED:
            self.diverged = True
        if self.diverged:
            reply.flags |= REJECTED | DIVERGED
        elif not self.matches(m, &reply):
            reply.flags |= REJECTED
        else:
            self.accept(m)
            reply.index = m.index + m.count
            self.send(&reply, not MUTANT(57))
            return self.announce(m.count == 0)
        return self.send(&reply, True)

    cdef uint64_t known_leader(self) noexcept:
        return self.leader if self.term == self.saved_term or MUTANT(120) else 0
