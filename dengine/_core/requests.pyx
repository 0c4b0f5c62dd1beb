"""What is asked of a node, until a leader has it. See requests.pxd."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF, PyObject
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from dengine._core.codec cimport ENTRY_COMMAND, ENTRY_TICK, GET, encode_register, encode_tick
from dengine._core.consensus cimport LEADER
from dengine._core.fault cimport MUTANT
from dengine._core.quorum cimport slot_of
from dengine._core.reads cimport Batch
from dengine._core.types cimport (EVENTUAL, FRAME_ENTRIES, LEASE, MISSING, NOT_PROPOSED, NO_SPACE,
                                  OK, OVERLOADED, SMALL, TICK_US, UNAVAILABLE, UNKNOWN, Item,
                                  unlikely)
from dengine._core.wire cimport FRAME_FORWARD, FRAME_GRANTED, FRAME_READ, LEASE_READ, Outbox

cdef extern from "Python.h":
    int PyList_SetSlice(list at, Py_ssize_t low, Py_ssize_t high, PyObject *items) except -1

cdef enum:
    EXPIRE_US = 50000           # deadlines are looked at this often
    REGISTER_US = 500000        # a registration that was not applied is sent again

cdef uint64_t FOREVER = 0xFFFFFFFFFFFFFFFF
cdef uint64_t LOCAL = <uint64_t>LOCAL_SLOT << SLOT_SHIFT
cdef uint64_t OWN = (<uint64_t>1 << TICKET_BITS) - 1


cdef class Requests:
    def __cinit__(self):
        self.inbox = []
        self.backlog = []
        self.boxes = [Outbox() for _ in range(MAX_MEMBERS)]
        self.results = Results()
        self.reads = Reads()
        memset(self.peers, 0, sizeof(self.peers))
        memset(&self.members, 0, sizeof(self.members))

    cdef int take_inbox(self, uint64_t now_us) except -1:
        cdef list inbox = self.inbox
        cdef Waiter waiter
        cdef const Item *item
        if inbox:
            self.inbox = []
            for waiter in inbox:
                if waiter.op != GET:
                    if (<size_t>len(self.backlog) - self.backlog_at < self.waiting_writes
                            and self.backlog_bytes < self.waiting_bytes):
                        self.backlog.append(waiter)
                        self.backlog_bytes += PyBytes_GET_SIZE(waiter.command)
                    else:
                        self.results.add_waiter(waiter, OVERLOADED)
                elif self.may_read(waiter.policy):
                    item = self.kv.get(PyBytes_AS_STRING(waiter.key),
                                       <uint32_t>PyBytes_GET_SIZE(waiter.key))
                    Py_INCREF(waiter)
                    self.results.add(<PyObject *>waiter, MISSING if item == NULL else OK,
                                     self.kv.revision, item)
                elif self.reads.waiting < self.waiting_reads:
                    self.reads.add(waiter)
                else:
                    self.results.add_waiter(waiter, OVERLOADED)
            self.reads.close_batches()
        if not self.session.ready:
            self.register(now_us)
        if self.backlog_at < <size_t>len(self.backlog) or (
                self.session.id and self.session.next > self.session.floor):
            self.propose_backlog(now_us)
        if self.reads.count:
            self.ask_reads(now_us)
        return 0

    cdef bint may_read(self, uint8_t policy) noexcept:
        if policy == EVENTUAL:
            return True
        if policy != LEASE and not self.alone:
            return False
        if self.machine.applied < self.raft.commit and not MUTANT(61):
            return False
        return self.raft.leads(self.io.now_us(self.io.ctx))

    cdef int expire(self, uint64_t now_us) except -1:
        cdef size_t i, kept = 0
        if now_us < self.expire_due_us:
            return 0
        self.expire_due_us = now_us + EXPIRE_US
        self.session.expire(now_us, NOT_PROPOSED if MUTANT(28) else UNKNOWN, self.results)
        if self.reads.count:
            self.reads.expire(now_us, UNAVAILABLE, self.results)
        for i in range(self.backlog_at, <size_t>len(self.backlog)):
            if (<Waiter>self.backlog[i]).deadline_us <= now_us:
                self.backlog_bytes -= PyBytes_GET_SIZE((<Waiter>self.backlog[i]).command)
                self.results.add_waiter(<Waiter>self.backlog[i], NOT_PROPOSED)
            else:
                self.backlog[self.backlog_at + kept] = self.backlog[i]
                kept += 1
        del self.backlog[self.backlog_at + kept:]
        return 0

    cdef int drain(self, int status) except -1:
        """The node has stopped: whoever waits is told."""
        cdef Waiter waiter
        self.refuse_backlog(status)
        for waiter in self.inbox:
            self.results.add_waiter(waiter, status)
        self.inbox = []
        self.session.expire(FOREVER, UNKNOWN, self.results)
        return self.reads.expire(FOREVER, status, self.results)

    cdef int tell_time(self, uint64_t now_us) except -1:
        """A leader tells how long it has led, while there is anything whose time ends."""
        cdef uint64_t elapsed
        cdef bytes payload
        if (self.session.idempotency.count() == 0 or self.machine.applied < self.raft.noop
                or not self.raft.leads(now_us) or self.raft.transferee):
            if not MUTANT(152):
                self.clock_us = self.told_ms = 0
            return 0
        if self.clock_us == 0:
            self.clock_us = now_us
        if now_us - self.clock_us < TICK_US or not self.log.takes(SMALL, False):
            return 0
        elapsed = (now_us - self.clock_us) // 1000
        self.clock_us += 1000 * elapsed
        self.told_ms = max(self.told_ms, self.session.clock_ms) + elapsed
        payload = encode_tick(self.told_ms, max(self.told_ms, self.retention_ms)
                              - self.retention_ms)
        self.log.append(self.raft.term, ENTRY_TICK, payload, len(payload))
        return self.raft.propose(1)

    # ----------------------------------------------------------------------------------- writes
    cdef bint may_propose(self, uint64_t now_us) noexcept:
        if not self.session.ready:
            return False
        if self.raft.role == LEADER:
            return self.raft.takes_writes(now_us)
        return self.leader_slot(now_us) >= 0

    cdef int leader_slot(self, uint64_t now_us) noexcept:
        cdef int slot = -1
        if self.raft.leader and self.raft.role != LEADER and now_us >= self.ask_again_us:
            slot = slot_of(&self.raft.config, self.raft.leader)
        return slot if slot >= 0 and self.peers[slot].up else -1

    cdef int propose_backlog(self, uint64_t now_us) except -1:
        """What the leader of now has not been sent goes to it: first what one before it was."""
        cdef size_t n = len(self.backlog)
        cdef uint64_t proposed = 0
        cdef int slot
        if not self.may_propose(now_us):
            return 0
        if self.raft.role == LEADER:
            if self.session.id:                 # else this node's own log keeps all
                self.send_again(0)
            if unlikely(self.raft.full_slots) and self.raft.no_space():
                return self.refuse_backlog(NO_SPACE)
            while (unlikely(self.session.unsent != self.session.next)
                   and self.session.has_unsent() and not self.log.full):
                self.propose(self.session.next_unsent())
                proposed += 1
            while self.backlog_at < n and self.session.has_room() and not self.log.full:
                self.backlog_at += 1            # first: a failure must not tell its waiter twice
                self.number(<Waiter>self.backlog[self.backlog_at - 1])
                self.propose(<Waiter>self.backlog[self.backlog_at - 1])
                proposed += 1
            if proposed:
                self.raft.propose(proposed)
        else:
            slot = self.leader_slot(now_us)
            self.send_again(self.peers[slot].number)
            while self.session.has_unsent() or (
                    self.backlog_at < n and self.session.has_room()):
                self.forward_some(slot, n)
        if self.backlog_at == n:
            PyList_SetSlice(self.backlog, 0, n, NULL)       # `clear` is looked up by name
            self.backlog_at = 0
        elif self.backlog_at > 4096:
            del self.backlog[:self.backlog_at]
            self.backlog_at = 0
        return 0

    cdef int refuse_backlog(self, int status) except -1:
        cdef Waiter waiter
        for waiter in self.backlog[self.backlog_at:]:
            self.results.add_waiter(waiter, status)
        self.backlog.clear()
        self.backlog_at = 0
        self.backlog_bytes = 0
        return 0

    cdef int send_again(self, uint64_t link) except -1:
        """Another leader, or another connection to it: what is not answered was lost, it may be."""
        if (self.raft.term != self.sent_term or self.raft.leader != self.sent_leader
                or link != self.sent_link):
            self.sent_term = self.raft.term
            self.sent_leader = self.raft.leader
            self.sent_link = link
            if not MUTANT(141):
                self.session.unsent = self.session.floor
        return 0

    cdef int number(self, Waiter waiter) except -1:
        """It leaves the backlog."""
        self.backlog_bytes -= PyBytes_GET_SIZE(waiter.command)
        return self.session.assign(waiter)

    cdef int propose(self, Waiter waiter) except -1:
        self.log.append(self.raft.term, ENTRY_COMMAND, PyBytes_AS_STRING(waiter.command),
                        PyBytes_GET_SIZE(waiter.command))
        return 0

    cdef int forward_some(self, int slot, size_t n) except -1:
        """One FORWARD frame of what the leader has not been sent."""
        cdef Outbox box = <Outbox>self.boxes[slot]
        cdef Waiter waiter
        cdef uint32_t count = 0
        cdef size_t at, size = 0
        box.begin(FRAME_FORWARD, 0, self.raft.term)
        at = box.size
        box.put_u32(0)
        while size < FRAME_ENTRIES:
            if self.session.has_unsent():
                waiter = self.session.next_unsent()
            elif self.backlog_at < n and self.session.has_room():
                waiter = <Waiter>self.backlog[self.backlog_at]
                self.backlog_at += 1
                self.number(waiter)
            else:
                break
            box.put_u32(<uint32_t>PyBytes_GET_SIZE(waiter.command))
            box.put(PyBytes_AS_STRING(waiter.command), PyBytes_GET_SIZE(waiter.command))
            size += sizeof(uint32_t) + PyBytes_GET_SIZE(waiter.command)
            count += 1
        memcpy(box.data + at, &count, sizeof(count))        # at no multiple of 4
        self.forwarded += count
        return box.end()

    cdef int register(self, uint64_t now_us) except -1:
        """This node's session: asked for until its entry is applied. Repeats change nothing."""
        cdef int slot = self.leader_slot(now_us)
        cdef Outbox box
        cdef bytes command
        if now_us < self.register_due_us or self.raft.begin or self.raft.config_index == 0:
            return 0
        if self.raft.role != LEADER and slot < 0:
            return 0
        self.register_due_us = now_us + REGISTER_US
        command = encode_register(self.session.node, self.session.incarnation, self.session.nonce)
        if self.raft.role == LEADER and not self.log.takes(SMALL, False):
            return 0
        if self.raft.role == LEADER:
            self.log.append(self.raft.term, ENTRY_COMMAND, command, len(command))
            return self.raft.propose(1)
        box = <Outbox>self.boxes[slot]
        box.begin(FRAME_FORWARD, 0, self.raft.term)
        box.put_u32(1)
        box.put_u32(<uint32_t>len(command))
        box.put(PyBytes_AS_STRING(command), len(command))
        return box.end()

    # ------------------------------------------------------------------------------------ reads
    cdef int ask_reads(self, uint64_t now_us) except -1:
        """Every batch without an index is asked for, once of each leader and connection."""
        cdef int slot = self.leader_slot(now_us)
        cdef uint64_t link = 0 if slot < 0 else self.peers[slot].number
        cdef Outbox box
        cdef Batch *b
        cdef size_t i
        if self.raft.role != LEADER and slot < 0:
            return 0
        for i in range(self.reads.count):
            b = self.reads.batches[i]
            if b.index or (b.asked_term == self.raft.term and b.asked_leader == self.raft.leader
                           and b.asked_link == link):
                continue
            b.asked_term = self.raft.term
            b.asked_leader = self.raft.leader
            b.asked_link = link
            if self.raft.role == LEADER:
                self.raft.read(LOCAL | b.ticket, b.policy == LEASE, now_us)
            else:
                box = <Outbox>self.boxes[slot]
                box.begin(FRAME_READ, LEASE_READ if b.policy == LEASE else 0, self.raft.term)
                box.put_u64(b.ticket)
                box.end()
        return 0

    cdef uint64_t ticket(self, int slot, uint64_t own) noexcept:
        return (<uint64_t>slot << SLOT_SHIFT
                | (self.peers[slot].number & NUMBER_MASK) << TICKET_BITS | own)

    cdef int give_grant(self, const Grant *g) except -1:
        """Only to the connection that asked: a newer process may use the same ticket."""
        cdef int slot = <int>(g.ticket >> SLOT_SHIFT)
        cdef Outbox box
        if g.ticket & LOCAL == LOCAL:
            self.reads.granted(g.ticket & OWN, g.index)
        elif self.peers[slot].up and (MUTANT(27)
                                      or g.ticket == self.ticket(slot, g.ticket & OWN)):
            box = <Outbox>self.boxes[slot]
            box.begin(FRAME_GRANTED, 0, self.raft.term)
            box.put_u64(g.ticket & OWN)
            box.put_u64(g.index)
            box.end()
            self.raft.want(slot, g.index)
        return 0
