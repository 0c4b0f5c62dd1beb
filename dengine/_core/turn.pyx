"""The Ready loop of one node: see turn.pxd. What a frame changes is in frames.pyx."""
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport malloc

from os import fsdecode

from dengine._core.apply cimport Machine
from dengine._core.codec cimport ENTRY_CONFIG, ENTRY_NOOP, encode_jump
from dengine._core.consensus cimport LEADER
from dengine._core.fault cimport FAILPOINT, MUTANT
from dengine._core.flush cimport load_acquire
from dengine._core.members cimport encode_members
from dengine._core.raft cimport Raft
from dengine._core.types cimport (APPLY_ENTRIES, APPLY_US, FRAME_ENTRIES, JOB_META, JOB_PREPARE,
                                  JOB_READ, JOB_WRITE, JUMP, PAGE, STOPPED, Link,
                                  likely, unlikely)
from dengine._core.transfer cimport TRANSFER
from dengine._core.watch cimport begin_watch, end_watch
from dengine._core.wire cimport Outbox

from dengine.errors import Error, InvariantError

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident()

cdef enum:
    PIECES = 8                  # borrowed pieces in one append frame
    APPLY_LOOK = 64             # entries between two looks at the clock
    NOTES = 100                 # that nobody read yet
    NOOP_ROOM = 4096            # bytes that a new leader may append first: a no-op, a configuration
    # turns: what one schedules may run before the loop reads its sockets
    SKIP_TICKS = 2


cdef class Turn(Upkeep):
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

    # --------------------------------------------------------------------------------- the loop
    cpdef int run(self) except -1:
        cdef uint64_t now = self.io.now_us(self.io.ctx)
        cdef bint more = False
        if self.in_turn:
            return 0
        self.in_turn = True
        self.turns += 1
        begin_watch(&self.watch, self.io, now, self.log.blocked_us)
        try:
            if likely(self.failed is None):
                if self.skip_ticks:
                    self.skip_ticks -= 1
                elif (self.last_us and now - self.last_us > self.raft.opt.timeout_us // 2
                      and not MUTANT(41)):
                    self.skip_ticks = 0 if self.alone else SKIP_TICKS
                self.reap(now)
                if self.skip_ticks == 0:
                    self.tick(now)
                self.take_inbox(now)
                if unlikely(self.transfer.asking):
                    self.serve_pieces(now)
                if unlikely(self.under_way):
                    self.steer(now)
                if unlikely(self.visited):
                    self.dismiss(now)
                more = self.ready(now) and self.ready(now)
                more |= self.apply()
                if unlikely(self.checkpoint.due(self.machine.applied, self.log.bytes_written, now)):
                    self.begin_snapshot()
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
        end_watch(&self.watch, self.io, self.last_us - now, self.log.blocked_us)
        self.notice_role()
        if unlikely(self.begun):
            self.start_works()
        FAILPOINT(b"turn.tell")
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
                if job.owned == NULL:           # slot 0
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
            elif job.kind & JOB_READ and job.tag == TRANSFER:
                self.send_piece(job)
            elif job.kind & JOB_READ:
                self.fetched(job)
            elif job.kind & JOB_WRITE:
                if self.transfer.was_written(job, now_us):
                    self.fetch_piece()
                elif self.transfer.complete():
                    self.begin_load()
            self.preparer.give_back()
            job = self.preparer.take()
        if unlikely(self.checkpoint.writer is not None and self.checkpoint.writer.ended):
            self.checkpoint.end(now_us)
        if unlikely(self.transfer.loader is not None and self.transfer.loader.ended):
            self.install(now_us)
        return self.persisted(now_us)

    cdef int persisted(self, uint64_t now_us) except -1:
        cdef uint64_t index = self.log.durable(now_us)
        if index > self.raft.durable:
            self.raft.persisted(0, self.raft.terms.at(index), index, now_us)
        return 0

    cdef int tick(self, uint64_t now_us) except -1:
        if not self.alone and not MUTANT(65):
            self.raft.stalled = (self.log.unsynced_us != 0 and now_us > self.log.unsynced_us
                                 + self.raft.opt.timeout_us)
        if unlikely(self.log.full or self.raft.full):
            self.look_at_room()
        self.raft.tick(now_us)
        self.tell_time(now_us)
        return self.expire(now_us)

    cdef int look_at_room(self) except -1:
        """The disk is full, or was: consensus acts on it."""
        self.log.fulls += self.log.full and not self.raft.full
        if self.log.full != self.raft.full and len(self.notes) < NOTES:
            self.notes.append(
                f"{fsdecode(self.log.directory)}: the disk is full: the log goes on in its reserve,"
                " writes are refused where a majority is full; make room, no restart is needed"
                if self.log.full else
                f"{fsdecode(self.log.directory)}: the disk has room again")
        return self.raft.has_room(self.log.full,
                                  not self.alone and not self.log.takes(NOOP_ROOM, False))

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
        cdef uint64_t leader = raft.known_leader()
        if (raft.saved_term == self.seen_term and leader == self.seen_leader
                and raft.role == self.seen_role):
            return 0
        if leader != self.seen_leader:
            self.register_due_us = 0
            self.ask_again_us = 0
        self.seen_term = raft.saved_term
        self.seen_leader = leader
        self.seen_role = raft.role
        if self.on_role is not None:
            self.on_role()
        return 0

    # ------------------------------------------------------------------------------------ Ready
    cdef bint ready(self, uint64_t now_us) except -1:
        """Takes Ready once: saves, sends, writes. True: there is more to take."""
        cdef Raft raft = self.raft
        cdef Message *m
        cdef size_t i
        cdef int slot
        if raft.begin:
            self.begin_term()
        if unlikely(self.meta.state.known == 0) and not raft.save and self.known():
            raft.save_again()                           # once: a lost log is then missed
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
        if raft.version == raft.saved or MUTANT(40):
            self.log.write(self.flusher, raft.commit, now_us)
            self.log.plan()
        if unlikely(self.log.first() <= self.checkpoint.keep):
            self.compact(now_us)
        if unlikely(self.log.dead_count):
            self.log.bury()
        self.persisted(now_us)
        return (raft.out_count or raft.grant_count or raft.begin or raft.round_due
                or (raft.save and self.flusher.has_room(2)))

    cdef int begin_term(self) except -1:
        """The no-op of a term; before the first, the configuration of the cluster."""
        cdef bytes payload
        cdef uint64_t index, n = 1
        if self.raft.config_index == 0:
            self.members.promise_ms = self.promise_ms
            payload = encode_members(&self.members)
            index = self.log.append(self.raft.term, ENTRY_CONFIG, payload, len(payload))
            self.adopt((index, payload))
            n = 2
        payload = encode_jump(JUMP) if self.raft.by_all and not MUTANT(110) else b""
        self.log.append(self.raft.term, ENTRY_NOOP, payload, len(payload))
        return self.raft.begun(n)

    cdef int save(self) except -1:
        """Slot 0, then slot 1: messages may rely on the save once slot 0 is synced."""
        cdef char *page
        cdef Job *job
        cdef int slot
        self.meta.state.doubt = self.raft.doubt
        self.meta.state.known = max(self.known(), self.meta.state.known)
        page = self.meta.page(self.raft.term, self.raft.vote)
        for slot in range(2):
            job = self.flusher.slot()
            job.kind = JOB_META
            job.fd = self.meta.fd
            job.iov[0].iov_base = page
            job.iov[0].iov_len = PAGE
            job.parts = 1
            job.offset = (0 if MUTANT(39) else slot) * PAGE
            job.version = self.raft.version
            job.owned = page if slot else NULL
            self.flusher.submit()
        self.raft.save = False
        return 0

    cdef uint64_t known(self) noexcept:
        return min(self.raft.commit, self.log.synced)

    # ------------------------------------------------------------------------ appends, for peers
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
            while (n < m.count and pieces < PIECES and total < FRAME_ENTRIES
                   and box.has_room(PIECES)):
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
            if unlikely(self.raft.peers[slot].compacted):
                self.offer_snapshot(slot)
            if n == 0:
                return 0
        return 0

    cdef int fetch(self, int slot, const Message *m) except -1:
        """Entries not in memory are read by the preparer: the peer waits, not the turn."""
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
        f = <Fetch *>malloc(sizeof(Fetch) + size)
        if f == NULL:
            raise MemoryError
        f.slot = slot
        f.number = self.peers[slot].number
        f.term = self.raft.term
        f.prev = m.index
        f.count = count
        job = self.preparer.slot()
        job.kind = JOB_READ
        job.fd = fd
        job.offset = offset
        job.iov[0].iov_base = f.bytes
        job.iov[0].iov_len = size
        job.owned = f
        self.preparer.submit()
        return 0

    cdef int fetched(self, const Job *job) except -1:
        cdef Fetch *f = <Fetch *>job.owned
        cdef Outbox box = <Outbox>self.boxes[f.slot]
        cdef Message m
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

    cdef int flush_links(self) except -1:
        cdef Outbox box
        cdef int slot
        for slot in range(self.members.count):
            box = <Outbox>self.boxes[slot]
            if box.total:
                if self.peers[slot].up:
                    FAILPOINT(b"turn.send")
                    (<Link>self.links[slot]).send(box.parts, box.gather())
                box.clear()
            box = <Outbox>self.bulk_boxes[slot]
            if unlikely(box.total):
                if self.bulks[slot] is not None:
                    (<Link>self.bulks[slot]).send(box.parts, box.gather())
                box.clear()
        return 0

    # ------------------------------------------------------------------------------------ apply
    cdef bint apply(self) except -1:
        """One slice of what is committed. True: there is more."""
        cdef Machine machine = self.machine
        cdef uint64_t end = self.raft.last if MUTANT(66) else self.raft.commit
        cdef uint64_t until = 0
        cdef int n = 0
        while machine.applied < end and n < APPLY_ENTRIES:
            FAILPOINT(b"turn.apply")
            machine.apply(self.log.record(machine.applied + 1), self.results)
            n += 1
            if n % APPLY_LOOK == 0:
                if until == 0:
                    until = self.io.now_us(self.io.ctx) + APPLY_US
                elif self.io.now_us(self.io.ctx) > until:
                    break
        return machine.applied < end
