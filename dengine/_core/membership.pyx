"""Which configuration acts, who sits where, how a change goes on. See membership.pxd.

D is Ongaro's dissertation, chapter 4.
"""
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from dengine._core.codec cimport ENTRY_CONFIG
from dengine._core.consensus cimport LEADER
from dengine._core.fault cimport MUTANT
from dengine._core.members cimport (LEARNER, OTHER_SELF, RISING, encode_members, fill_member,
                                    id_here, is_joint, is_under_way, make_voter, members_decode,
                                    seat, seat_new, settle, slot_in)
from dengine._core.quorum cimport Config, config_from
from dengine._core.types cimport Link
from dengine._core.wire cimport FRAME_BYE, FRAME_NAMED, REMOVED, Outbox

from dengine.errors import ConfigError, InvariantError

cdef enum:
    CONFIG_ROOM = 8192          # bytes that a configuration may need


cdef class Membership(Requests):
    def __cinit__(self):
        self.links = [None] * MAX_MEMBERS
        self.bulks = [None] * MAX_MEMBERS
        self.bulk_boxes = [Outbox() for _ in range(MAX_MEMBERS)]
        self.configs = []

    cdef int slot_by_id(self, uint64_t node) noexcept:
        return slot_in(&self.members, node)

    cdef bint counts(self, int slot) noexcept:
        return (self.raft.config.count != 0
                and (self.members.incarnation[slot] == self.peers[slot].incarnation or MUTANT(49)))

    cdef bint hears(self, int slot) noexcept:
        return (self.counts(slot) or self.raft.config_index == 0
                or (self.peers[slot].config > self.raft.config_index and not MUTANT(162)))

    # ------------------------------------------------------------------------- what acts
    cdef tuple newest(self):
        return <tuple>self.configs[len(self.configs) - 1]

    cdef int adopt(self, tuple config) except -1:
        cdef bytes payload = config[1]
        cdef int64_t changed
        cdef int i
        cdef Members m
        memset(&m, 0, sizeof(m))
        if members_decode(payload, len(payload), &m):
            raise InvariantError("an entry of the log holds no configuration of this version")
        if m.promise_ms != self.promise_ms and not MUTANT(63):
            raise ConfigError(
                f"raft.election.election_timeout_min_ms is {self.promise_ms} here, but the cluster "
                f"was formed with {m.promise_ms}: nothing was lost; set it to {m.promise_ms} and "
                "restart")
        self.configs.append(config)
        while len(self.configs) > 1 and self.configs[1][0] <= self.raft.commit:
            del self.configs[0]                 # no cut goes behind what is committed
        self.make_room(&m)
        changed = seat(&self.members, &m, self.meta.state.node, self.meta.state.incarnation)
        self.seated(changed, config[0])
        if self.members.flags[slot_in(&self.members, self.meta.state.node)]:
            self.named = config[0]
        elif self.named > <uint64_t>config[0]:          # that one was cut
            self.named = 0
        self.raft.left_out = 0 < self.named < <uint64_t>config[0]
        for i in range(self.members.count):
            self.say_named(i)
        return 0

    cdef int say_named(self, int slot) except -1:
        """A peer that lags hears this node by its word, until its own log says so."""
        cdef Outbox box = <Outbox>self.boxes[slot]
        if not self.peers[slot].up:
            return 0
        box.begin(FRAME_NAMED, 0, self.raft.term)
        box.put_u64(self.named)
        return box.end()

    cdef int seated(self, uint64_t changed, uint64_t index) except -1:
        """Members have changed: consensus, connections and the session follow."""
        cdef uint64_t now = self.io.now_us(self.io.ctx)
        cdef uint64_t own = self.meta.state.node
        cdef Config config
        cdef int i, others = 0
        self.visited = False
        for i in range(self.members.count):
            others += self.members.flags[i] and self.members.id[i] != own
            self.visited |= self.members.flags[i] == 0 and self.members.id[i] not in (0, own)
        if index or self.raft.config.count:     # else no cluster is formed yet
            config_from(&config, &self.members)
            self.raft.adopt(&config, index, now)
        for i in range(MAX_MEMBERS):
            if changed >> i & 1:
                self.raft.forget(i)
            if self.peers[i].up and not self.raft.peers[i].up and self.counts(i):
                self.raft.link_up(self.members.id[i], now)
        self.under_way = is_under_way(&self.members)
        if self.alone and others:               # from now on its writes need a session
            self.alone = False
            self.session.ready = False
        if self.on_members is not None:
            self.on_members()
        return 0

    cdef int cut_configs(self, uint64_t to) except -1:
        if self.raft.config_index <= to or MUTANT(155):
            return 0
        while len(self.configs) > 1 and self.newest()[0] > to:
            self.configs.pop()
        return self.adopt(self.configs.pop())   # where all are cut, the one that forms the cluster

    cdef int announce_links(self, uint64_t now_us) except -1:
        cdef int i
        for i in range(self.members.count):
            if self.peers[i].up and self.counts(i):
                self.raft.link_up(self.members.id[i], now_us)
        return 0

    # ------------------------------------------------------------------------- who is no member
    cdef int admit(self, uint64_t node, uint64_t incarnation, uint64_t config) except? -1:
        """A member that this node has not heard of yet may lead: it is heard, it counts nowhere."""
        cdef int slot
        if config <= self.raft.config_index or (
                self.members.count == MAX_MEMBERS and slot_in(&self.members, 0) < 0):
            return -1
        slot = seat_new(&self.members, node, incarnation)
        self.seated(0, self.raft.config_index)
        return slot

    cdef int make_room(self, const Members *next) except -1:
        """A member needs no visitor's leave: who is none hangs up where the slots are too few."""
        cdef uint64_t own = self.meta.state.node, node
        cdef int i, short = self.members.count - MAX_MEMBERS
        for i in range(next.count):
            node = id_here(next, i, own, self.meta.state.incarnation)
            short += slot_in(&self.members, node) < 0
        for i in range(self.members.count):
            short -= self.members.id[i] == 0
        for i in range(self.members.count):
            node = self.members.id[i]
            if short <= 0:
                break
            if node in (0, OTHER_SELF, own, self.raft.leader) or slot_in(next, node) >= 0:
                continue
            self.hang_up(i)
            self.members.id[i] = 0
            short -= 1
        return 0

    cdef int hang_up(self, int slot) except -1:
        cdef Link link = <Link>self.links[slot], bulk = <Link>self.bulks[slot]
        if link is not None:
            self.unlink(slot)
            link.close()
        if bulk is not None:
            self.unlink_bulk(slot)
            bulk.close()
        return 0

    cdef int unlink(self, int slot) except -1:
        self.links[slot] = None
        self.peers[slot].up = False
        (<Outbox>self.boxes[slot]).clear()
        return self.raft.link_down(self.members.id[slot], self.io.now_us(self.io.ctx))

    cdef int unlink_bulk(self, int slot) except -1:
        self.bulks[slot] = None
        (<Outbox>self.bulk_boxes[slot]).clear()
        return 0

    cdef int dismiss(self, uint64_t now_us) except -1:
        """Whoever is told that it was removed hangs up; its slot is free when it has."""
        cdef uint64_t own = self.meta.state.node
        cdef Outbox box
        cdef bint left = False
        cdef int i
        for i in range(self.members.count):
            if self.members.flags[i] or self.members.id[i] in (0, own):
                continue
            if not self.peers[i].up and self.bulks[i] is None:
                self.members.id[i] = 0
                left = True
            elif (self.peers[i].config < self.raft.config_index <= self.raft.commit
                    and not self.peers[i].dismissed):
                self.peers[i].dismissed = True
                box = <Outbox>self.boxes[i]
                box.begin(FRAME_BYE, REMOVED, 0)
                box.put_u64(self.raft.config_index)
                box.end()
        return self.seated(0, self.raft.config_index) if left else 0

    # ------------------------------------------------------------------------- how a change goes on
    cdef bint may_change(self) noexcept:
        """One at a time, and none before this term has committed anything (D 4.1, and its
        erratum)."""
        return (self.raft.role == LEADER and self.raft.transferee == 0
                and self.raft.config_index <= self.raft.commit
                and (0 < self.raft.noop <= self.raft.commit or MUTANT(156)))

    cdef int change(self, Members *next) except -1:
        cdef int own = slot_in(next, self.meta.state.node)
        cdef bytes payload
        cdef uint64_t index
        if MUTANT(154):
            settle(next)
        if self.address is not None:            # it may have moved, or have had none
            fill_member(next, own, next.id[own], next.incarnation[own], next.flags[own],
                        self.address)
        payload = encode_members(next)
        if slot_in(&self.members, OTHER_SELF) >= 0:
            raise InvariantError("another directory of this node is a member, and this one leads")
        index = self.log.append(self.raft.term, ENTRY_CONFIG, payload, len(payload))
        self.raft.propose(1)
        return self.adopt((index, payload))

    cdef int steer(self, uint64_t now_us) except -1:
        """A joint configuration is settled, the directory that came is named, a learner that has
        caught up becomes a voter."""
        cdef Members m
        cdef int i
        if not self.may_change() or not self.log.takes(CONFIG_ROOM, False):
            return 0
        m = self.members
        if is_joint(&m):
            settle(&m)
            return self.change(&m)
        for i in range(m.count):
            if m.flags[i] & LEARNER and m.incarnation[i] == 0 and self.peers[i].up:
                m.incarnation[i] = self.peers[i].incarnation
                return self.change(&m)
            if m.flags[i] & RISING and m.incarnation[i] and self.has_caught_up(i, now_us):
                make_voter(&m, i)
                return self.change(&m)
        return 0

    cdef bint has_caught_up(self, int slot, uint64_t now_us) noexcept:
        """Its last round took less than an election: as a voter it would hold nobody up."""
        cdef uint64_t match = self.raft.peers[slot].match
        if self.rise_term != self.raft.term:
            self.rise_term = self.raft.term
            memset(self.rise_to, 0, sizeof(self.rise_to))
        if MUTANT(158):
            return True
        if self.rise_to[slot] and match >= self.rise_to[slot] and (
                now_us - self.rise_us[slot] < self.raft.opt.timeout_us):
            self.rise_to[slot] = 0
            return True
        if self.rise_to[slot] == 0 or match >= self.rise_to[slot]:
            self.rise_to[slot] = self.raft.commit
            self.rise_us[slot] = now_us
        return False
