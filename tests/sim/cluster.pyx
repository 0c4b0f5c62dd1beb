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
from dengine._core.request cimport under
from dengine._core.restore cimport renew
from dengine._core.segments cimport Segment, offset_of
from dengine._core.turn cimport Turn
from dengine._core.types cimport CONFLICT, EVENTUAL, NOT_PROPOSED, NO_SPACE, OK, PAGE, UNKNOWN
from dengine._core.wire cimport FRAME_OK, Frame, frame_check
from tests.sim.disk cimport Disk
from tests.sim.platter cimport clock_us
from tests.sim.events cimport EV_CLIENT
from tests.sim.network cimport MemLink
from tests.sim.nodes cimport SimNode

from dengine._core import boot
from dengine.errors import RequestError, UnavailableError
from dengine.judge import Examination
from tests.sim.checks import Violation
from tests.sim.nodes import PATH
from tests.torture.start import names_of, reader_of

META = PATH + "/meta"

STATUSES = ("ok", "missing", "conflict", "not proposed", "unknown", "unavailable", "stopped",
            "no space", "mismatch", "keys full")
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
        if (not (x.status in (NOT_PROPOSED, NO_SPACE) or (x.keyed and x.status in (UNKNOWN, OK)))
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


cdef class Cluster(Network):
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

    def ask_transfer(self, int i, uint64_t to=0):
        """Node i is asked to hand over the lead: to node id `to`, 0: to the one ahead."""
        cdef SimNode node = <SimNode>self.nodes[i]
        to = boot.transfer(node.turn, to)
        self.tell(f"node {i + 1} is to hand over to node {to}")
        return self.run_node(node)

    def transfer(self, int i, uint64_t to=0):
        """Likewise, where it can; False: it refused."""
        if not (<SimNode>self.nodes[i]).alive:
            return False
        try:
            self.ask_transfer(i, to)
        except (RequestError, UnavailableError) as error:
            self.tell(f"node {i + 1}: {error}")
            self.count("transfer refused")
            return False
        self.count("transfer begun")
        return True

    def wipe(self, int i):
        """A dead node loses its directory: it would start empty, as another incarnation."""
        cdef SimNode node = <SimNode>self.nodes[i]
        self.format(node)
        node.setup.incarnation = self.draw(1 << 60) + 1
        self.checks.forget(i)

    # -------------------------------------------------------------------------- what tests look at
    def cover(self):
        """Likewise, with the answers by status."""
        table = super().cover()
        for i in range(10):
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
        cdef SimNode node
        cdef MemLink link
        cdef Turn top
        cdef int leader = self.leader()
        cdef bint full = False
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
            full |= node.turn.log.full
            if node.turn.log.full and node.disk.state.space == <uint64_t>-1:
                return False                    # it has room again and has not noticed
        if full != (top.raft.full_slots != 0):
            return False
        for node in self.nodes:
            if not node.turn.session.ready or not self.up_to_date(node.turn, top):
                return False
        return top.raft.leads(self.clock(leader))

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
        """Do all live and remember?"""
        cdef SimNode node
        for node in self.nodes:
            if not node.alive or node.turn.raft.doubt:
                return False
        return True

    def synced(self, int i):
        """The last entry of node i that is on its disk."""
        return (<SimNode>self.nodes[i]).turn.log.synced

    def damage(self, int i, uint64_t index, uint64_t epoch, uint64_t bit):
        """A bit goes bad on the disk of a dead node, in the record of entry `index`."""
        self.count("bit flip in a record")
        (<SimNode>self.nodes[i]).disk.flip(f"{PATH}/log/{epoch:016x}.seg", bit)
        self.checks.damaged(i, index)

    def damage_snapshot(self, int i, str name not None, uint64_t bit, bint only):
        """A bit goes bad in a snapshot of a dead node; `only`: nothing else makes that state."""
        self.count("bit flip in a snapshot")
        (<SimNode>self.nodes[i]).disk.flip(f"{PATH}/snapshot/{name}", bit)
        if only:
            self.checks.damaged(i, 1)

    def lose_meta(self, int i, uint64_t bit, bint gone):
        """The hard state of a dead node goes bad in both copies, or its file is gone."""
        cdef Disk disk = (<SimNode>self.nodes[i]).disk
        self.count("hard state lost")
        if gone:
            disk.remove(META)
        else:
            disk.flip(META, bit)
            disk.flip(META, 8 * PAGE + bit)

    def rejoin(self, int i):
        """What `dengine rejoin` makes of it, where all others say which terms there were. Does the
        node have a hard state?"""
        cdef SimNode node = <SimNode>self.nodes[i]
        cdef SimNode other
        cdef uint64_t term, start = 0
        found = Examination(reader_of(node.disk), PATH.encode()).judge(*names_of(node.disk))
        if found.meta is not None and found.term <= found.meta["term"]:
            return True
        term = found.term
        for other in self.nodes:
            if other is not node:
                if not other.alive or not other.turn.raft.formed:
                    return False
                term = max(term, other.turn.raft.saved_term)
                start = max(start, other.turn.peers[i].start)
        self.count("rejoined")
        renew(&node.disk.io, PATH.encode(), node.setup, term, start)
        self.checks.renewed(i, term)
        return True

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

    def items(self, int i):
        """All keys and values of node i."""
        return dict((<SimNode>self.nodes[i]).turn.kv.pin().scan())

    def states(self):
        """What each living node says of itself."""
        return [boot.status(n.turn) if n.alive else None for n in self.nodes]


cdef bytes sessions_of(Turn turn):
    """As a snapshot would hold them, but for the time."""
    cdef bytes engine = engine_encode(0, &turn.members, turn.session)
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
