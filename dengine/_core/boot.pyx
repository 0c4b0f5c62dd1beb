"""Opens, watches and closes the core of one node.

It decides the order of recovery: identity, snapshot, log, configuration, consensus, session. It
knows no sockets.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from dengine._core.apply cimport Machine
from dengine._core.checkpoint cimport Checkpoint, engine_decode
from dengine._core.codec cimport Record
from dengine._core.consensus cimport FOLLOWER, LEADER, Options
from dengine._core.fault cimport MUTANT
from dengine._core.flush cimport load_acquire
from dengine._core.kernel cimport kernel
from dengine._core.log cimport Log
from dengine._core.members cimport (LEARNER, OTHER_SELF, VOTER, Members, fill_member,
                                    members_decode, slot_in)
from dengine._core.meta cimport Meta
from dengine._core.quorum cimport Config, config_from, is_voter, stays_voter
from dengine._core.raft cimport Raft
from dengine._core.recovery cimport Found, Scan, recover
from dengine._core.session cimport Session
from dengine._core.transfer cimport Transfer
from dengine._core.types cimport MEM_FIRST, RECORD_HEADER
from dengine._core.worker cimport Worker

from os import fsdecode

from dengine.errors import (ClosedError, CorruptionError, FormatError, InvariantError, RequestError,
                            UnavailableError)

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident()

cdef enum:
    IDLE_US = 10000             # after which a mark is brought up to date
    WAIT_US = 100000

ROLES = ("follower", "precandidate", "candidate", "leader")


cdef int open_meta(Meta meta, const Io *io, bytes directory, bint exists, list names,
                   object setup) except -1:
    if not exists:
        if names and not MUTANT(69):
            raise CorruptionError(
                f"{fsdecode(directory)}: there is a log or a snapshot but no file `meta`, so this "
                "node's vote is lost; nothing was changed; put the file back, or let `dengine "
                "rejoin` ask the other nodes")
        return meta.create(io, directory, setup.cluster, setup.node, setup.incarnation,
                           setup.boot_id, setup.strategy == MEM_FIRST)
    meta.open(io, directory)
    if meta.state.node != setup.node and not setup.from_directory:
        raise FormatError(f"{fsdecode(directory)} belongs to node {meta.state.node}, not to node "
                          f"{setup.node}: nothing was changed; name the directory of this node")
    return 0


cdef Turn boot(const Io *io, bytes directory, bint has_meta, list names, list snapshots,
               object setup):
    cdef Turn turn = Turn()
    turn.io = io
    turn.meta = Meta()
    turn.log = Log()
    try:
        open_meta(turn.meta, io, directory, has_meta, names + snapshots, setup)
        open_log(turn, directory, names, snapshots, setup)
    except BaseException:                       # a directory that is refused is left closed
        turn.log.close()
        turn.meta.close()
        raise
    return turn


cdef int open_log(Turn turn, bytes directory, list names, list snapshots,
                  object setup) except -1:
    """Snapshot and log, and all that is made from them: configuration, consensus, session."""
    cdef list notes = []
    cdef Scan scan = read_log(turn, directory, names, snapshots, setup, notes)
    cdef Found found = scan.found
    look(turn, found, directory, setup)         # may refuse: nothing is changed yet
    if found.corrupt and not MUTANT(113):
        if setup.repair:                        # what is gone is not missed again
            turn.meta.state.known = min(turn.meta.state.known, turn.log.last)
        turn.meta.doubt()
    scan.finish()
    turn.log.keep_reserve()
    turn.checkpoint.tidy(turn.log.first())
    # all it found is synced now
    turn.meta.begin(setup.boot_id, setup.strategy == MEM_FIRST, turn.alone)
    turn.notes = notes + found.notes
    if turn.meta.state.doubt:
        turn.notes.append("this node may have forgotten what it acknowledged: " + (
            "the revision jumps" if turn.alone else
            "its vote does not count for a majority until it has caught up"))
    turn.transfer = Transfer()
    turn.transfer.open(turn.io, directory + b"/snapshot", snapshots, turn.meta.state.cluster,
                       turn.preparer)
    turn.transfer.notes = turn.notes
    turn.flusher.open(turn.io, &turn.log.marks, IDLE_US)
    turn.preparer.open(turn.io, NULL, 0)
    turn.waiting_writes = setup.waiting_writes
    turn.waiting_bytes = setup.waiting_bytes
    turn.waiting_reads = setup.waiting_reads
    turn.retention_ms = setup.idempotency_retention_ms
    return open_state(turn, found, setup)


cdef Scan read_log(Turn turn, bytes directory, list names, list snapshots, object setup,
                   list notes):
    turn.flusher = Worker()
    turn.preparer = Worker()
    turn.promise_ms = setup.promise_ms
    turn.alone = len(setup.members) == 1        # the log, if there is one, knows better
    turn.checkpoint = Checkpoint()
    turn.kv = turn.checkpoint.open(turn.io, directory + b"/snapshot", snapshots,
                                   turn.meta.state.cluster, turn.preparer, notes, setup.progress)
    turn.checkpoint.entries = setup.snapshot_entries
    turn.checkpoint.bytes = setup.snapshot_bytes
    turn.keep_bytes = setup.snapshot_keep_bytes
    turn.log.open(turn.io, directory + b"/log", turn.meta.state.cluster,
                  turn.meta.state.incarnation, setup.segment_bytes, turn.preparer)
    turn.log.strategy = setup.strategy
    turn.log.threshold = setup.threshold
    turn.log.interval_us = setup.interval_us
    turn.log.max_unflushed_us = setup.max_unflushed_us
    turn.log.marks.hard = &turn.meta.hard
    return recover(turn.log, names, &turn.checkpoint.base, turn.meta.state.known,
                   turn.alone and not setup.repair, setup.progress)


cdef int look(Turn turn, Found found, bytes directory, object setup) except -1:
    """The configurations; sessions, which come with one from a snapshot."""
    cdef const Record *r
    cdef uint64_t index
    cdef bint one
    if turn.log.last_term > turn.meta.state.term and setup.repair:
        turn.meta.state.term = turn.log.last_term       # a lone voter asks nobody for a vote
        turn.meta.state.vote = 0
        found.corrupt = True
    elif turn.log.last_term > turn.meta.state.term:
        raise CorruptionError(
            f"{fsdecode(directory)}: the log holds term {turn.log.last_term}, the file `meta` only "
            f"{turn.meta.state.term}, so this node's vote is lost; nothing was changed; put the "
            "newer `meta` back, or let `dengine rejoin` ask the other nodes")
    # Session 0 of a lone voter goes on over its starts; a cluster's are told apart by their
    # ids, and new entries may have indexes that this log had at its start, before a cut.
    turn.session = Session(turn.meta.state.node, turn.meta.state.incarnation, setup.nonce,
                           turn.log.last if turn.alone else 0, turn.alone)
    if turn.checkpoint.base.index:
        turn.configs = [engine_decode(turn.checkpoint.engine, turn.checkpoint.idempotency,
                                      turn.session)]
        turn.checkpoint.engine = turn.checkpoint.idempotency = None
    for index in found.configs:
        if not turn.configs or index > turn.newest()[0]:
            r = <const Record *>turn.log.record(index)
            turn.configs.append((index, (<const char *>r)[RECORD_HEADER:r.length]))
    if not turn.configs and turn.meta.state.cluster != setup.cluster and setup.cluster_named:
        raise FormatError(f"{fsdecode(directory)} belongs to another cluster: nothing was changed; "
                          "check cluster.name and the ids in cluster.initial_cluster")
    if turn.configs:
        one = is_alone(turn, directory, setup.from_directory)
        if one and not turn.alone and found.corrupt and not setup.repair:
            raise CorruptionError(
                f"{fsdecode(directory)}: {found.notes[len(found.notes) - 1]}; but this node is the "
                "only member by now; nothing was changed; restore the directory from a backup, or "
                "let `dengine repair` go on with what is left")
        turn.alone = turn.session.ready = one
        turn.session.after = turn.log.last if one else 0
    elif setup.repair:
        raise CorruptionError(f"{fsdecode(directory)}: nothing is left that a node could go on "
                              "with; nothing was changed; restore a backup into a new directory")
    return 0


cdef int open_state(Turn turn, Found found, object setup) except -1:
    cdef Config config
    cdef uint64_t now = turn.io.now_us(turn.io.ctx)
    turn.machine = Machine(turn.kv, turn.session)
    turn.machine.applied = turn.checkpoint.base.index
    turn.raft = Raft()
    open_raft(turn, found, setup, now)
    name_members(turn, setup)
    if turn.configs:
        turn.named = named_in(turn)
        turn.adopt(turn.configs.pop())
    elif turn.alone:
        config_from(&config, &turn.members)
        turn.raft.adopt(&config, 0, now)
    return 0


cdef uint64_t named_in(Turn turn) except? 0:
    """The newest configuration that names this directory; 0: none that is known."""
    cdef uint64_t named = 0
    cdef Members m
    cdef int slot
    for index, payload in turn.configs:
        memset(&m, 0, sizeof(m))
        if members_decode(payload, len(payload), &m) == 0:
            slot = slot_in(&m, turn.meta.state.node)
            if slot >= 0 and m.incarnation[slot] == turn.meta.state.incarnation:
                named = index
    return named


cdef bint is_alone(Turn turn, bytes directory, bint from_directory) except -1:
    """Is this node the only member? Who asks by a directory alone gets no other."""
    cdef Members m
    cdef bytes payload = turn.newest()[1]
    memset(&m, 0, sizeof(m))
    if members_decode(payload, len(payload), &m):
        raise InvariantError("an entry of the log holds no configuration of this version")
    if not from_directory:
        return m.count == 1 and m.id[0] == turn.meta.state.node
    if m.count != 1:
        raise FormatError(
            f"{fsdecode(directory)} belongs to node {turn.meta.state.node} of cluster "
            f"{turn.meta.state.cluster:016x}, which has the voters "
            f"{', '.join([str(m.id[i]) for i in range(m.count)])}: its data is untouched; open it "
            "with Engine or dengine serve, and the configuration of that node")
    turn.promise_ms = m.promise_ms              # of the cluster, whatever the default is today
    return True


cdef int open_raft(Turn turn, Found found, object setup, uint64_t now) except -1:
    cdef Options options
    memset(&options, 0, sizeof(options))
    options.id = turn.meta.state.node
    options.seed = setup.seed
    options.heartbeat_us = setup.heartbeat_ms * 1000
    options.promise_us = setup.promise_ms * 1000
    options.timeout_us = setup.timeout_ms * 1000
    options.lease_us = setup.lease_ms * 1000
    options.doubt = turn.meta.state.doubt
    return turn.raft.open(&options, found.terms, turn.meta.state.term, turn.meta.state.vote,
                          max(found.commit, turn.checkpoint.base.index), now)


cdef int name_members(Turn turn, object setup) except -1:
    """The members as the configuration names them; the log's own entry replaces them."""
    cdef uint64_t own = turn.meta.state.node
    cdef int i = 0
    if not setup.from_directory:
        turn.address = dict(setup.members).get(own)
    for node, address in sorted(setup.members):
        if setup.from_directory:
            node = own
        fill_member(&turn.members, i, node, turn.meta.state.incarnation if node == own else 0,
                    LEARNER if setup.joins and node == own else VOTER, address)
        i += 1
    turn.members.count = i
    turn.members.promise_ms = turn.promise_ms
    return 0


# ------------------------------------------------------------------------------- for Python
def open_turn(bytes directory not None, bint has_meta, list names not None,
              list snapshots not None, setup) -> Turn:
    """The core of the node in `directory`, recovered; its workers are not started yet."""
    return boot(kernel(), directory, has_meta, names, snapshots, setup)


def what_is_left(bytes directory not None, list names not None, list snapshots not None,
                 setup) -> int:
    """The last entry that a start with `setup.repair` would go on from. It changes no entry."""
    cdef Turn turn = Turn()
    turn.io = kernel()
    turn.meta = Meta()
    turn.log = Log()
    try:
        open_meta(turn.meta, turn.io, directory, True, [], setup)
        look(turn, read_log(turn, directory, names, snapshots, setup, []).found, directory, setup)
        return turn.log.last
    finally:
        turn.log.close()
        turn.meta.close()


def start(Turn turn not None, int event_fd):
    """Starts the flusher and the preparer; both tell `event_fd` (or -1: nobody)."""
    turn.flusher.start("flusher", event_fd)
    turn.preparer.start("preparer", event_fd)


def close(Turn turn not None):
    """A clean stop: what was written is synced, the mark says so, every waiter is told."""
    cdef bint broken = turn.failed is not None
    turn.on_fatal = None
    turn.stop(ClosedError("the node was closed; open it again to go on"))
    try:
        if not broken:
            settle(turn)
            turn.flusher.stop()
            if turn.log.synced == turn.log.last and not turn.log.marks.failed:
                turn.meta.end(turn.known())
    finally:
        turn.flusher.stop()
        turn.preparer.stop()
        turn.log.close()
        turn.transfer.close()
        turn.meta.close()
        turn.loop = None
        turn.run()                              # tells who still waits


cdef int settle(Turn turn) except -1:
    """Everything that was appended reaches the disk."""
    cdef uint64_t number, now = turn.io.now_us(turn.io.ctx)
    while turn.raft.version == turn.raft.saved and turn.log.synced < turn.log.last:
        turn.log.write(turn.flusher, turn.raft.commit, now)
        turn.flusher.hurry()
        if not turn.flusher.started:
            turn.flusher.run_inline()
        number = turn.flusher.ring.head
        with nogil:
            turn.flusher.wait(number, WAIT_US)
        turn.reap(now)
    return 0


def is_primary(Turn turn not None) -> bool:
    """Does this node lead under a valid lease, its no-op committed?"""
    return turn.failed is None and turn.raft.leads(turn.io.now_us(turn.io.ctx))


def is_replica(Turn turn not None) -> bool:
    """Is this a voter that follows and heard its leader within the promise?"""
    return (turn.failed is None and turn.raft.role == FOLLOWER and turn.raft.leader != 0
            and turn.io.now_us(turn.io.ctx) < turn.raft.promise_until_us
            and turn.raft.verified != 0 and not turn.raft.doubt
            and is_voter(&turn.raft.config, turn.raft.opt.id))


def members(Turn turn not None) -> list:
    """(id, address) of every member."""
    return [(turn.members.id[i], turn.members.address[i][:turn.members.address_size[i]])
            for i in range(turn.members.count)
            if turn.members.flags[i] and turn.members.id[i] != OTHER_SELF]


def status(Turn turn not None) -> dict:
    """What `/health`, `/metrics` and `dengine status` show."""
    cdef uint64_t now = turn.io.now_us(turn.io.ctx)
    cdef uint64_t until = turn.raft.lease_until_us
    return {
        "node_id": turn.meta.state.node,
        "cluster_id": f"{turn.meta.state.cluster:016x}",
        "role": ROLES[turn.raft.role],
        "term": turn.raft.saved_term,           # one that is not may go back at the next start
        "leader": turn.raft.known_leader(),
        "commit": turn.raft.commit,
        "applied": turn.machine.applied,
        "first": turn.log.first(),
        "last": turn.raft.last,
        "snapshot": turn.checkpoint.base.index,
        "revision": turn.kv.revision,
        "keys": turn.kv.count,
        "recovering": turn.raft.doubt,
        "disk_full": turn.log.full,
        "formed": turn.raft.config_index != 0,
        "diverged": turn.raft.diverged,
        "lease_ms": (until - now) // 1000 if turn.raft.role == LEADER and until > now else 0,
        "starts": {turn.members.id[i]: turn.peers[i].start for i in range(turn.members.count)
                   if turn.members.id[i] and turn.peers[i].start},
        "connected": [turn.members.id[i] for i in range(turn.members.count) if turn.peers[i].up],
        "counters": counters(turn),
    }


cdef dict counters(Turn turn):
    return {
        "turns": turn.turns,
        "longest_turn_us": turn.watch.longest_us,
        "longest_turn_wall_us": turn.watch.longest_wall_us,
        "elections": turn.raft.elections,
        "steps_down": turn.raft.steps_down,
        "forwarded": turn.forwarded,
        "log_bytes_written": turn.log.bytes_written,
        "log_stalls": turn.log.stalls,
        "log_stall_us": turn.log.stall_us,
        "log_disk_full": turn.log.fulls,
        "syncs": load_acquire(&turn.log.marks.syncs),
        "sync_bytes": load_acquire(&turn.log.marks.sync_bytes),
        "sync_us": load_acquire(&turn.log.marks.sync_us),
        "longest_sync_us": load_acquire(&turn.log.marks.longest_us),
        "snapshots_taken": turn.checkpoint.taken,
        "snapshots_failed": turn.checkpoint.failed,
        "snapshots_installed": turn.transfer.installed,
        "snapshot_bytes_received": turn.transfer.received,
        "writes_in_flight": turn.session.next - turn.session.floor,
        "writes_waiting": len(turn.backlog) - turn.backlog_at,
        "reads_waiting": turn.reads.waiting,
    }


def ask_snapshot(Turn turn not None) -> int:
    """A snapshot is begun in the next turn, unless one is under way or nothing is new. Returns the
    entry that it will hold at least."""
    turn.checkpoint.asked = turn.checkpoint.base.index != turn.machine.applied
    turn.checkpoint.again_us = 0
    turn.schedule()
    return turn.machine.applied


def found(Turn turn not None) -> str:
    """What the start found, in one line; what it cut and why is in `turn.notes`."""
    cdef uint64_t first = turn.log.first(), last = turn.log.last
    out = [f"{turn.log.count} segments",
           f"entries {first} to {last}" if last >= first else f"no entry after {last}",
           f"mark {turn.log.marks.sequence}", f"term {turn.meta.state.term}"]
    if turn.checkpoint.base.index:
        out.insert(0, f"a snapshot of entry {turn.checkpoint.base.index}")
    return ", ".join(out)


def transfer(Turn turn not None, uint64_t to=0) -> int:
    """Begins to hand the lead over to that voter, 0: to the one that is ahead; who it is. Raises
    RequestError, UnavailableError."""
    cdef Raft raft = turn.raft
    cdef uint64_t leader = raft.known_leader()
    if raft.role != LEADER:
        raise UnavailableError(
            f"node {turn.meta.state.node} does not lead, so nothing was changed; "
            + (f"ask node {leader}, which does" if leader else "no leader is known now"))
    if to == 0:
        to = raft.successor()
    if to == 0:
        raise UnavailableError("no other voter is connected: nothing was changed; start one")
    if to == turn.meta.state.node or not stays_voter(&raft.config, to):
        what = "the leader" if stays_voter(&raft.config, to) else "no voter"
        raise RequestError(f"node {to} is {what}: nothing was changed; name another")
    if raft.transferee:
        raise RequestError(f"the lead is being handed over to node {raft.transferee}: nothing was "
                           "changed; wait for that")
    raft.transfer(to, turn.io.now_us(turn.io.ctx))
    turn.schedule()
    return to


def transferee(Turn turn not None) -> int:
    """Who is to lead next; 0: nobody, the transfer is over."""
    return turn.raft.transferee


def attach(Turn turn not None, loop):
    """`loop`, which runs in the calling thread, runs the turn from now on."""
    turn.loop = loop
    turn.thread = PyThread_get_thread_ident()
