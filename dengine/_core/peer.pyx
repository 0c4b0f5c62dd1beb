"""Peer connections: bytes to frames and back, the handshake, and when a connection is given up.

It decides whether the other side is the node it should be. What frames mean is frames.pyx.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memmove, memset

from dengine._core cimport frames as core
from dengine._core.memory cimport grown
from dengine._core.types cimport FRAME_MAX
from dengine._core.wire cimport (FRAME_BYE, FRAME_CRC, FRAME_FETCH, FRAME_HELLO, FRAME_LENGTH,
                                 FRAME_OK, FRAME_PART, FRAME_PIECE, FRAME_PING, FRAME_UNKNOWN,
                                 Hello, OUTDATED, Outbox, PROTOCOL, REMOVED, frame_check,
                                 hello_decode)

import socket

cdef enum:
    KEEP = 64 << 10             # bytes of buffer kept between frames

FAULTS = {
    FRAME_LENGTH: "a length that no dengine frame has: not a dengine peer",
    FRAME_CRC: "a frame whose checksum is wrong",
    FRAME_UNKNOWN: "a frame of a kind that this version does not know",
}


cdef class Peer(Link):
    """An asyncio protocol; `node` is the peer that was dialled, 0 for an accepted one."""

    def __init__(self, Turn turn not None, uint64_t node, on_event, on_up, on_lost,
                 bint bulk=False):
        self.turn = turn
        self.node = node
        self.slot = turn.slot_by_id(node) if node else -1
        self.dialled = node != 0
        self.bulk = bulk
        self.on_event = on_event
        self.on_up = on_up
        self.on_lost = on_lost
        self.opened_us = turn.io.now_us(turn.io.ctx)
        self.heard_us = self.opened_us
        self.sent_us = self.opened_us

    def __dealloc__(self):
        free(self.rest)

    # ------------------------------------------------------------------------ asyncio's protocol
    def connection_made(self, transport):
        self.transport = transport
        if self.closed:                         # given up before there was a transport
            transport.abort()
            return
        transport.set_write_buffer_limits(high=QUEUE_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.dialled:
            self.say_hello()

    def data_received(self, bytes data not None):
        if self.closed:
            return
        self.heard_us = self.turn.io.now_us(self.turn.io.ctx)
        self.feed(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    def eof_received(self):
        return False

    def pause_writing(self):
        self.refuse("it does not read what it is sent")

    def resume_writing(self):
        pass

    def connection_lost(self, error):
        self.closed = True
        self.hang_up()
        self.on_lost(self)
        self.transport = None

    # ------------------------------------------------------------------------------------- bytes
    cdef int feed(self, const char *p, size_t n) except -1:
        cdef ssize_t used
        cdef uint32_t length
        if self.rest_size == 0:
            used = self.frames(p, n)
            if used >= 0 and <size_t>used < n and not self.closed:
                self.keep(p + used, n - used)
            return 0
        self.keep(p, n)
        if self.up and self.rest_size >= 4:
            memcpy(&length, self.rest, 4)
            if length <= FRAME_MAX and self.rest_size < 4 + <size_t>length:
                return 0                        # the frame is not complete: nothing to look at yet
        used = self.frames(self.rest, self.rest_size)
        if self.closed:
            self.rest_size = 0
            return 0
        self.rest_size -= used
        memmove(self.rest, self.rest + used, self.rest_size)
        if self.rest_size == 0 and self.rest_capacity > KEEP:
            free(self.rest)
            self.rest = NULL
            self.rest_capacity = 0
        return 0

    cdef int keep(self, const char *p, size_t n) except -1:
        self.rest = <char *>grown(self.rest, self.rest_size + n, &self.rest_capacity, 1, KEEP)
        memcpy(self.rest + self.rest_size, p, n)
        self.rest_size += n
        return 0

    cdef ssize_t frames(self, const char *p, size_t n) except -1:
        """Takes every whole frame; returns the bytes used."""
        cdef Frame f
        cdef size_t at = 0, used
        cdef int fault
        cdef object why
        while at < n and not self.closed:
            fault = frame_check(p + at, n - at, &f, &used)
            if not self.up and used > HANDSHAKE_BYTES:
                fault = FRAME_LENGTH
            if fault == FRAME_PART:
                break
            if fault != FRAME_OK:
                why = FAULTS[fault]
            elif (self.up and f.kind != FRAME_PING and f.kind != FRAME_BYE
                  and self.bulk != (f.kind == FRAME_FETCH or f.kind == FRAME_PIECE)):
                why = f"a frame of kind {f.kind} on the wrong one of two connections"
            elif self.up:
                why = core.receive(self.turn, self.slot, &f)
            else:
                why = self.handshake(&f)
            if why is not None:
                self.refuse(why)
                break
            at += used
        return at

    # --------------------------------------------------------------------------------- handshake
    cdef int say_hello(self) except -1:
        return self.introduce(self.node)

    cdef int introduce(self, uint64_t to) except -1:
        """Who this node is, said to the node of that id."""
        cdef Hello h
        cdef Outbox box = Outbox()
        core.hello(self.turn, to, &h)
        h.bulk = self.bulk
        box.hello(&h)
        self.transport.write(PyBytes_FromStringAndSize(box.data, box.size))
        return 0

    cdef object handshake(self, const Frame *f):
        """Is the other side the node that it should be? None, or why not."""
        cdef Hello h
        cdef int slot
        if f.kind == FRAME_BYE:
            return core.farewell(self.turn, self.slot, f)
        if f.kind != FRAME_HELLO or hello_decode(f, &h):
            return "no handshake: not a dengine peer"
        if h.protocol != PROTOCOL:
            return f"protocol version {h.protocol}, this node speaks {PROTOCOL}"
        if h.cluster == 0 and h.last == 0 and not self.dialled:     # it asks which one it may join
            self.introduce(h.node)
            self.closed = True
            self.transport.close()
            return None
        if h.cluster != self.turn.meta.state.cluster:
            return "another cluster: check cluster.name and the ids in initial_cluster of both"
        slot = core.seat_of(self.turn, &h)
        if core.removed(self.turn, slot, &h):
            self.refuse(f"node {h.node} is no member of this cluster any more", REMOVED)
            return None
        if slot < 0:
            return (f"node id {h.node}, which is not another member of this cluster: let `dengine "
                    "member add` take it in")
        if h.to != self.turn.meta.state.node:
            return (f"node {h.node} looks for node {h.to} here, but this is node "
                    f"{self.turn.meta.state.node}: check the addresses in initial_cluster")
        if self.dialled and h.node != self.node:
            return f"node {h.node} answers at the address of node {self.node}"
        if self.dialled and h.bulk != self.bulk:
            return "a handshake of another kind of connection"
        self.slot = slot
        self.node = h.node
        self.bulk = h.bulk
        if core.outdated(self.turn, slot, &h):
            self.refuse(f"the directory of node {h.node} is an older copy of one that was started "
                        "since: its vote is lost; see its log", OUTDATED)
            return None
        if not self.dialled:
            self.say_hello()
        self.up = True
        self.shaken = True
        self.on_up(self, slot)
        if self.bulk:
            core.bulk_up(self.turn, slot, self)
        else:
            core.link_up(self.turn, slot, self, &h)
        return None

    cdef int hang_up(self) except -1:
        if self.up:
            self.up = False
            if self.bulk:
                core.bulk_down(self.turn, self.slot, self)
            else:
                core.link_down(self.turn, self.slot, self)
        return 0

    # -------------------------------------------------------------------------------------- Link
    cdef int send(self, const iovec *parts, int n) except -1:
        cdef size_t total = 0
        cdef bytes data
        cdef char *at
        cdef int i
        if self.closed or self.transport is None:
            return 0
        for i in range(n):
            total += parts[i].iov_len
        data = PyBytes_FromStringAndSize(NULL, total)
        at = PyBytes_AS_STRING(data)
        for i in range(n):
            memcpy(at, parts[i].iov_base, parts[i].iov_len)
            at += parts[i].iov_len
        self.sent_us = self.turn.io.now_us(self.turn.io.ctx)
        self.transport.write(data)
        return 0

    cdef int close(self) except -1:
        self.closed = True
        if self.transport is not None:
            self.transport.abort()
        return 0

    cdef int refuse(self, str why, uint8_t flags=0) except -1:
        """One line in the log, one to the other side, and the connection is closed."""
        cdef Outbox box = Outbox()
        cdef bytes text = why.encode()[:HANDSHAKE_BYTES // 2]
        if self.closed:
            return 0
        self.closed = True
        self.on_event(self, why)
        box.begin(FRAME_BYE, flags, 0)
        if flags & REMOVED:
            box.put_u64(self.turn.raft.config_index)
        box.put(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        box.end()
        if self.transport is not None:
            self.transport.write(PyBytes_FromStringAndSize(box.data, box.size))
            self.transport.close()
        return 0

    def abort(self):
        """Closes at once, without a word."""
        self.close()

    def give_up(self):
        """A newer connection to the same peer replaces this one: the core hears of it first."""
        self.hang_up()
        self.close()

    @property
    def was_up(self):
        """Did the handshake succeed?"""
        return self.shaken

    def socket(self):
        """The socket, or None."""
        return None if self.transport is None else self.transport.get_extra_info("socket")

    def address(self):
        """Where the other side is, as text."""
        peer = None if self.transport is None else self.transport.get_extra_info("peername")
        return "an unknown address" if peer is None else f"{peer[0]}:{peer[1]}"

    def look(self, uint64_t ping_us, uint64_t silent_us):
        """By the node's timer: a silent connection is given up, an idle one says something."""
        cdef uint64_t now = self.turn.io.now_us(self.turn.io.ctx)
        cdef Outbox box
        if self.closed:
            return
        if now > self.heard_us + silent_us:
            self.on_event(self, f"nothing heard for {(now - self.heard_us) // 1000} ms")
            self.close()
        elif self.up and now > self.sent_us + ping_us:
            box = Outbox()
            box.begin(FRAME_PING, 0, 0)
            box.end()
            self.sent_us = now
            self.transport.write(PyBytes_FromStringAndSize(box.data, box.size))


# ------------------------------------------------------------------- for a node without a cluster
def question(uint64_t node, uint64_t to):
    """What an empty node asks the node `to`: which cluster is this?"""
    cdef Hello h
    cdef Outbox box = Outbox()
    memset(&h, 0, sizeof(h))
    h.protocol = PROTOCOL
    h.node = node
    h.to = to
    box.hello(&h)
    return PyBytes_FromStringAndSize(box.data, box.size)


def answered(bytes data not None):
    """The cluster that the answer names; None: it is not complete. ValueError: it is none."""
    cdef Frame f
    cdef Hello h
    cdef size_t used
    cdef int fault = frame_check(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &f, &used)
    if fault == FRAME_PART and len(data) <= HANDSHAKE_BYTES:
        return None
    if fault != FRAME_OK or f.kind != FRAME_HELLO or hello_decode(&f, &h):
        raise ValueError("no dengine peer")
    return h.cluster
