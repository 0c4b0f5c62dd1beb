"""What clients do with the in-memory cluster, what tests see of it; whether answers are stale."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint64_t

from dengine._core cimport frames
from dengine._core.checkpoint cimport engine_encode
from dengine._core.codec cimport (DELETE, DELETE_IF, ENTRY_TICK, EXISTS, GET, IS_REVISION, PUT,
                                  PUT_IF, Record, encode_delete, encode_delete_if, encode_put,
                                  encode_put_if)
from dengine._core.consensus cimport LEADER
from dengine._core.idempotency cimport CHUNK, Answers, Idempotency, Kept
from dengine._core.members cimport slot_in
from dengine._core.request cimport under
from dengine._core.segments cimport Segment, offset_of
from dengine._core.turn cimport Turn
from dengine._core.types cimport (CONFLICT, EVENTUAL, NOT_PROPOSED, NO_SPACE, OK, OVERLOADED,
                                  UNKNOWN)
from dengine._core.wire cimport FRAME_OK, Frame, frame_check
from tests.sim.platter cimport clock_us
from tests.sim.events cimport EV_CLIENT
from tests.sim.network cimport MemLink
from tests.sim.nodes cimport SimNode

from dengine._core import boot
from tests.sim.checks import Violation
from tests.sim.nodes import PATH

STATUSES = ("ok", "missing", "conflict", "not proposed", "unknown", "unavailable", "stopped",
            "no space", "mismatch", "keys full", "overloaded")
cdef enum:
    LARGE = 300 << 10           # bytes of the largest values
    LATE = 3                    # entries that a follower has not heard to be committed


cdef class Client(Waiter):
    cdef int done(self, int status, uint64_t revision, const Item *item) except -1:
        cdef Cluster cluster = self.cluster
        self.status = status
        self.revision = revision
        self.ended_us = cluster.now_us
        cluster.told[status] += 1
        (<SimNode>cluster.nodes[self.node]).open.pop(id(self), None)
        if status <= CONFLICT:
            if self.kind == GET:
                self.value = None if item == NULL else PyBytes_FromStringAndSize(
                    item.data + item.key_size, item.value_size)
                cluster.revisions[self.key_text] = 0 if item == NULL else item.mod_revision
            elif status == OK:
                cluster.revisions[self.key_text] = (
                    revision if self.kind == PUT or self.kind == PUT_IF else 0)
            if revision < self.floor and status != CONFLICT and not self.keyed and not (
                    self.kind == GET and self.rule == EVENTUAL):
                raise Violation(
                    f"{self!r} is stale: {self.floor} had been seen before it began")
            if status != CONFLICT and revision > cluster.seen:
                cluster.seen = revision
        if cluster.story is not None:
            cluster.tell(f"{self.words()}: {self.outcome()}")
        return 0 if self.session is None else self.session.told(self)

    def words(self):
        """What is asked, and where."""
        value = b"=" + self.value[:20] if self.kind == PUT or self.kind == PUT_IF else b""
        return f"{self.name()} {(self.key_text + value).decode()} at node {self.node + 1}"

    def outcome(self):
        """What it was told."""
        if self.status < 0:
            return "no answer yet"
        if self.status == OK and self.kind == GET:
            return f"{self.value[:20].decode()}, revision {self.revision}"
        if self.status <= CONFLICT:
            return f"{STATUSES[self.status]}, revision {self.revision}"
        return STATUSES[self.status]

    def name(self):
        """The kind of request."""
        return {GET: ("linearizable read", "lease read", "eventual read")[self.rule], PUT: "put",
                DELETE: "delete", PUT_IF: "put if", DELETE_IF: "delete if"}[self.kind]

    def __repr__(self):
        return (f"<{self.name()} {self.key_text} {(self.value or b'')[:20]} "
                f"at node {self.node + 1}, "
                f"{self.began_us}..{self.ended_us}: status {self.status} revision {self.revision}>")


cdef class Session:
    cdef int ask(self) except -1:
        """The next request: what it is follows from the seed."""
        cdef Cluster c = self.cluster
        cdef SimNode node
        cdef Client x
        cdef bytes key
        cdef uint64_t kind = c.draw(50), timeout = 100_000 + c.draw(100_000)
        if c.now_us >= c.until_us:
            return 0
        if c.draw(10) == 0:
            self.node = <int>c.draw(len(c.nodes))
            timeout = 1_000_000 + c.draw(4_000_000)
        node = <SimNode>c.nodes[self.node]
        if not node.alive:                      # its connection was refused
            self.node = <int>c.draw(len(c.nodes))
            return c.push(c.now_us + c.about(c.think_us) + 1000, EV_CLIENT, -1, 0, self)
        key = b"k%d" % c.draw(c.keys)
        if <int>c.draw(100) >= c.write_percent:
            x = c.new_client(self.node, key, GET, <int>c.draw(3), timeout)
            x.key, x.policy = key, x.rule
        elif kind < 30:
            x = c.new_client(self.node, key, PUT, 0, timeout)
            c.writes += 1
            x.value = b"w%d" % c.writes
            if c.large and c.draw(200) == 0:
                x.value += b"." * c.draw(LARGE)
            x.command = encode_put(key, x.value)
        elif kind < 40:
            x = c.new_client(self.node, key, PUT_IF, 0, timeout)
            c.writes += 1
            x.value = b"w%d" % c.writes
            x.compare = EXISTS if c.draw(4) == 0 else IS_REVISION
            x.against = c.revisions.get(key, 0) if x.compare == IS_REVISION else 0
            x.command = encode_put_if(key, x.value, x.compare, x.against)
        elif kind < 45:
            x = c.new_client(self.node, key, DELETE, 0, timeout)
            x.command = encode_delete(key)
        else:
            x = c.new_client(self.node, key, DELETE_IF, 0, timeout)
            x.compare, x.against = IS_REVISION, c.revisions.get(key, 0)
            x.command = encode_delete_if(key, x.compare, x.against)
        if x.kind != GET and <int>c.draw(100) < c.keyed_percent:
            c.keys_used += 1
            x.keyed = True
            x.command = under(b"%d" % c.keys_used, x.command)
        self.current = x
        x.session = self
        c.submit(x)
        if x.keyed and c.draw(20) == 0:         # sent twice at once, by a proxy, say
            x.repeated = True
            c.submit(self.copy(x, self.node))
        if c.draw(50) == 0 and self.current is x:               # nobody waits for it any more
            c.count("client gave up")
            self.current = None
            return c.push(c.now_us + c.about(c.think_us), EV_CLIENT, -1, 0, self)
        return 0

    cdef int told(self, Client x) except -1:
        cdef Cluster c = self.cluster
        if self.current is not x:
            return 0
        self.current = None
        if (not (x.status in (NOT_PROPOSED, NO_SPACE, OVERLOADED)
                 or (x.keyed and x.status in (UNKNOWN, OK)))
                or c.draw(2 if x.status else 20) or c.now_us >= c.until_us):
            return c.push(c.now_us + c.about(c.think_us), EV_CLIENT, -1, 0, self)
        return c.push(c.now_us + 1 + c.draw(20_000), EV_CLIENT, -1, 0, x)

    cdef int ask_again(self, Client x) except -1:
        """What was not proposed is safe to repeat, elsewhere; under a key, everything is."""
        cdef Cluster c = self.cluster
        cdef Client y
        self.node = <int>c.draw(len(c.nodes))
        if not (<SimNode>c.nodes[self.node]).alive or c.now_us >= c.until_us:
            return self.ask()
        c.count("client repeated")
        y = self.copy(x, self.node)
        x.repeated = True
        self.current = y
        c.submit(y)
        return 0

    cdef Client copy(self, Client x, int node):
        cdef Client y = self.cluster.new_client(node, x.key_text, x.kind, 0, 200_000)
        y.value, y.compare, y.against = x.value, x.compare, x.against
        y.command = bytes(bytearray(x.command))     # one under way has numbers of its own in it
        y.keyed = y.repeated = x.keyed
        y.session = self
        return y


cdef class Cluster(Operated):
    def __init__(self, seed, nodes=3, strategy=0, **options):
        """`options` override fields of storage.Setup."""
        super().__init__(seed, nodes, strategy, **options)
        self.clients = []
        self.sessions = []
        self.revisions = {}
        self.keys = 8
        self.write_percent = 50
        self.think_us = 5_000

    def load(self, int sessions):
        """So many clients ask until `until_us`."""
        cdef Session s
        cdef int i
        for i in range(sessions):
            s = Session()
            s.cluster, s.number, s.node = self, i, i % len(self.nodes)
            self.sessions.append(s)
            self.push(self.now_us + self.draw(200_000), EV_CLIENT, -1, 0, s)

    cdef int client_next(self, object what) except -1:
        if isinstance(what, Session):
            return (<Session>what).ask()
        return (<Client>what).session.ask_again(<Client>what)

    def put(self, int node, bytes key not None, bytes value not None,
            uint64_t timeout_us=5_000_000, bytes idempotency=None):
        """A write that a client of this node submits now, under an Idempotency-Key or not."""
        cdef Client c = self.new_client(node, key, PUT, 0, timeout_us)
        c.value = value
        c.command = encode_put(key, value)
        if idempotency is not None:
            c.command = under(idempotency, c.command)
            c.keyed = True
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

    cdef Client new_client(self, int i, bytes key, int op, int policy, uint64_t timeout_us):
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
        c.deadline_us = clock_us(&node.disk.state.clock) + timeout_us
        return c

    cdef Client submit(self, Client c):
        cdef SimNode node = <SimNode>self.nodes[c.node]
        self.clients.append(c)
        node.open[id(c)] = c
        if self.story is not None:
            self.tell(f"{c.words()}: asked")
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

    def seats(self, int i):
        """Does the leader know node i with its directory of now as a member?"""
        cdef int leader = self.leader()
        return leader >= 0 and self.is_member((<SimNode>self.nodes[leader]).turn, i)

    # -------------------------------------------------------------------------- what tests look at
    def cover(self):
        """Likewise, with the answers by status."""
        table = super().cover()
        for i in range(11):
            table["answer: " + STATUSES[i]] = self.told[i]
        return table

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
        """All live, are connected and have applied the leader's log; no client waits. Who has room
        on its disk knows it."""
        cdef SimNode node, other
        cdef MemLink link
        cdef Turn top
        cdef list members
        cdef int leader = self.leader()
        cdef bint full = False
        if leader < 0:
            return False
        top = (<SimNode>self.nodes[leader]).turn
        members = [self.nodes[i] for i in range(len(self.nodes)) if self.is_member(top, i)]
        if top.under_way:
            return False
        for node in self.nodes:
            if node.alive and node.open:
                return False
        for node in members:
            if not node.alive:
                return False
            for other in members:
                link = node.links[other.index]
                if other is not node and (link is None or link.broken or not link.up):
                    return False
        for node in members:
            full |= node.turn.log.full
            if node.turn.log.full and node.disk.state.space == <uint64_t>-1:
                return False                    # it has room again and has not noticed
        if full != (top.raft.full_slots != 0):
            return False
        for node in members:
            if not node.turn.session.ready or not self.up_to_date(node.turn, top):
                return False
        return top.raft.leads(self.clock(leader))

    cdef bint is_member(self, Turn top, int i) except -1:
        """Does `top` know the node of that index, with its directory of now, as a member?"""
        cdef int slot = slot_in(&top.members, i + 1)
        return slot >= 0 and top.members.flags[slot] and (
            top.members.incarnation[slot] == (<SimNode>self.nodes[i]).setup.incarnation)

    cdef bint up_to_date(self, Turn turn, Turn top) except -1:
        """What it has not applied yet is nothing but the time: that goes on."""
        cdef uint64_t index
        if top.log.last > turn.machine.applied + LATE:
            return False
        for index in range(turn.machine.applied + 1, top.log.last + 1):
            if top.log.holder(index) == NULL or (
                    (<const Record *>top.log.record(index)).kind != ENTRY_TICK):
                return False
        return True

    def clock(self, int i):
        """What node i takes for the time."""
        return clock_us(&(<SimNode>self.nodes[i]).disk.state.clock)

    def set_clock(self, int i, uint64_t offset_us, int64_t drift_ppm):
        """Before the node's start."""
        (<SimNode>self.nodes[i]).disk.state.clock.offset_us = offset_us
        (<SimNode>self.nodes[i]).disk.state.clock.drift_ppm = drift_ppm

    def crc(self, int i, uint64_t index):
        """The crc of an entry of node i."""
        return (<SimNode>self.nodes[i]).turn.log.crc_at(index)

    def place(self, int i, uint64_t index):
        """(epoch of the segment, offset) of an entry of node i."""
        cdef const Segment *s = (<SimNode>self.nodes[i]).turn.log.holder(index)
        return s.epoch, offset_of(s, index)

    def first(self, int i):
        """The oldest entry in the log of node i."""
        return (<SimNode>self.nodes[i]).turn.log.first()

    def well(self):
        """Do all members live and remember?"""
        cdef SimNode node
        for node in self.nodes:
            if (self.checks.is_member(node.setup.incarnation) if not node.alive
                    else node.turn.raft.doubt):
                return False
        return True

    def synced(self, int i):
        """The last entry of node i that is on its disk."""
        return (<SimNode>self.nodes[i]).turn.log.synced

    def with_sessions(self, int i):
        """The nodes that have a session, as node i knows them."""
        cdef Turn turn = (<SimNode>self.nodes[i]).turn
        return sorted(turn.session.table[j].node - 1 for j in range(turn.session.table_count))

    def visit(self, int i, int visitor):
        """The slot at node i of one that is no member, as if it had just been one."""
        cdef Turn turn = (<SimNode>self.nodes[i]).turn
        return turn.admit(visitor + 1, (<SimNode>self.nodes[visitor]).setup.incarnation,
                          turn.raft.config_index + 1)

    def same_results(self, int i, int j):
        """Do two nodes hold the same results, by session and by key? One may have forgotten keys
        that the other has not."""
        cdef Turn a = (<SimNode>self.nodes[i]).turn, b = (<SimNode>self.nodes[j]).turn
        cdef Idempotency x = a.session.idempotency, y = b.session.idempotency
        cdef uint64_t n = min(x.count(), y.count())
        return sessions_of(a) == sessions_of(b) and newest(x, n) == newest(y, n)

    def snapshots(self, int i):
        """The names of the complete snapshots of node i, oldest first."""
        return [n for n in (<SimNode>self.nodes[i]).disk.names(f"{PATH}/snapshot")
                if n.endswith(".snap")]

    def failed(self, int i):
        """The error that stopped node i, or None."""
        return (<SimNode>self.nodes[i]).turn.failed

    def commands(self):
        """(index, payload) of every committed command; of a jump of the revision: by how much."""
        return self.checks.commands

    def configs(self):
        """(index, {incarnation: id}) of every committed configuration."""
        return self.checks.configs

    def items(self, int i):
        """All keys and values of node i."""
        return dict((<SimNode>self.nodes[i]).turn.kv.pin().scan())

    def states(self):
        """What each living node says of itself."""
        return [boot.status(n.turn) if n.alive else None for n in self.nodes]


cdef bytes sessions_of(Turn turn):
    """As a snapshot would hold them, but for the time."""
    cdef bytes engine = engine_encode((0, b""), turn.session)
    return engine[:len(engine) - 16]


cdef bytes newest(Idempotency known, uint64_t count):
    cdef Answers answers = known.pin()
    cdef const Kept *kept
    cdef uint64_t n
    cdef list parts = []
    answers.at = answers.next - count
    n = answers.take(CHUNK, &kept)
    while n:
        parts.append((<const char *>kept)[:n * sizeof(Kept)])
        n = answers.take(CHUNK, &kept)
    return b"".join(parts)
