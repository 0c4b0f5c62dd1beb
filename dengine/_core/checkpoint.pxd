# When a snapshot is taken, what the engine adds to it, what a node starts from.
#
# checkpoint knows which snapshots there are and what the newest covers; snapshot.pxd knows the
# bytes of the file, recovery.pxd those of the log. A thread of its owner steps the writer.
#
# Bytes of the engine (ENGINE frames, format 1): u64 index of the configuration, u32 + its payload,
# u32 sessions, then per session u64 node, u64 incarnation, u64 nonce, u64 id, u64 floor,
# u32 results, then per result u64 sequence, u64 revision, u8 status; then u64 replicated time in
# ms, u64 time of before which results under an Idempotency-Key may go. These have frames of their
# own.
from libc.stdint cimport uint32_t, uint64_t

from dengine._core.idempotency cimport Answers, Idempotency
from dengine._core.kv cimport KV
from dengine._core.recovery cimport Base
from dengine._core.session cimport Session
from dengine._core.snapshot cimport SnapshotHeader, SnapshotWriter
from dengine._core.transfer cimport Offer
from dengine._core.types cimport Io
from dengine._core.worker cimport Worker


cdef class Checkpoint:
    cdef const Io *io
    cdef bytes directory                    # DIR/snapshot
    cdef Worker preparer                    # files go there: to unlink a large one takes long
    cdef Base base                          # the newest
    # The log is kept from here: with the snapshot before the newest it makes the same state.
    cdef uint64_t keep
    cdef uint64_t entries                   # applied since the newest: then the next one is due
    cdef uint64_t bytes                     # likewise, written to the log
    cdef uint64_t size                      # of the newest file: less log than that is not much
    cdef uint32_t header_crc                # of that file
    cdef uint64_t written                   # bytes of the log when the newest was begun
    cdef uint64_t again_us                  # none is begun before
    cdef bint asked                         # somebody asked for one
    cdef list indexes                       # of the complete files, newest first
    cdef list stale                         # names that may go, and damaged ones, at the start
    cdef list damaged
    cdef readonly SnapshotWriter writer     # None: none is being written
    cdef readonly uint64_t taken            # counters
    cdef readonly uint64_t failed

    # What is loaded is in `kv` and in `engine`. Files that are damaged are left out, with a note.
    # Raises StorageError, FormatError.
    cdef KV open(self, const Io *io, bytes directory, list names, uint64_t cluster,
                 Worker preparer, list notes, object progress)
    cdef bytes engine                       # of the snapshot that was loaded; None
    cdef Idempotency idempotency            # likewise
    # After recovery of a log that begins at `first`: damaged files are renamed, what a writer left
    # goes, and so do snapshots that this log does not lead on from.
    cdef int tidy(self, uint64_t first) except -1
    cdef bint due(self, uint64_t applied, uint64_t written, uint64_t now_us) noexcept
    # The caller fills in what the header says of the entry.
    cdef int begin(self, SnapshotHeader *header, KV kv, bytes engine, Answers answers,
                   uint64_t written) except -1
    cdef int end(self, uint64_t now_us) except -1
    # A snapshot that came from the leader is the newest one, the only one.
    cdef int replace(self, const Offer *offer, uint64_t written) except -1
    # One that came too late: only what the log leads on from is kept.
    cdef int discard(self, uint64_t index) except -1
    cdef int remove(self, uint64_t index) except -1
    cdef bint offer(self, Offer *out) noexcept                  # False: there is none


# `config`: the (index, payload) of a configuration.
cdef bytes engine_encode(tuple config, Session session)
# The sessions and `idempotency`, which was loaded beside, go into `session`; the configuration.
cdef tuple engine_decode(bytes engine, Idempotency idempotency, Session session)
