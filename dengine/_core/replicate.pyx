"""The leader's side of consensus: windows, commitment, rounds, reads. See replicate.pxd.

References: R is the Raft paper (Ongaro and Ousterhout 2014), D Ongaro's dissertation.
"""
from libc.stdlib cimport free
from libc.string cimport memmove, memset

from dengine._core.consensus cimport DIVERGED, FULL, LEADER, MSG_APPEND, PACKED, REJECTED
from dengine._core.fault cimport MUTANT
from dengine._core.memory cimport grown
from dengine._core.quorum cimport (is_voter, quorum_has, quorum_value, slot_of, sole_voter,
                                   stays_voter)
from dengine._core.types cimport MAX_MEMBERS, RUNS, WINDOW_BYTES, unlikely

from dengine.errors import InvariantError

cdef enum:
    FIRST = 16                  # elements that an array starts with


cdef class Replication:
    def __cinit__(self):
        self.grants = NULL
        self.waiting = NULL
        self.terms = Terms()
        memset(&self.config, 0, sizeof(self.config))
        memset(self.peers, 0, sizeof(self.peers))

    def __dealloc__(self):
        free(self.grants)
        free(self.waiting)

    # ------------------------------------------------------------------------------------- life
    cdef void start_leading(self, uint64_t now_us) noexcept:
        cdef int i
        self.role = LEADER
        self.begin = True
        self.noop = 0
        self.round = 0
        self.confirmed = 0
        self.confirmed_us = now_us
        self.heartbeat_due_us = now_us
        self.lease_until_us = 0
        self.waiting_count = 0
        self.transferee = 0
        self.given = False
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
            self.peers[i].packed = False
        self.full_slots = 0
        if self.full:
            self.full_slots = <uint32_t>1 << slot_of(&self.config, self.opt.id)

    cdef void reseat(self, const Config *config) noexcept:
        """What was known of a slot's member is forgotten where another takes it."""
        cdef int i
        for i in range(MAX_MEMBERS):
            if i >= config.count or i >= self.config.count or config.id[i] != self.config.id[i]:
                self.forget(i)
        self.config = config[0]

    cdef void forget(self, int slot) noexcept:
        cdef Progress *p = &self.peers[slot]
        memset(p, 0, sizeof(Progress))
        p.next = self.last + 1
        p.probing = True
        self.full_slots &= ~(<uint32_t>1 << slot)

    cdef void stop_leading(self) noexcept:
        self.waiting_count = 0                  # their askers ask the next leader
        self.lease_until_us = 0
        self.noop = 0
        self.begin = False
        self.round_due = False
        self.transferee = 0

    cdef bint leads(self, uint64_t now_us) noexcept:
        if self.role != LEADER or ((self.noop == 0 or self.commit < self.noop)
                                   and not MUTANT(24)):
            return False
        return now_us < self.lease_until_us or MUTANT(60) or sole_voter(&self.config, self.opt.id)

    cdef bint takes_writes(self, uint64_t now_us) noexcept:
        """One that is cut off could not say what became of them."""
        if (self.role != LEADER or self.noop == 0 or self.commit < self.noop
                or (self.transferee and not MUTANT(148))):
            return False
        return (now_us < self.confirmed_us + self.opt.lease_us
                or sole_voter(&self.config, self.opt.id))

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

    # -------------------------------------------------------------------------- what peers answer
    cdef int on_heard(self, const Message *m, int slot, uint64_t now_us) except -1:
        cdef Progress *p = &self.peers[slot]
        cdef uint64_t next
        cdef bint offered
        if m.round > p.heard and m.round <= self.round:
            p.heard = m.round
            self.confirm(now_us)
        if unlikely(self.full_slots or m.flags & FULL or p.packed):
            self.note_room(m, slot)
        if m.flags & DIVERGED:
            self.on_diverged(p)
            return 0
        if m.flags & REJECTED:
            next = self.terms.agree(m.index, m.index_term) + 1
            if m.round >= p.backoff and p.match < next <= p.next:
                offered = p.compacted and next == p.next
                p.compacted = next == self.terms.base + 1 and (
                    m.index < self.terms.base or m.index_term < self.terms.base_term) and (
                    not MUTANT(126))
                self.rewind(p)
                p.next = next
                p.backoff = self.round + 1
                if not offered:                 # else with the next heartbeat
                    p.due = True
                    self.round_due = True
            return 0
        if p.probing and m.index + 1 >= p.next and m.round >= p.backoff:
            p.probing = False
            p.compacted = False
            p.next = m.index + 1 if m.index + 1 > p.next else p.next
        return 0

    cdef void on_diverged(self, Progress *p) noexcept:
        cdef uint32_t slots = 0
        cdef int i
        p.diverged = True
        for i in range(self.config.count):
            if self.peers[i].diverged:
                slots |= <uint32_t>1 << i
        if quorum_has(&self.config, slots):
            self.diverged = True

    cdef void note_room(self, const Message *m, int slot) noexcept:
        """What a follower says of its disk. One that took no entries gets heartbeats only."""
        cdef Progress *p = &self.peers[slot]
        if m.flags & FULL and not MUTANT(129):
            self.full_slots |= <uint32_t>1 << slot
        else:
            self.full_slots &= ~(<uint32_t>1 << slot)
        if m.flags & PACKED and not p.packed:
            self.rewind(p)
            p.packed = True
            p.backoff = self.round + 1
        elif not m.flags & PACKED and p.packed and m.round >= p.backoff and not MUTANT(130):
            p.packed = False

    cdef int has_room(self, bint full, bint cramped) except -1:
        cdef int slot = slot_of(&self.config, self.opt.id)
        self.full = full
        self.cramped = cramped
        self.packed = self.packed and full
        if slot >= 0:
            self.full_slots &= ~(<uint32_t>1 << slot)
            self.full_slots |= <uint32_t>full << slot
        return 0

    cdef bint no_space(self) noexcept:
        return not MUTANT(131) and self.full_slots != 0 and (
            self.full or not quorum_has(&self.config, ~self.full_slots))

    cdef bint roomy(self) noexcept:
        cdef int i
        for i in range(self.config.count):
            if (self.config.id[i] != self.opt.id and self.peers[i].up and self.peers[i].heard
                    and self.peers[i].match == self.last and not self.full_slots >> i & 1
                    and is_voter(&self.config, self.config.id[i])):
                return True
        return False

    cdef int on_durable(self, const Message *m, int slot, uint64_t now_us) except -1:
        cdef Progress *p = &self.peers[slot]
        if m.index > self.last:
            raise InvariantError(f"node {m.peer} has {m.index}, the leader only {self.last}")
        if m.index > p.match:
            p.match = m.index
        if p.next <= p.match:
            p.next = p.match + 1
            p.compacted = False
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
            match[i] = self.peers[i].match if self.config.id[i] != self.opt.id else (
                self.last if MUTANT(14) else self.durable)
        index = quorum_value(&self.config, match)
        if index <= self.commit or (self.terms.at(index) != self.term and not MUTANT(15)):
            return 0
        cdef bint ready = self.commit < self.noop <= index
        self.commit = index
        if ready:
            self.open_reads()
        for i in range(self.config.count):
            if self.peers[i].told < self.peers[i].want <= index:
                self.peers[i].due = True
        return 0

    # ------------------------------------------------------------------------------------ reads
    cdef int read(self, uint64_t ticket, bint lease, uint64_t now_us) except -1:
        """Grants `ticket` with the index that must be applied before it is answered (D 6.4)."""
        if unlikely(self.role != LEADER):
            raise InvariantError("a read index asked of a node that does not lead")
        if (self.commit < self.noop or self.noop == 0) and not MUTANT(23):
            return self.wait(ticket, 0, 0)
        if MUTANT(59) or (lease and now_us < self.lease_until_us) or (
                sole_voter(&self.config, self.opt.id)):
            return self.grant(ticket, self.commit)
        self.mark_due()                         # all reads of this turn share the next round
        return self.wait(ticket, self.commit, self.round + (not MUTANT(25)))

    cdef int confirm(self, uint64_t now_us) except -1:
        """A quorum echoed a newer round: the lease moves on, waiting reads are granted."""
        cdef uint64_t heard[MAX_MEMBERS]
        cdef uint64_t round
        cdef int i
        cdef size_t n = 0
        for i in range(self.config.count):
            heard[i] = self.round if self.config.id[i] == self.opt.id else self.peers[i].heard
        round = quorum_value(&self.config, heard)
        if round <= self.confirmed:
            return 0
        self.confirmed = round
        if self.round - round < ROUNDS:
            self.confirmed_us = now_us if MUTANT(21) else self.round_us[round % ROUNDS]
            if not self.given or MUTANT(146):
                self.lease_until_us = self.confirmed_us + self.opt.lease_us * (1 + MUTANT(22))
        while n < self.waiting_count and 0 < self.waiting[n].round <= round:
            self.grant(self.waiting[n].ticket, self.waiting[n].index)
            n += 1
        if n:
            self.waiting_count -= n
            memmove(self.waiting, self.waiting + n, self.waiting_count * sizeof(Waiting))
        return 0

    cdef int open_reads(self) except -1:
        """The no-op is committed: earlier reads get their index and a round to wait for."""
        cdef bint alone = sole_voter(&self.config, self.opt.id)     # nobody echoes its rounds
        cdef size_t i
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

    cdef int wait(self, uint64_t ticket, uint64_t index, uint64_t round) except -1:
        self.waiting = <Waiting *>grown(self.waiting, self.waiting_count + 1,
                                        &self.waiting_capacity, sizeof(Waiting), FIRST)
        self.waiting[self.waiting_count].ticket = ticket
        self.waiting[self.waiting_count].index = index
        self.waiting[self.waiting_count].round = round
        self.waiting_count += 1
        return 0

    cdef int grant(self, uint64_t ticket, uint64_t index) except -1:
        self.grants = <Grant *>grown(self.grants, self.grant_count + 1, &self.grant_capacity,
                                     sizeof(Grant), FIRST)
        self.grants[self.grant_count].ticket = ticket
        self.grants[self.grant_count].index = index
        self.grant_count += 1
        return 0

    # --------------------------------------------------------------------------------- transfer
    cdef uint64_t successor(self) noexcept:
        """The connected voter that has most, one with room on its disk before others; 0: none."""
        cdef int i, best = -1
        for i in range(self.config.count):
            if (self.config.id[i] == self.opt.id or not self.peers[i].up
                    or not stays_voter(&self.config, self.config.id[i])):
                continue
            if best < 0 or self.outdoes(i, best):
                best = i
        return self.config.id[best] if best >= 0 else 0

    cdef bint outdoes(self, int a, int b) noexcept:
        cdef bint room = self.full_slots >> b & 1 and not self.full_slots >> a & 1
        cdef bint none = self.full_slots >> a & 1 and not self.full_slots >> b & 1
        return room or (not none and self.peers[a].match > self.peers[b].match)

    cdef bint may_go(self) noexcept:
        """Has the successor everything, the no-op of this term too? Told once."""
        cdef int slot = slot_of(&self.config, self.transferee)
        return (not self.given and 0 < self.noop <= self.commit and slot >= 0
                and self.peers[slot].up and self.peers[slot].match >= self.last)

    # ---------------------------------------------------------------------- what is sent to whom
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
        if p.next > self.last or p.fetching or p.compacted or p.packed:
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
        m.last = self.last
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
            p.next = self.last + 1
            if p.match:                         # what lies below the base cannot be sent
                p.next = (p.match if MUTANT(165) else max(p.match, self.terms.base)) + 1

    cdef void want(self, int slot, uint64_t index) noexcept:
        if index > self.peers[slot].want:
            self.peers[slot].want = index
        if self.commit >= index and self.peers[slot].told < index:
            self.peers[slot].due = True

    cdef bint conflicts(self, const Message *m) noexcept:
        cdef uint64_t index = m.index, end = min(m.index + m.count, self.last)
        cdef uint32_t run = 0
        while index < end:                      # to the run of the last entry that both have
            index += m.runs[run].count
            run += 1
        return run > 0 and end > self.terms.base and self.terms.at(end) != m.runs[run - 1].term

    cdef int compact(self, uint64_t to) except -1:
        cdef Progress *p
        cdef int i
        self.terms.forget(to)
        for i in range(self.config.count):
            p = &self.peers[i]
            if self.role == LEADER and p.next <= to and self.config.id[i] != self.opt.id:
                self.rewind(p)
                p.next = to + 1
                p.backoff = self.round + 1
                p.compacted = p.match < to and not MUTANT(126)
        return 0
