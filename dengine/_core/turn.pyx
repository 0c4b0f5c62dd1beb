"""The Ready loop of one node: see turn.pxd. What a frame or a connection changes is in frames.pyx."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF, PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from dengine._core.codec cimport (ENTRY_COMMAND, ENTRY_CONFIG, ENTRY_NOOP, GET, encode_members,
                                  encode_register)
from dengine._core.consensus cimport LEADER
from dengine._core.flush cimport load_acquire
from dengine._core.quorum cimport config_from, slot_of
from dengine._core.reads cimport Batch
from dengine._core.types cimport (APPLY_ENTRIES, APPLY_US, EVENTUAL, FRAME_ENTRIES, JOB_META,
                                  JOB_PREPARE, JOB_READ, LEASE, MISSING, NOT_PROPOSED, OK, PAGE,
                                  STOPPED, UNAVAILABLE, UNKNOWN, Item, likely, unlikely)
from dengine._core.wire cimport FRAME_FORWARD, FRAME_GRANTED, FRAME_READ, LEASE_READ

from dengine.errors import Error, InvariantError

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident()

cdef enum:
    EXPIRE_US = 50000           # deadlines are looked at this often
    REGISTER_US = 500000        # a registration that was not applied is sent again
    PIECES = 8                  # borrowed pieces in one append frame
    APPLY_LOOK = 64             # entries between two looks at the clock
    # turns: what one schedules may run before the loop reads its sockets
    SKIP_TICKS = 2

cdef uint64_t FOREVER = 0xFFFFFFFFFFFFFFFF
cdef uint64_t LOCAL = <uint64_t>LOCAL_SLOT << SLOT_SHIFT
cdef uint64_t OWN = (<uint64_t>1 << TICKET_BITS) - 1


cdef class Turn:
    def __cinit__(self):
        self.inbox = []
        self.backlog = []
        self.links = [None] * MAX_MEMBERS
        self.boxes = [Outbox() for _ in range(MAX_MEMBERS)]
        self.results = Results()
        self.reads = Reads()
        memset(self.peers, 0, sizeof(self.peers))
        memset(&self.members, 0, sizeof(self.members))

    # --------------------------------------------------------------------------------- requests
    cdef int submit(self, Waiter waiter) except -1:
        self.inbox.append(waiter)
        return self.schedule()

    cdef int schedule(self) except -1:
        if self.scheduled or self.loop is None:
            return 0
        self.scheduled = True
        if PyThread_get_thread_ident() == self.thread:
            self.loop.call_soon(self.wake)
        else:
            self.loop.call_soon_threadsafe(self.wake)
        return 0

    cpdef int wake(self) except -1:
        self.scheduled = False
        return self.run()

    cdef bint may_read(self, uint8_t policy) noexcept:
        if policy == EVENTUAL:
            return True
        if (policy != LEASE and not self.alone) or self.machine.applied < self.raft.commit:
            return False
        return self.raft.leads(self.io.now_us(self.io.ctx))

    # --------------------------------------------------------------------------------- the loop
    cpdef int run(self) except -1:
        cdef uint64_t now = self.io.now_us(self.io.ctx), took
        cdef bint more = False
        if self.in_turn:
            return 0
        self.in_turn = True
        self.turns += 1
        try:
            if likely(self.failed is None):
                if self.skip_ticks:
                    self.skip_ticks -= 1
                elif self.last_us and now - self.last_us > self.raft.opt.timeout_us // 2:
                    self.skip_ticks = 0 if self.alone else SKIP_TICKS
                self.reap(now)
                if self.skip_ticks == 0:
                    self.tick(now)
                self.take_inbox(now)
                more = self.ready(now) and self.ready(now)
                more |= self.apply()
                if self.reads.count:
                    self.reads.answer(self.machine.applied, self.kv, self.results)
                self.flush_links()
                more |= self.skip_ticks != 0
                more |= self.backlog_at < <size_t>len(self.backlog) and self.may_propose(now)
            else:
                self.drain(STOPPED)
        except Exception as error:
            self.stop(error)
        finally:
            self.in_turn = False
        self.last_us = self.io.now_us(self.io.ctx)
        took = self.last_us - now
        if took > self.longest_us:
            self.longest_us = took
        self.notice_role()
        if self.results.deliver() and self.on_results is not None:
            self.on_results()
        if more or self.inbox:
            self.schedule()
        return 0

    cdef int reap(self, uint64_t now_us) except -1:
        """Takes back what the workers finished."""
        cdef Job *job = self.flusher.take()
        while job != NULL:
            if job.kind & JOB_META:
                self.log.check(job.error, "kept beside its hard state")
                if job.owner != NULL:
                    free(job.owner)
                else:
                    self.raft.persisted(job.version, 0, 0, now_us)
            else:
                self.log.finished(job, now_us)
            self.flusher.give_back()
            job = self.flusher.take()
        if unlikely(load_acquire(&self.flusher.ring.failed)):
            self.log.check(<int>self.flusher.ring.failed, "synced")
        job = self.preparer.take()
        while job != NULL:
            if job.kind & JOB_PREPARE:
                self.log.prepared_done(job)
            else:
                self.fetched(job)
            self.preparer.give_back()
            job = self.preparer.take()
        return self.persisted(now_us)

    cdef int persisted(self, uint64_t now_us) except -1:
        cdef uint64_t index = self.log.durable(now_us)
        if index > self.raft.durable:
            self.raft.persisted(0, self.raft.terms.at(index), index, now_us)
        return 0

    cdef int tick(self, uint64_t now_us) except -1:
        cdef size_t i, kept = 0
        if not self.alone:
            self.raft.stalled = (self.log.unsynced_us != 0 and now_us > self.log.unsynced_us
                                 + self.raft.opt.timeout_us)
        self.raft.tick(now_us)
        if now_us < self.expire_due_us:
            return 0
        self.expire_due_us = now_us + EXPIRE_US
        self.session.expire(now_us, UNKNOWN, self.results)
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
                        self.results.add_waiter(waiter, NOT_PROPOSED)
                elif self.may_read(waiter.policy):
                    item = self.kv.get(PyBytes_AS_STRING(waiter.key),
                                       <uint32_t>PyBytes_GET_SIZE(waiter.key))
                    Py_INCREF(waiter)
                    self.results.add(<PyObject *>waiter, MISSING if item == NULL else OK,
                                     self.kv.revision, item)
                elif self.reads.waiting < self.waiting_reads:
                    self.reads.add(waiter)
                else:
                    self.results.add_waiter(waiter, UNAVAILABLE)
            self.reads.close_batches()
        if not self.session.ready:
            self.register(now_us)
        if self.backlog_at < <size_t>len(self.backlog):
            self.propose_backlog(now_us)
        if self.reads.count:
            self.ask_reads(now_us)
        return 0

    cdef int drain(self, int status) except -1:
        """The node has stopped: whoever waits is told."""
        cdef Waiter waiter
        for waiter in self.backlog[self.backlog_at:] + self.inbox:
            self.results.add_waiter(waiter, status)
        self.backlog = []
        self.backlog_at = 0
        self.backlog_bytes = 0
        self.inbox = []
        self.session.expire(FOREVER, UNKNOWN, self.results)
        return self.reads.expire(FOREVER, status, self.results)

    cdef int stop(self, object error) except -1:
        """A fatal error stops the node, not the process."""
        cdef object cause = error
        if self.failed is not None:
            return 0
        if not isinstance(error, Error):
            error = InvariantError(f"the node stopped on an error that nobody expected: {cause!r}; "
                                   "what was acknowledged is in the log; please report it")
            error.__cause__ = cause
        self.failed = error
        self.drain(STOPPED)
        if self.on_fatal is not None:
            self.on_fatal(error)
        return 0

    cdef int notice_role(self) except -1:
        cdef Raft raft = self.raft
        if (raft.term == self.seen_term and raft.leader == self.seen_leader
                and raft.role == self.seen_role):
            return 0
        if raft.leader != self.seen_leader:
            self.register_due_us = 0
            self.ask_again_us = 0
        self.seen_term = raft.term
        self.seen_leader = raft.leader
        self.seen_role = raft.role
        if self.on_role is not None:
            self.on_role()
        return 0

    # ----------------------------------------------------------------------- writes and reads
    cdef bint may_propose(self, uint64_t now_us) noexcept:
        """A leader without a lease proposes nothing: it could not say what became of it."""
        if not self.session.ready or not self.session.has_room():
            return False
        if self.raft.role == LEADER:
            return self.raft.leads(now_us)
        return self.leader_slot(now_us) >= 0

    cdef int slot_by_id(self, uint64_t node) noexcept:
        cdef int i
        for i in range(self.members.count):
            if self.members.id[i] == node:
                return i
        return -1

    cdef int leader_slot(self, uint64_t now_us) noexcept:
        cdef int slot = -1
        if self.raft.leader and self.raft.role != LEADER and now_us >= self.ask_again_us:
            slot = slot_of(&self.raft.config, self.raft.leader)
        return slot if slot >= 0 and self.peers[slot].up else -1

    cdef int propose_backlog(self, uint64_t now_us) except -1:
        cdef size_t n = len(self.backlog)
        cdef uint64_t proposed = 0
        cdef int slot
        if not self.may_propose(now_us):
            return 0
        if self.raft.role == LEADER:
            while self.backlog_at < n and self.session.has_room():
                self.backlog_at += 1            # first: a failure must not tell its waiter twice
                self.propose(<Waiter>self.backlog[self.backlog_at - 1])
                proposed += 1
            self.raft.propose(proposed)
        else:
            slot = self.leader_slot(now_us)
            while self.backlog_at < n and self.session.has_room():
                self.forward_some(slot, n)
        if self.backlog_at == n:
            self.backlog.clear()
            self.backlog_at = 0
        elif self.backlog_at > 4096:
            del self.backlog[:self.backlog_at]
            self.backlog_at = 0
        return 0

    cdef int propose(self, Waiter waiter) except -1:
        self.backlog_bytes -= PyBytes_GET_SIZE(waiter.command)
        self.session.assign(waiter)
        self.log.append(self.raft.term, ENTRY_COMMAND, PyBytes_AS_STRING(waiter.command),
                        PyBytes_GET_SIZE(waiter.command))
        return 0

    cdef int forward_some(self, int slot, size_t n) except -1:
        """One FORWARD frame of the oldest of the backlog."""
        cdef Outbox box = <Outbox>self.boxes[slot]
        cdef Waiter waiter
        cdef uint32_t count = 0
        cdef size_t at, size = 0
        box.begin(FRAME_FORWARD, 0, self.raft.term)
        at = box.size
        box.put_u32(0)
        while self.backlog_at < n and self.session.has_room() and size < FRAME_ENTRIES:
            waiter = <Waiter>self.backlog[self.backlog_at]
            self.backlog_bytes -= PyBytes_GET_SIZE(waiter.command)
            self.session.assign(waiter)
            box.put_u32(<uint32_t>PyBytes_GET_SIZE(waiter.command))
            box.put(PyBytes_AS_STRING(waiter.command), PyBytes_GET_SIZE(waiter.command))
            size += sizeof(uint32_t) + PyBytes_GET_SIZE(waiter.command)
            self.backlog_at += 1
            count += 1
        (<uint32_t *>(box.data + at))[0] = count
        self.forwarded += count
        return box.end()

    cdef int register(self, uint64_t now_us) except -1:
        """This node's session: asked for until its entry is applied. Repeats change nothing."""
        cdef int slot = self.leader_slot(now_us)
        cdef Outbox box
        cdef bytes command
        if now_us < self.register_due_us or self.raft.begin or not self.raft.formed:
            return 0
        if self.raft.role != LEADER and slot < 0:
            return 0
        self.register_due_us = now_us + REGISTER_US
        command = encode_register(self.session.node, self.session.incarnation, self.session.nonce)
        if self.raft.role == LEADER:
            self.log.append(self.raft.term, ENTRY_COMMAND, command, len(command))
            return self.raft.propose(1)
        box = <Outbox>self.boxes[slot]
        box.begin(FRAME_FORWARD, 0, self.raft.term)
        box.put_u32(1)
        box.put_u32(<uint32_t>len(command))
        box.put(PyBytes_AS_STRING(command), len(command))
        return box.end()

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

    # -------------------------------------------------------------------------------- Ready
    cdef bint ready(self, uint64_t now_us) except -1:
        """Takes Ready once: saves, sends, writes. True: there is more to take."""
        cdef Raft raft = self.raft
        cdef Message *m
        cdef int i, slot
        if raft.begin:
            self.begin_term()
        if raft.save and self.flusher.has_room(2):      # else it waits; so does what relies on it
            self.save()
        for i in range(raft.grant_count):
            self.give_grant(&raft.grants[i])
        raft.start_round(now_us)
        for i in range(raft.out_count):
            m = &raft.out[i]
            slot = self.slot_by_id(m.peer)
            if slot >= 0 and self.peers[slot].up:
                (<Outbox>self.boxes[slot]).message(m)
        raft.taken()
        if raft.role == LEADER and not self.alone:
            for slot in range(raft.config.count):
                self.serve(slot)
            self.flush_links()
        # no record of a term before the term itself is saved
        if raft.version == raft.saved:
            self.log.write(self.flusher, raft.commit, now_us)
            self.log.plan()
        self.persisted(now_us)
        return (raft.out_count or raft.grant_count or raft.begin or raft.round_due
                or (raft.save and self.flusher.has_room(2)))

    cdef int begin_term(self) except -1:
        """The no-op of a term; in front of the first one, the configuration that forms the cluster."""
        cdef Config config
        cdef bytes payload
        cdef uint64_t n = 1
        if not self.raft.formed:
            self.members.promise_ms = self.promise_ms
            payload = encode_members(&self.members)
            self.log.append(self.raft.term, ENTRY_CONFIG, payload, len(payload))
            config_from(&config, &self.members)
            self.raft.adopt(&config, True, 0)
            n = 2
        self.log.append(self.raft.term, ENTRY_NOOP, NULL, 0)
        return self.raft.begun(n)

    cdef int save(self) except -1:
        """Slot 0, then slot 1: messages may rely on the save once slot 0 is synced."""
        cdef char *page = self.meta.page(self.raft.term, self.raft.vote)
        cdef Job *job
        cdef int slot
        for slot in range(2):
            job = self.flusher.slot()
            job.kind = JOB_META
            job.fd = self.meta.fd
            job.iov[0].iov_base = page
            job.iov[0].iov_len = PAGE
            job.parts = 1
            job.offset = slot * PAGE
            job.version = self.raft.version
            job.owner = page if slot else NULL
            self.flusher.submit()
        self.raft.save = False
        return 0

    cdef uint64_t ticket(self, int slot, uint64_t own) noexcept:
        return (<uint64_t>slot << SLOT_SHIFT
                | (self.peers[slot].number & NUMBER_MASK) << TICKET_BITS | own)

    cdef int give_grant(self, const Grant *g) except -1:
        """Only to the connection that asked: a process that started since may use the same ticket again."""
        cdef int slot = <int>(g.ticket >> SLOT_SHIFT)
        cdef Outbox box
        if g.ticket & LOCAL == LOCAL:
            self.reads.granted(g.ticket & OWN, g.index)
        elif self.peers[slot].up and g.ticket == self.ticket(slot, g.ticket & OWN):
            box = <Outbox>self.boxes[slot]
            box.begin(FRAME_GRANTED, 0, self.raft.term)
            box.put_u64(g.ticket & OWN)
            box.put_u64(g.index)
            box.end()
            self.raft.want(slot, g.index)
        return 0

    cdef int serve(self, int slot) except -1:
        """Appends for one peer, as many as its window takes, without copying a record."""
        cdef Outbox box = <Outbox>self.boxes[slot]
        cdef const char *piece[PIECES]
        cdef size_t size[PIECES]
        cdef Message m
        cdef uint64_t n, count
        cdef size_t total, got
        cdef int pieces, i
        while self.raft.next_append(slot, &m):
            n = 0
            total = 0
            pieces = 0
            while n < m.count and pieces < PIECES and total < FRAME_ENTRIES and box.has_room(PIECES):
                got = self.log.span(m.index + 1 + n, m.index + m.count, FRAME_ENTRIES - total,
                                    &piece[pieces], &count)
                if got == 0 or (total and total + got > FRAME_ENTRIES):
                    break
                size[pieces] = got
                pieces += 1
                total += got
                n += count
            if m.count and n == 0:
                if not box.has_room(PIECES) or not self.preparer.has_room(1):
                    return 0
                self.fetch(slot, &m)
                continue                        # what is due besides goes without entries
            m.count = n
            box.append(&m, self.log.crc_at(m.index))
            for i in range(pieces):
                box.borrow(piece[i], size[i])
            box.end()
            self.raft.sent(slot, n, total)
            if n == 0:
                return 0
        return 0

    cdef int fetch(self, int slot, const Message *m) except -1:
        """Entries that are not in memory are read by the preparer; the peer waits, the turn does not."""
        cdef Fetch *f
        cdef Job *job
        cdef int64_t offset
        cdef uint64_t count
        cdef size_t size
        cdef int fd
        self.raft.peers[slot].fetching = True
        size = self.log.place(m.index + 1, m.index + m.count, FRAME_ENTRIES, &fd, &offset, &count)
        if size == 0:
            raise InvariantError(f"entry {m.index + 1} is not in the log")
        f = <Fetch *>malloc(sizeof(Fetch))
        if f == NULL:
            raise MemoryError
        f.slot = slot
        f.number = self.peers[slot].number
        f.term = self.raft.term
        f.prev = m.index
        f.count = count
        f.bytes = <char *>malloc(size)
        if f.bytes == NULL:
            free(f)
            raise MemoryError
        job = self.preparer.slot()
        job.kind = JOB_READ
        job.fd = fd
        job.offset = offset
        job.iov[0].iov_base = f.bytes
        job.iov[0].iov_len = size
        job.owner = f
        self.preparer.submit()
        return 0

    cdef int fetched(self, const Job *job) except -1:
        cdef Fetch *f = <Fetch *>job.owner
        cdef Outbox box = <Outbox>self.boxes[f.slot]
        cdef Message m
        try:
            self.log.check(job.error, "read")
            if (self.raft.role != LEADER or self.raft.term != f.term
                    or self.peers[f.slot].number != f.number):
                return 0
            self.raft.peers[f.slot].fetching = False
            if self.raft.peers[f.slot].next != f.prev + 1 or not self.raft.next_append(f.slot, &m):
                return 0
            if m.count < f.count:
                return 0
            m.count = f.count
            box.append(&m, self.log.crc_at(m.index))
            box.put(f.bytes, job.iov[0].iov_len)
            box.end()
            self.raft.sent(f.slot, f.count, job.iov[0].iov_len)
            return 0
        finally:
            free(f.bytes)
            free(f)

    cdef int flush_links(self) except -1:
        cdef Outbox box
        cdef int slot
        for slot in range(self.members.count):
            box = <Outbox>self.boxes[slot]
            if box.total:
                if self.peers[slot].up:
                    (<Link>self.links[slot]).send(box.parts, box.gather())
                box.clear()
        return 0

    cdef bint apply(self) except -1:
        """One slice of what is committed. True: there is more."""
        cdef Machine machine = self.machine
        cdef uint64_t until = 0
        cdef int n = 0
        while machine.applied < self.raft.commit and n < APPLY_ENTRIES:
            machine.apply(self.log.record(machine.applied + 1), self.results)
            n += 1
            if n % APPLY_LOOK == 0:
                if until == 0:
                    until = self.io.now_us(self.io.ctx) + APPLY_US
                elif self.io.now_us(self.io.ctx) > until:
                    break
        return machine.applied < self.raft.commit
