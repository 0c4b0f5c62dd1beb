"""A data directory made from a snapshot, or from what another one holds: one node alone, of a new
cluster. Or only its `meta`.

It knows the order: what is in the directory counts only once the file `meta` is there.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from dengine._core.apply cimport Machine
from dengine._core.boot cimport look, open_meta, read_log
from dengine._core.checkpoint cimport engine_encode
from dengine._core.fault cimport MUTANT
from dengine._core.kernel cimport kernel
from dengine._core.kv cimport KV
from dengine._core.log cimport Log
from dengine._core.members cimport (VOTER, VOTER_OLD, Members, encode_members, fill_member,
                                    members_decode)
from dengine._core.meta cimport Meta
from dengine._core.recovery cimport Found
from dengine._core.session cimport Session
from dengine._core.snapshot cimport SnapshotHeader, SnapshotReader, SnapshotWriter
from dengine._core.turn cimport Turn
from dengine._core.types cimport JUMP, MEM_FIRST, Io

cdef enum:
    UNHEARD = 1 << 20           # saves that no other node has heard of, at most


def restore(bytes file not None, bytes directory not None, setup, progress) -> dict:
    """Makes the node of `setup` in an empty `directory` from the snapshot `file`. The revision
    jumps by 10^9: no watcher resumes past what was written after the backup."""
    cdef const Io *io = kernel()
    cdef SnapshotReader reader = SnapshotReader()
    cdef SnapshotHeader h
    cdef KV kv = KV()
    cdef uint64_t at = 0
    reader.open(io, file, kv)
    try:
        while reader.step():
            progress(reader.at - at)
            at = reader.at
    finally:
        reader.close()
    memset(&h, 0, sizeof(h))
    h.index = reader.header.index
    h.term = reader.header.term
    h.last_crc = reader.header.last_crc
    return make_alone(io, directory, setup, kv, &h) | {"from_cluster": reader.header.cluster}


cdef dict make_alone(const Io *io, bytes directory, object setup, KV kv, SnapshotHeader *h):
    """A node alone, of a new cluster, that begins behind entry `h.index` with this store."""
    cdef SnapshotWriter writer = SnapshotWriter()
    cdef Members m
    cdef Meta meta = Meta()
    kv.revision += JUMP
    memset(&m, 0, sizeof(m))
    fill_member(&m, 0, setup.node, setup.incarnation, VOTER, setup.members[0][1])
    m.count = 1
    m.promise_ms = setup.promise_ms
    h.cluster = setup.cluster
    h.incarnation = setup.incarnation
    writer.open(io, directory + b"/snapshot", h, engine_encode((1, encode_members(&m)), Session(
        setup.node, setup.incarnation, setup.nonce, 0, True)), None, kv.pin())
    while writer.step():
        pass
    meta.state.term = h.term
    meta.state.known = h.index                  # so that a loss of the snapshot is noticed
    meta.create(io, directory, setup.cluster, setup.node, setup.incarnation, setup.boot_id, False)
    meta.close()
    return {"index": h.index, "term": h.term, "keys": kv.count, "revision": kv.revision,
            "cluster": setup.cluster}


def recover(bytes directory not None, list names not None, list snapshots not None, setup,
            bytes to not None, fresh, progress) -> dict:
    """Makes the node alone of `fresh` in the empty directory `to`, from all that the directory of
    `setup` holds, committed or not. The revision jumps by 10^9."""
    cdef Turn turn = Turn()
    cdef Machine machine
    cdef SnapshotHeader h
    try:
        read(turn, directory, names, snapshots, setup)
        machine = Machine(turn.kv, turn.session)
        machine.applied = turn.checkpoint.base.index
        while machine.applied < turn.log.last:
            machine.apply(turn.log.record(machine.applied + 1), turn.results)
            progress(1)
        memset(&h, 0, sizeof(h))
        h.index = turn.log.last
        h.term = turn.log.last_term
        h.last_crc = turn.log.last_crc
        return make_alone(turn.io, to, fresh, turn.kv, &h)
    finally:
        turn.log.close()
        turn.meta.close()


def holds(bytes directory not None, list names not None, list snapshots not None, setup) -> dict:
    """What `recover` would go on from: entries, how far they are known to be committed, whose."""
    cdef Turn turn = Turn()
    cdef Found found
    try:
        found = read(turn, directory, names, snapshots, setup)
        return {"node": turn.meta.state.node, "cluster": turn.meta.state.cluster,
                "last": turn.log.last, "term": turn.log.last_term,
                "commit": max(found.commit, turn.checkpoint.base.index),
                "voters": voters_of(turn.newest()[1]) if turn.configs else [],
                "notes": turn.notes}
    finally:
        turn.log.close()
        turn.meta.close()


cdef Found read(Turn turn, bytes directory, list names, list snapshots, object setup):
    """Snapshot and log, as far as they are good: nothing is changed."""
    cdef Found found
    turn.notes = []
    turn.io = kernel()
    turn.meta = Meta()
    turn.log = Log()
    open_meta(turn.meta, turn.io, directory, True, [], setup)
    found = read_log(turn, directory, names, snapshots, setup, turn.notes).found
    look(turn, found, directory, setup)
    turn.notes += found.notes
    return found


cdef list voters_of(bytes payload):
    cdef Members m
    cdef int i
    memset(&m, 0, sizeof(m))
    members_decode(payload, len(payload), &m)
    return [m.id[i] for i in range(m.count) if m.flags[i] & (VOTER | VOTER_OLD)]


def rejoin(bytes directory not None, setup, uint64_t term, uint64_t start) -> None:
    """A new file `meta` for the node of `setup`: its vote in `term` is its own, and it is in doubt.
    `start` is the newest start that another node knows of. What was there is kept as `meta.lost`.
    """
    renew(kernel(), directory, setup, term, start)


cdef int renew(const Io *io, bytes directory, object setup, uint64_t term,
               uint64_t start) except -1:
    cdef Meta meta = Meta()
    cdef bytes path = directory + b"/meta"
    io.rename(io.ctx, path, path + b".lost")    # it may be missing
    meta.state.sequence = start + UNHEARD
    meta.state.term = term
    meta.state.vote = 0 if MUTANT(135) else setup.node
    meta.state.doubt = 0 if MUTANT(136) else 1
    meta.create(io, directory, setup.cluster, setup.node, setup.incarnation, setup.boot_id,
                setup.strategy == MEM_FIRST)
    meta.close()
    return 0
