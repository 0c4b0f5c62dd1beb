"""What a follower makes of its leader's appends, and what it may say of itself. See following.pxd.

R is the Raft paper (Ongaro and Ousterhout 2014).
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free

from dengine._core.consensus cimport MSG_DURABLE, message
from dengine._core.fault cimport MUTANT
from dengine._core.memory cimport grown
from dengine._core.quorum cimport is_voter
from dengine._core.terms cimport Terms
from dengine._core.types cimport unlikely

from dengine.errors import CorruptionError, InvariantError

cdef enum:
    FIRST = 16                  # messages that an array starts with


cdef class Following(Replication):
    def __cinit__(self):
        self.out = NULL
        self.held = NULL

    def __dealloc__(self):
        free(self.out)
        free(self.held)

    # --------------------------------------------------------------------------------- the log
    cdef int matches(self, const Message *m, Message *reply) except -1:
        """Does prev lie in this log? If not, where the two logs may still agree (R 5.3)."""
        if m.index < self.terms.base:
            return True                         # compacted, so committed, so equal
        if (self.terms.at(m.index) == m.index_term or MUTANT(18)) and m.index <= self.last:
            return True
        if unlikely(m.index <= self.commit):
            self.overruled(m.index)
        reply.index = self.terms.agree(m.index, m.index_term)
        reply.index_term = self.terms.at(reply.index)
        return False

    cdef int accept(self, const Message *m) except -1:
        """Entries after a prev that matches: skip those here, cut what conflicts (R 5.3)."""
        cdef uint64_t index = m.index, end = m.index + m.count, left
        cdef uint32_t run = 0
        left = m.runs[0].count if m.run_count else 0
        while index < end and index < self.last:        # entries that may be here already
            while left == 0:
                run += 1
                left = m.runs[run].count
            if index + 1 > self.terms.base and (
                    self.terms.at(index + 1) != m.runs[run].term or MUTANT(17)):
                if unlikely(index < self.commit):
                    self.overruled(index + 1)
                self.cut_to = index
                self.terms.cut(index)
                self.last = index
                if self.durable > index and not MUTANT(55):
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
        if MUTANT(16):
            end = self.last
        index = m.commit if m.commit < end else end     # only what this message verified
        if index > self.commit:
            self.commit = index
        return 0

    cdef bint surely_votes(self) noexcept:
        return is_voter(&self.config, self.opt.id) and self.config_index <= self.commit

    cdef int overruled(self, uint64_t index) except -1:
        """The leader has another entry than the committed one here: its voters have forgotten it.
        They elect, all together, whom of them it can; a learner is not asked."""
        if self.surely_votes():
            raise InvariantError(f"the leader would overwrite committed entry {index}, which has "
                                 f"term {self.terms.at(index)} here")
        raise CorruptionError(
            f"the voters of the cluster have forgotten entry {index}, which was committed and is "
            "here: they may have lost power, all of them, in MemFirst; this learner stops, its "
            "directory is untouched; copy from it what is missed, then start it with an empty one "
            "and let `dengine member replace` take it in")

    cdef int restart(self, uint64_t index, uint64_t term) except -1:
        self.terms = Terms(index, term)
        self.last = self.durable = self.commit = self.verified = index
        self.announced = 0
        return self.announce(True)

    cdef int announce(self, bint again) except -1:
        """Tells the leader how much of what matches its log is durable here."""
        cdef uint64_t index = self.durable
        if (self.verified < index and not MUTANT(56)) or MUTANT(19):
            index = self.verified
        cdef Message m
        if self.doubt and index:
            self.remember(self.durable if MUTANT(94) else self.verified if MUTANT(95) else index)
        if (self.leader == 0 or self.leader == self.opt.id or index == 0 or self.diverged
                or not (index > self.announced or again)):
            return 0
        self.announced = index
        message(&m, MSG_DURABLE, self.leader, self.term)
        m.index = index
        return self.send(&m, True)

    cdef int remember(self, uint64_t index) except -1:
        """Has a node in doubt, which holds its leader's log up to `index`, got all back?"""
        if ((self.term > self.start_term or MUTANT(92)) and self.terms.at(index) == self.term):
            return self.end_doubt()             # the no-op of a later term and all before it
        if self.target and (index >= self.target or MUTANT(93)):
            return self.end_doubt()
        return 0

    cdef int end_doubt(self) except -1:
        self.doubt = False
        return self.save_again()

    cdef int save_again(self) except -1:
        self.version += 1
        self.save = True
        return 0

    # ---------------------------------------------------------------------------- what is said
    cdef void taken(self) noexcept:
        self.out_count = 0
        self.grant_count = 0

    cdef int send(self, const Message *m, bint after_save) except -1:
        """Into Ready; or kept until the hard state that it relies on is saved."""
        if after_save and self.version > self.saved:
            self.held = <Held *>grown(self.held, self.held_count + 1, &self.held_capacity,
                                      sizeof(Held), FIRST)
            self.held[self.held_count].message = m[0]
            self.held[self.held_count].version = self.version
            self.held_count += 1
            return 0
        self.out = <Message *>grown(self.out, self.out_count + 1, &self.out_capacity,
                                    sizeof(Message), FIRST)
        self.out[self.out_count] = m[0]
        self.out_count += 1
        return 0

    cdef int release(self) except -1:
        cdef size_t i, kept = 0, n = self.held_count
        self.held_count = 0
        for i in range(n):
            if self.held[i].version <= self.saved:
                self.send(&self.held[i].message, False)
            else:
                self.held[kept] = self.held[i]
                kept += 1
        self.held_count = kept
        return 0
