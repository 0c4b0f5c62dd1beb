"""Upkeep: when a snapshot is taken, offered or installed. See upkeep.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from dengine._core.checkpoint cimport engine_decode, engine_encode
from dengine._core.consensus cimport LEADER
from dengine._core.fault cimport FAILPOINT, MUTANT
from dengine._core.kv cimport KV, remains_free
from dengine._core.snapshot cimport SnapshotHeader
from dengine._core.transfer cimport Loader, Offer, Piece, Source
from dengine._core.types cimport MAX_MEMBERS
from dengine._core.wire cimport FRAME_FETCH, FRAME_OFFER, FRAME_PIECE, Outbox, PieceFields


cdef enum:
    ROOM = 4                    # jobs of an install: the store, two snapshots
    AWAY_US = 60000000          # since it asked for a piece: then a transfer is not waited for


cdef class Upkeep(Membership):
    def __cinit__(self):
        self.begun = []

    cdef int schedule(self) except -1:
        raise NotImplementedError

    # -------------------------------------------------------------------------------- snapshots
    cpdef int snapshot_ended(self, Work work) except -1:
        work.ended = True
        return self.schedule()

    cdef int begin_snapshot(self) except -1:
        """Of what is applied now. The store is pinned: a thread writes while the node serves."""
        cdef SnapshotHeader h
        cdef uint64_t index = self.machine.applied
        if self.on_snapshot is None or index < self.raft.config_index or (
                self.raft.config_index == 0):
            return 0
        if self.raft.version != self.raft.saved and not MUTANT(118):
            return 0                            # no snapshot of a term before the term is saved
        memset(&h, 0, sizeof(h))
        h.cluster = self.meta.state.cluster
        h.incarnation = self.meta.state.incarnation
        h.index = index
        h.term = self.raft.terms.at(index)
        h.last_crc = self.log.crc_at(index)
        self.checkpoint.begin(&h, self.kv, engine_encode(self.newest(), self.session),
                              self.session.idempotency.pin(), self.log.bytes_written)
        self.begun.append(self.checkpoint.writer)
        return 0

    cdef int start_works(self) except -1:
        while self.begun:
            self.on_snapshot(self.begun.pop(0))
        return 0

    cdef int compact(self, uint64_t now_us) except -1:
        """What the snapshots cover goes, segment by segment; a leader waits for those who lag. One
        that fetches a snapshot needs the log behind it, as much as the snapshot has at most:
        whoever is slower than that is slower than the writes.
        """
        cdef uint64_t needed = <uint64_t>-1 if self.alone else 0
        cdef uint64_t spare = self.keep_bytes, match
        cdef Source *s
        cdef int i
        for i in range(MAX_MEMBERS):
            s = &self.transfer.sources[i]
            if s.index and not self.fetches(i, now_us):
                self.transfer.let_go(i)
        if self.raft.role == LEADER and not self.alone:
            needed = self.raft.last
            for i in range(self.raft.config.count):
                if not self.members.flags[i] or self.raft.config.id[i] == self.raft.opt.id:
                    continue
                match = self.raft.peers[i].match
                s = &self.transfer.sources[i]
                if s.index and not MUTANT(170):
                    match = max(match, s.index)
                    spare = max(spare, s.size)
                needed = min(needed, match)
        if self.log.compact(self.checkpoint.keep, needed, 0 if self.log.full else spare):
            self.raft.compact(self.log.first() - 1)
        return 0

    cdef bint fetches(self, int slot, uint64_t now_us) noexcept:
        """Does it still lag behind the newest snapshot, and has not been away for long? A full disk
        needs the room of files that have no name any more."""
        return (self.raft.role == LEADER and not self.log.full and slot < self.raft.config.count
                and self.members.flags[slot] != 0
                and self.raft.peers[slot].match < self.checkpoint.base.index
                and (self.raft.peers[slot].up
                     or now_us < self.transfer.sources[slot].asked_us + AWAY_US))

    cdef int offer_snapshot(self, int slot) except -1:
        cdef Outbox box = <Outbox>self.boxes[slot]
        cdef Offer o
        if not self.checkpoint.offer(&o) or o.index < self.raft.terms.base:
            return 0
        box.begin(FRAME_OFFER, 0, self.raft.term)
        box.put_u64(o.index)
        box.put_u64(o.term)
        box.put_u32(o.last_crc)
        box.put_u32(o.header_crc)
        box.put_u64(o.size)
        return box.end()

    cdef int fetch_piece(self) except -1:
        """Asks the leader for the next piece of the snapshot that it offers."""
        cdef int slot = self.slot_by_id(self.raft.leader)
        cdef Outbox box
        if slot < 0 or self.bulks[slot] is None:
            return 0
        box = <Outbox>self.bulk_boxes[slot]
        box.begin(FRAME_FETCH, 0, self.raft.term)
        box.put_u64(self.transfer.offer.index)
        box.put_u32(self.transfer.offer.header_crc)
        box.put_u64(self.transfer.have)
        return box.end()

    cdef int serve_pieces(self, uint64_t now_us) except -1:
        cdef int slot = self.transfer.serve(now_us, self.raft.last)
        cdef PieceFields *asked
        if slot < 0 or MUTANT(169):
            return 0
        asked = &self.transfer.sources[slot].asked
        return self.give_piece(slot, self.transfer.sources[slot].number, asked.index,
                               asked.header_crc, asked.offset, NULL, 0)

    cdef int send_piece(self, const Job *job) except -1:
        cdef Piece *p = self.transfer.was_read(job)
        if p == NULL:
            return 0
        return self.give_piece(p.slot, p.number, p.index, p.header_crc, p.offset, p.bytes, p.size)

    cdef int give_piece(self, int slot, uint64_t number, uint64_t index, uint32_t header_crc,
                        uint64_t offset, const char *bytes, size_t n) except -1:
        cdef Outbox box = <Outbox>self.bulk_boxes[slot]
        if self.peers[slot].bulk_number != number:
            return 0
        box.begin(FRAME_PIECE, 0, self.raft.term)
        box.put_u64(index)
        box.put_u32(header_crc)
        box.put_u64(offset)
        box.put(bytes, n)
        return box.end()

    cdef int begin_load(self) except -1:
        """All of the snapshot is here: a thread verifies it and makes a store of it."""
        if self.on_snapshot is not None:
            self.begun.append(self.transfer.load())
        return 0

    cdef int install(self, uint64_t now_us) except -1:
        """The store of the leader's snapshot takes the place of this one, and of the log."""
        cdef Loader loader = self.transfer.loader
        cdef Offer *o = &self.transfer.offer
        cdef tuple config
        cdef KV old
        if loader.complete and self.raft.role != LEADER and (MUTANT(119) or (
                o.index > self.raft.commit and self.raft.terms.at(o.index) != o.term)):
            # What the flusher writes is of the log that goes; to free a store takes long.
            if not self.flusher.idle() or not self.preparer.has_room(ROOM):
                self.flusher.hurry()
                return 0
            config = engine_decode(loader.engine, loader.idempotency, self.session)
            FAILPOINT(b"install.log")
            self.log.restart(o.index, o.term, o.last_crc)
            self.checkpoint.replace(o, self.log.bytes_written)
            old = self.kv
            self.kv = self.machine.kv = loader.kv
            self.machine.applied = o.index
            self.preparer.release(old.give_up(), remains_free)
            self.session.recognise(self.results)
            self.raft.restart(o.index, o.term)
            self.configs = []
            self.adopt(config)
            self.transfer.installed += 1
            FAILPOINT(b"install.done")
        elif loader.complete:
            self.checkpoint.discard(o.index)    # the log brought it all meanwhile
        return self.transfer.ended(loader.complete, now_us)
