"""Frames and connections: what they mean to raft, to the log and to whoever waits.

It decides what is refused before raft sees it: records that do not continue their chain, votes and
acknowledgements of a data directory that the configuration does not name, commands that are none.
"""
from os import fsdecode

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from dengine._core.codec cimport (ENTRY_COMMAND, ENTRY_CONFIG, REGISTER, Command, Reader, Record,
                                  command_decode, padded, record_check, read_from, take_bytes,
                                  take_u32, take_u64)
from dengine._core.consensus cimport DIVERGED, LEADER, REJECTED, TERM_MAX, Message, Run
from dengine._core.fault cimport MUTANT
from dengine._core.following cimport NO_CUT
from dengine._core.members cimport VOTER
from dengine._core.quorum cimport Config, config_from
from dengine._core.requests cimport ASK_AGAIN_US, TICKET_BITS
from dengine._core.transfer cimport Offer
from dengine._core.types cimport NO_SPACE, PAGE, PENDING, RECORD_HEADER, RUNS, SMALL, unlikely
from dengine._core.wire cimport (FRAME_APPEND, FRAME_BYE, FRAME_DURABLE, FRAME_FETCH,
                                 FRAME_FORWARD, FRAME_GRANTED, FRAME_HEARD, FRAME_HELLO,
                                 FRAME_NAMED, FRAME_OFFER, FRAME_PIECE, FRAME_READ, FRAME_REFUSED,
                                 FRAME_TIMEOUT_NOW, FRAME_VOTE, LEASE_READ, NO_ROOM, OUTDATED,
                                 PROTOCOL, REMOVED, Outbox, PieceFields, append_decode,
                                 message_decode, piece_decode)

from dengine.errors import CorruptionError, InvariantError, RemovedError


# ------------------------------------------------------------------------------------ connections
cdef int hello(Turn turn, uint64_t to, Hello *out) noexcept:
    out.protocol = PROTOCOL
    out.cluster = turn.meta.state.cluster
    out.node = turn.meta.state.node
    out.incarnation = turn.meta.state.incarnation
    out.to = to
    out.last = max(turn.log.last, turn.meta.state.known)    # a log that was lost is no empty one
    out.start = turn.meta.start
    out.nonce = turn.session.nonce
    out.config = turn.named
    out.bulk = False
    return 0


cdef int seat_of(Turn turn, const Hello *h) except -2:
    """The slot of the node that says this hello; -1: it is none that this one may speak with."""
    cdef int slot = turn.slot_by_id(h.node)
    if h.node == turn.meta.state.node:
        return -1
    return slot if slot >= 0 else turn.admit(h.node, h.incarnation, h.config)


cdef bint removed(Turn turn, int slot, const Hello *h) noexcept:
    """Is its directory one that counts nowhere any more? It knows to have been a member, and a
    later configuration, which is committed, does not name it."""
    if not 0 < h.config < turn.raft.config_index <= turn.raft.commit:
        return False
    return slot < 0 or turn.members.incarnation[slot] not in (0, h.incarnation)


cdef bint outdated(Turn turn, int slot, const Hello *h) noexcept:
    """Was its directory started again after the start that it speaks of? Then that is an older
    copy, put back: it forgot votes and entries."""
    cdef uint64_t start = turn.peers[slot].start
    return turn.peers[slot].incarnation == h.incarnation and not MUTANT(137) and (
        h.start < start or (h.start == start and h.nonce != turn.peers[slot].nonce))


cdef str farewell(Turn turn, int slot, const Frame *f):
    cdef uint64_t config = 0
    cdef size_t at = 0
    if f.flags & REMOVED:
        at = sizeof(config)
        if f.size < at:
            return "a goodbye that is cut short"
        memcpy(&config, f.body, at)
    if slot >= 0:
        obey(turn, slot, f, config)
    return f"it said: {f.body[at:f.size].decode('utf-8', 'replace') or 'removed'}"


cdef int obey(Turn turn, int slot, const Frame *f, uint64_t config) except -1:
    """What a member knows of this node's directory; from a stranger it would be an attack. A member
    that lags knows an older configuration than the one that names this directory."""
    if f.flags & OUTDATED:
        turn.stop(CorruptionError(
            f"{fsdecode(turn.meta.path)} and what lies beside it are an older copy: node "
            f"{turn.members.id[slot]} knows of a later start; its vote is lost, nothing "
            "acknowledged is; put the newest directory back, or move its file `meta` away and let "
            "`dengine rejoin` ask the other nodes"))
    if f.flags & REMOVED and 0 < turn.named and (turn.named < config or MUTANT(164)):
        turn.stop(RemovedError(
            f"node {turn.meta.state.node} was removed from the cluster, or another directory has "
            "its place: this one counts nowhere any more and may be deleted; to bring the node "
            "back, start it with an empty directory and let `dengine member add` take it in"))
    return 0


cdef int link_up(Turn turn, int slot, Link link, const Hello *h) except -1:
    cdef uint64_t now = turn.io.now_us(turn.io.ctx)
    turn.links[slot] = link
    (<Outbox>turn.boxes[slot]).clear()
    turn.peers[slot].up = True
    turn.peers[slot].incarnation = h.incarnation
    turn.peers[slot].last = h.last
    turn.peers[slot].start = h.start
    turn.peers[slot].nonce = h.nonce
    turn.peers[slot].config = h.config
    turn.peers[slot].dismissed = False
    turn.peers[slot].number += 1
    turn.say_named(slot)                        # since its hello it may have heard of another
    if turn.counts(slot):
        turn.raft.link_up(turn.members.id[slot], now)
    elif turn.raft.config_index == 0:
        form(turn, now)
        if h.last and turn.log.last == turn.meta.state.known == 0 and (
                turn.peers[slot].number == 1):
            turn.notes.append(f"this directory is empty, node {turn.members.id[slot]} has a log: "
                              "this node waits until the leader takes it in; if it had data, put "
                              "its directory back")
    return turn.schedule()


cdef int link_down(Turn turn, int slot, Link link) except -1:
    if turn.links[slot] is not link:
        return 0
    turn.unlink(slot)
    return turn.schedule()


cdef int form(Turn turn, uint64_t now) except -1:
    """A cluster is formed once: when every initial voter has answered and all are empty."""
    cdef Config config
    cdef int i
    for i in range(turn.members.count):
        if turn.members.flags[i] and turn.members.id[i] != turn.meta.state.node and (
                not turn.peers[i].up or (turn.peers[i].last and not MUTANT(62))):
            return 0
    if turn.log.last or turn.meta.state.known or not (
            turn.members.flags[turn.slot_by_id(turn.meta.state.node)] & VOTER):
        return 0
    for i in range(turn.members.count):
        if turn.members.id[i] != turn.meta.state.node:
            turn.members.incarnation[i] = turn.peers[i].incarnation
    config_from(&config, &turn.members)
    turn.raft.adopt(&config, 0, now)
    return turn.announce_links(now)


# ----------------------------------------------------------------------------------------- frames
cdef object receive(Turn turn, int slot, const Frame *f):
    cdef uint64_t now = turn.io.now_us(turn.io.ctx)
    cdef Message m
    cdef object fault = None
    if turn.failed is not None:
        return "this node has stopped"
    if unlikely(turn.in_turn):
        raise InvariantError("a frame arrived inside a turn")
    turn.in_turn = True
    try:
        if f.kind == FRAME_APPEND:
            fault = on_append(turn, slot, f, now)
        elif FRAME_VOTE <= f.kind <= FRAME_DURABLE or f.kind == FRAME_TIMEOUT_NOW:
            if message_decode(f, turn.members.id[slot], &m):
                fault = "a consensus message with fields that do not fit its kind"
            elif f.term > TERM_MAX:
                fault = f"term {f.term}, which no cluster reaches"
            elif (FRAME_HEARD <= f.kind <= FRAME_DURABLE and f.term == turn.raft.term
                  and m.index > turn.raft.last
                  and turn.raft.role == LEADER):        # a leader of before may have lost its tail
                fault = f"an answer about entry {m.index}, which was never sent to it"
            elif turn.counts(slot) or (f.kind == FRAME_VOTE and turn.hears(slot)):
                turn.raft.step(&m, now)
        elif f.kind == FRAME_FORWARD:
            fault = on_forward(turn, slot, f, now)
        elif f.kind == FRAME_REFUSED:
            turn.ask_again_us = now + ASK_AGAIN_US
            fault = on_refused(turn, f)
        elif f.kind == FRAME_READ:
            fault = on_read(turn, slot, f, now)
        elif f.kind == FRAME_GRANTED:
            fault = on_granted(turn, f, now)
        elif f.kind == FRAME_HELLO:
            fault = "a second handshake"
        elif f.kind == FRAME_BYE:
            fault = farewell(turn, slot, f)
        elif f.kind == FRAME_NAMED:
            fault = on_named(turn, slot, f)
        elif f.kind == FRAME_OFFER:
            fault = on_offer(turn, slot, f, now)
        elif f.kind == FRAME_FETCH:
            fault = on_fetch(turn, slot, f, now)
        elif f.kind == FRAME_PIECE:
            fault = on_piece(turn, slot, f)
    except Exception as error:
        turn.stop(error)
    finally:
        turn.in_turn = False
    turn.schedule()
    return fault


cdef object on_append(Turn turn, int slot, const Frame *f, uint64_t now):
    """Checks every record against the chain before raft hears of it."""
    cdef Message m
    cdef Run runs[RUNS]
    cdef const char *records
    cdef const char *at
    cdef const Record *r
    cdef uint32_t prev_crc, crc
    cdef uint64_t i, term
    cdef size_t left, size
    if append_decode(f, turn.members.id[slot], &m, &prev_crc, &records, &left):
        return "an append with fields that do not fit"
    size = left
    if m.term > TERM_MAX or (m.index == 0) != (m.index_term == 0):
        return "an append with impossible terms"
    if not turn.hears(slot):
        return None
    at = records
    crc = prev_crc
    term = m.index_term
    m.runs = runs
    m.run_count = 0
    for i in range(m.count):
        if record_check(at, left, m.index + 1 + i, term, crc) and not MUTANT(64):
            return f"record {m.index + 1 + i} does not continue the chain at {m.index + i}"
        r = <const Record *>at
        if r.term != term or m.run_count == 0:
            if r.term > m.term or m.run_count == RUNS:
                return "an append with impossible terms"
            runs[m.run_count].term = r.term
            runs[m.run_count].count = 0
            m.run_count += 1
        runs[m.run_count - 1].count += 1
        term = r.term
        crc = r.crc
        left -= padded(r.length)
        at += padded(r.length)
    if left:
        return "an append with bytes behind its records"
    if (turn.raft.terms.base <= m.index <= turn.log.last
            and turn.raft.terms.at(m.index) == m.index_term
            and turn.log.crc_at(m.index) != prev_crc and not MUTANT(48)):
        m.flags |= DIVERGED
    if unlikely(turn.log.full) and m.term >= turn.raft.term:
        leave_out(turn, &m, size)
    turn.raft.step(&m, now)
    keep(turn, records, &m)
    return None


cdef int leave_out(Turn turn, Message *m, size_t size) except -1:
    """Entries that the full disk does not take: what is left of the append is a heartbeat."""
    cdef bint cut = turn.raft.conflicts(m)
    if (cut or m.index + m.count > turn.raft.last) and not turn.log.takes(size, cut):
        turn.raft.packed = True
        m.count = 0
        m.run_count = 0
    return 0


cdef int keep(Turn turn, const char *records, const Message *m) except -1:
    """What raft accepted goes into the log, byte for byte."""
    cdef const char *at = records
    cdef const Record *r
    cdef uint64_t _
    if turn.raft.cut_to != NO_CUT:
        turn.log.cut(turn.raft.cut_to)
        turn.cut_configs(turn.raft.cut_to)
    if turn.raft.append_from == 0:
        return 0
    for _ in range(m.count):
        r = <const Record *>at
        if r.index >= turn.raft.append_from:
            turn.log.append_record(at)
            if unlikely(r.kind == ENTRY_CONFIG):
                turn.adopt((r.index, at[RECORD_HEADER:r.length]))
        at += padded(r.length)
    return 0


cdef object on_forward(Turn turn, int slot, const Frame *f, uint64_t now):
    """Writes that a follower took. A node that does not lead says so: they were not proposed."""
    cdef Reader r
    cdef Command c
    cdef uint32_t n, _, size
    cdef const char *command
    cdef bint leads = turn.raft.role == LEADER and not turn.raft.begin and not (
        turn.raft.transferee) and (turn.raft.commit < turn.raft.noop
                                   or turn.raft.takes_writes(now))
    cdef bint room = not turn.log.full and not turn.raft.no_space()
    cdef list refused = []
    read_from(&r, f.body, f.size)
    n = take_u32(&r)
    for _ in range(n):                          # all are checked before the first is appended
        size = take_u32(&r)
        command = take_bytes(&r, size)
        if command == NULL or command_decode(command, size, &c) or (
                c.op != REGISTER and (c.session == 0 or c.sequence < c.floor
                                      or c.sequence - c.floor >= PENDING)):
            return "a forwarded write that is no command"
        if c.op == REGISTER and c.node != turn.members.id[slot]:
            return f"a session of node {c.node}, which it is not"
        if not leads or not (room or (c.op == REGISTER and n == 1
                                      and turn.log.takes(SMALL, False))):
            refused.append(c.sequence)
    if r.bad or r.at != r.end:
        return "a batch of forwarded writes with bytes that do not fit"
    if refused:
        return refuse(turn, slot, NO_ROOM if leads else 0, refused)
    read_from(&r, f.body, f.size)
    take_u32(&r)
    for _ in range(n):
        size = take_u32(&r)
        turn.log.append(turn.raft.term, ENTRY_COMMAND, take_bytes(&r, size), size)
    turn.raft.propose(n)
    turn.raft.want(slot, turn.raft.last)
    return None


cdef object refuse(Turn turn, int slot, uint8_t why, list sequences):
    cdef Outbox box = <Outbox>turn.boxes[slot]
    box.begin(FRAME_REFUSED, why, turn.raft.term)
    box.put_u32(<uint32_t>len(sequences))
    for sequence in sequences:
        box.put_u64(sequence)
    box.end()
    return None


cdef object on_refused(Turn turn, const Frame *f):
    """These were not proposed: they are sent again; where the leader has no room for them, and none
    before it can have proposed them, whoever asked is told."""
    cdef Reader r
    cdef uint32_t n, _
    cdef PyObject *waiter
    read_from(&r, f.body, f.size)
    n = take_u32(&r)
    for _ in range(n):
        if r.bad:
            break
        waiter = turn.session.refused(take_u64(&r), f.flags & NO_ROOM)
        if waiter != NULL:
            turn.results.add(waiter, NO_SPACE, 0, NULL)
    return "a refusal with fields that do not fit" if r.bad or r.at != r.end else None


cdef object on_read(Turn turn, int slot, const Frame *f, uint64_t now):
    cdef Reader r
    cdef uint64_t ticket
    cdef Outbox box
    read_from(&r, f.body, f.size)
    ticket = take_u64(&r)
    if r.bad or r.at != r.end or ticket >> TICKET_BITS:
        return "a read with fields that do not fit"
    if turn.raft.role == LEADER:
        turn.raft.read(turn.ticket(slot, ticket), f.flags & LEASE_READ, now)
        return None
    box = <Outbox>turn.boxes[slot]
    box.begin(FRAME_GRANTED, REJECTED, turn.raft.term)
    box.put_u64(ticket)
    box.put_u64(0)
    box.end()
    return None


cdef object on_granted(Turn turn, const Frame *f, uint64_t now):
    cdef Reader r
    cdef uint64_t ticket, index
    read_from(&r, f.body, f.size)
    ticket = take_u64(&r)
    index = take_u64(&r)
    if r.bad or r.at != r.end:
        return "a read index with fields that do not fit"
    if f.flags & REJECTED:
        turn.reads.refused(ticket)
        turn.ask_again_us = now + ASK_AGAIN_US
    else:
        turn.reads.granted(ticket, index)
    return None


cdef object on_named(Turn turn, int slot, const Frame *f):
    cdef Reader r
    cdef uint64_t config
    read_from(&r, f.body, f.size)
    config = take_u64(&r)
    if r.bad or r.at != r.end:
        return "a configuration's index with bytes that do not fit"
    if not MUTANT(166):
        turn.peers[slot].config = config
    return None


# -------------------------------------------------------------------------------------- snapshots
cdef int bulk_up(Turn turn, int slot, Link link) except -1:
    turn.bulks[slot] = link
    (<Outbox>turn.bulk_boxes[slot]).clear()
    turn.peers[slot].bulk_number += 1
    if turn.members.id[slot] == turn.raft.leader:
        turn.transfer.reconnected()
    return 0


cdef int bulk_down(Turn turn, int slot, Link link) except -1:
    return turn.unlink_bulk(slot) if turn.bulks[slot] is link else 0


cdef object on_offer(Turn turn, int slot, const Frame *f, uint64_t now):
    """The leader's log does not hold what this node needs next."""
    cdef Reader r
    cdef Offer offer
    read_from(&r, f.body, f.size)
    offer.index = take_u64(&r)
    offer.term = take_u64(&r)
    offer.last_crc = take_u32(&r)
    offer.header_crc = take_u32(&r)
    offer.size = take_u64(&r)
    if r.bad or r.at != r.end or offer.index == 0 or offer.term > f.term or offer.size <= PAGE:
        return "an offer of a snapshot with fields that do not fit"
    if (f.term != turn.raft.term or turn.raft.leader != turn.members.id[slot]
            or turn.raft.version != turn.raft.saved     # no snapshot of a term before the term
            or not turn.hears(slot)
            or (offer.index <= turn.raft.commit and not MUTANT(119))):
        return None
    if turn.transfer.offered(&offer, turn.raft.commit, now):
        turn.fetch_piece()
    elif turn.transfer.complete() and turn.transfer.loader is None and not turn.transfer.writing:
        turn.begin_load()                       # it was here at the start already
    return None


cdef object on_fetch(Turn turn, int slot, const Frame *f, uint64_t now):
    cdef PieceFields p
    if piece_decode(f, &p) or p.size:
        return "a request for a snapshot with fields that do not fit"
    if not turn.raft.peers[slot].compacted:     # an offer from before it had one crossed its way
        turn.give_piece(slot, turn.peers[slot].bulk_number, p.index, p.header_crc, p.offset, NULL,
                        0)
        return None
    turn.transfer.ask(slot, turn.peers[slot].bulk_number, &p, now)
    return None


cdef object on_piece(Turn turn, int slot, const Frame *f):
    cdef PieceFields p
    if piece_decode(f, &p):
        return "a piece of a snapshot with fields that do not fit"
    return turn.transfer.arrived(p.index, p.header_crc, p.offset, p.bytes, p.size)
