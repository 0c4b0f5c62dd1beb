"""Writer and reader of snapshots as Python sees them, on a fake disk or on the real one."""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from dengine._core.kernel cimport kernel
from dengine._core.kv cimport KV
from dengine._core.snapshot cimport (SnapshotHeader, SnapshotReader, SnapshotWriter,
                                     remove)
from dengine._core.tree cimport Cursor, tree_next, tree_seek
from dengine._core.types cimport (MAX_KEY, MAX_VALUE, SNAPSHOT_ENGINE, SNAPSHOT_FRAME,
                                  SNAPSHOT_FRAME_MAX, SNAPSHOT_SYNC, Io, Item)
from tests.sim.disk cimport Disk

LIMITS = {"key": MAX_KEY, "value": MAX_VALUE, "engine": SNAPSHOT_ENGINE, "frame": SNAPSHOT_FRAME,
          "frame_max": SNAPSHOT_FRAME_MAX, "sync": SNAPSHOT_SYNC}


cdef const Io *io_of(Disk disk) noexcept:
    return kernel() if disk is None else &disk.io


cdef class WriterBench:
    """A SnapshotWriter over the store as it is now; `disk` None: files."""
    cdef Disk disk
    cdef SnapshotWriter writer

    def __init__(self, Disk disk, str directory, KV kv not None, bytes engine not None=b"", *,
                 uint64_t index=5, uint64_t term=2, uint64_t crc=3, uint64_t cluster=7,
                 uint64_t incarnation=9):
        cdef SnapshotHeader h
        memset(&h, 0xFF, sizeof(h))             # what is not the caller's is filled in
        h.cluster = cluster
        h.incarnation = incarnation
        h.index = index
        h.term = term
        h.last_crc = crc
        self.disk = disk
        self.writer = SnapshotWriter()
        self.writer.open(io_of(disk), directory.encode(), &h, engine, None, kv.pin())

    def step(self) -> bool:
        return self.writer.step()

    def run(self) -> int:
        """Until it is complete; the number of steps."""
        cdef int steps = 1
        while self.writer.step():
            steps += 1
        return steps

    def close(self):
        self.writer.close()


cdef class ReaderBench:
    """A SnapshotReader that verifies a file, or loads it into a new store."""
    cdef Disk disk
    cdef SnapshotReader reader

    def __init__(self, Disk disk, str path, KV into=None):
        self.disk = disk
        self.reader = SnapshotReader()
        self.reader.open(io_of(disk), path.encode(), into)

    def step(self) -> bool:
        return self.reader.step()

    def run(self) -> bytes:
        """To the end of the file, and closes it; what the engine gave, where it was loaded."""
        try:
            while self.reader.step():
                pass
        finally:
            self.reader.close()
        return self.reader.engine

    def close(self):
        self.reader.close()

    @property
    def header(self) -> dict[str, int]:
        h = self.reader.header
        return {"cluster": h.cluster, "incarnation": h.incarnation, "index": h.index,
                "term": h.term, "crc": h.last_crc, "revision": h.revision, "keys": h.keys,
                "engine_bytes": h.engine_bytes}


def remove_names(Disk disk, str directory, list names):
    remove(io_of(disk), directory.encode(), names)


def put(KV kv not None, bytes key, bytes value, uint64_t lease):
    kv.put(key, len(key), value, len(value), lease)


def entries(KV kv not None) -> list[tuple]:
    """(key, value, create_revision, mod_revision, version, lease) in key order."""
    cdef Cursor at
    cdef const Item *item = tree_seek(kv.root, &at, b"", 0)
    found = []
    while item != NULL:
        found.append((item.data[:item.key_size],
                      item.data[item.key_size:item.key_size + item.value_size],
                      item.create_revision, item.mod_revision, item.version, item.lease))
        item = tree_next(&at)
    return found
