"""What clients do with the in-memory cluster, what tests see of it; whether answers are stale."""
import os
import shutil

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t

from dengine._core cimport frames
from dengine._core.codec cimport (DELETE, ENTRY_COMMAND, GET, PUT, Record, encode_delete,
                                  encode_put)
from dengine._core.consensus cimport LEADER
from dengine._core.types cimport EVENTUAL, MISSING, RECORD_HEADER
from dengine._core.wire cimport FRAME_OK, Frame, frame_check
from tests.sim.network cimport MemLink, SimNode, virtual_now

from dengine._core import boot
from tests.sim.checks import Violation


cdef class Client(Waiter):
    cdef int done(self, int status, uint64_t revision, const Item *item) except -1:
        cdef Cluster cluster = self.cluster
        self.status = status
        self.revision = revision
        self.ended_us = cluster.now_us
        (<SimNode>cluster.nodes[self.node]).open.pop(id(self), None)
        if status > MISSING:
            return 0
        if self.kind == GET:
            self.value = None if item == NULL else PyBytes_FromStringAndSize(
                item.data + item.key_size, item.value_size)
        if revision < self.floor and not (self.kind == GET and self.rule == EVENTUAL):
            raise Violation(f"{self!r} is stale: {self.floor} had been seen before it began")
        cluster.seen = max(cluster.seen, revision)
        return 0

    def __repr__(self):
        names = {GET: ("linearizable", "lease", "eventual")[self.rule], PUT: "put",
                 DELETE: "delete"}
        return (f"<{names[self.kind]} {self.key_text} {self.value} at node {self.node + 1}, "
                f"{self.began_us}..{self.ended_us}: status {self.status} revision {self.revision}>")


cdef class Cluster(Network):
    def __init__(self, seed, path, nodes=3, strategy=0, **options):
        """`options` override fields of storage.Setup."""
        super().__init__(seed, path, nodes, strategy, **options)
        self.clients = []

    def put(self, int node, bytes key not None, bytes value not None,
            uint64_t timeout_us=5_000_000):
        """A write that a client of this node submits now."""
        cdef Client c = self.new_client(node, key, PUT, 0, timeout_us)
        c.value = value
        c.command = encode_put(key, value)
        return self.submit(c)

    def delete(self, int node, bytes key not None, uint64_t timeout_us=5_000_000):
        """Likewise, a delete."""
        cdef Client c = self.new_client(node, key, DELETE, 0, timeout_us)
        c.command = encode_delete(key)
        return self.submit(c)

    def get(self, int node, bytes key not None, int policy, uint64_t timeout_us=5_000_000):
        """Likewise, a read."""
        cdef Client c = self.new_client(node, key, GET, policy, timeout_us)
        c.key = key
        c.policy = policy
        return self.submit(c)

    def new_client(self, int i, bytes key, int op, int policy, uint64_t timeout_us):
        cdef SimNode node = <SimNode>self.nodes[i]
        cdef Client c = Client()
        c.cluster = self
        c.node = i
        c.op = op
        c.kind = op
        c.rule = policy
        c.key_text = key
        c.status = -1
        c.floor = self.seen
        c.began_us = self.now_us
        c.deadline_us = virtual_now(&node.clock) + timeout_us
        return c

    def submit(self, Client c not None):
        cdef SimNode node = <SimNode>self.nodes[c.node]
        self.clients.append(c)
        node.open[id(c)] = c
        node.turn.submit(c)
        return c

    def receive(self, int node, int peer, bytes data not None):
        """Node `node` is given one frame as from `peer`: None, or why it refuses it."""
        cdef Frame f
        cdef size_t used
        cdef SimNode n = <SimNode>self.nodes[node]
        if frame_check(data, len(data), &f, &used) != FRAME_OK:
            return "no frame"
        return frames.receive(n.turn, peer, &f)

    def wipe(self, int i):
        """A dead node loses its directory: it would start empty, as another incarnation."""
        cdef SimNode node = <SimNode>self.nodes[i]
        shutil.rmtree(node.path)
        os.makedirs(f"{node.path}/log")
        node.setup.incarnation = self.draw(1 << 60) + 1
        self.checks.forget(i)

    # -------------------------------------------------------------------------- what tests look at
    def leader(self):
        """The node that leads the highest term among the living; -1: none."""
        cdef SimNode node
        cdef int best = -1
        cdef uint64_t term = 0
        for node in self.nodes:
            if node.alive and node.turn.raft.role == LEADER and node.turn.raft.term > term:
                term = node.turn.raft.term
                best = node.index
        return best

    def settled(self):
        """All live, are connected and have applied the leader's log; no client waits."""
        cdef SimNode node
        cdef MemLink link
        cdef Turn top
        cdef int leader = self.leader()
        if leader < 0:
            return False
        for node in self.nodes:
            if node.open or not node.alive:
                return False
            for link in node.links:
                if link is None:
                    if node.links.count(None) > 1:
                        return False
                elif link.broken or not link.up:
                    return False
        top = (<SimNode>self.nodes[leader]).turn
        for node in self.nodes:
            if node.turn.machine.applied != top.log.last or not node.turn.session.ready:
                return False
        return top.raft.leads(virtual_now(&(<SimNode>self.nodes[leader]).clock))

    def clock(self, int i):
        """What node i takes for the time."""
        return virtual_now(&(<SimNode>self.nodes[i]).clock)

    def set_clock(self, int i, uint64_t offset_us, int64_t drift_ppm):
        """Before the node's start."""
        (<SimNode>self.nodes[i]).clock.offset_us = offset_us
        (<SimNode>self.nodes[i]).clock.drift_ppm = drift_ppm

    def crc(self, int i, uint64_t index):
        """The crc of an entry of node i."""
        return (<SimNode>self.nodes[i]).turn.log.crc_at(index)

    def failed(self, int i):
        """The error that stopped node i, or None."""
        return (<SimNode>self.nodes[i]).turn.failed

    def commands(self, int i):
        """(index, payload) of every committed command of node i."""
        cdef Turn turn = (<SimNode>self.nodes[i]).turn
        cdef const Record *r
        cdef uint64_t at
        out = []
        for at in range(1, turn.raft.commit + 1):
            r = <const Record *>turn.log.record(at)
            if r.kind == ENTRY_COMMAND:
                out.append((at, (<const char *>r)[RECORD_HEADER:r.length]))
        return out

    def items(self, int i):
        """All keys and values of node i."""
        return dict((<SimNode>self.nodes[i]).turn.kv.pin().scan())

    def states(self):
        """What each living node says of itself."""
        return [boot.status(n.turn) if n.alive else None for n in self.nodes]
