"""A data directory made from a snapshot: one node alone, of a new cluster. Or only its `meta`.

It knows the order: what is in the directory counts only once the file `meta` is there.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from dengine._core.checkpoint cimport engine_encode
from dengine._core.codec cimport VOTER, Members, fill_member
from dengine._core.fault cimport MUTANT
from dengine._core.kernel cimport kernel
from dengine._core.kv cimport KV
from dengine._core.meta cimport Meta
from dengine._core.session cimport Session
from dengine._core.snapshot cimport SnapshotHeader, SnapshotReader, SnapshotWriter
from dengine._core.types cimport JUMP, MEM_FIRST, Io


def restore(bytes file not None, bytes directory not None, setup, progress) -> dict:
    """Makes the node of `setup` in an empty `directory` from the snapshot `file`. The revision
    jumps by 10^9: no watcher resumes past what was written after the backup."""
    cdef const Io *io = kernel()
    cdef SnapshotReader reader = SnapshotReader()
    cdef SnapshotWriter writer = SnapshotWriter()
    cdef SnapshotHeader h
    cdef Members m
    cdef Meta meta = Meta()
    cdef KV kv = KV()
    cdef uint64_t at = 0
    reader.open(io, file, kv)
    try:
        while reader.step():
            progress(reader.at - at)
            at = reader.at
    finally:
        reader.close()
    kv.revision += JUMP
    memset(&m, 0, sizeof(m))
    fill_member(&m, 0, setup.node, setup.incarnation, VOTER, setup.members[0][1])
    m.count = 1
    m.promise_ms = setup.promise_ms
    memset(&h, 0, sizeof(h))
    h.cluster = setup.cluster
    h.incarnation = setup.incarnation
    h.index = reader.header.index
    h.term = reader.header.term
    h.last_crc = reader.header.last_crc
    writer.open(io, directory + b"/snapshot", &h, engine_encode(1, &m, Session(
        setup.node, setup.incarnation, setup.nonce, 0, True)), None, kv.pin())
    while writer.step():
        pass
    meta.state.term = h.term
    meta.state.known = h.index                  # so that a loss of the snapshot is noticed
    meta.create(io, directory, setup.cluster, setup.node, setup.incarnation, setup.boot_id, False)
    meta.close()
    return {"index": h.index, "term": h.term, "keys": kv.count, "revision": kv.revision,
            "from_cluster": reader.header.cluster, "cluster": setup.cluster}


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
    meta.state.sequence = start
    meta.state.term = term
    meta.state.vote = 0 if MUTANT(135) else setup.node
    meta.state.doubt = 0 if MUTANT(136) else 1
    meta.create(io, directory, setup.cluster, setup.node, setup.incarnation, setup.boot_id,
                setup.strategy == MEM_FIRST)
    meta.close()
    return 0
