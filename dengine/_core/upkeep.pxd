# What a node does beside serving: snapshots that are taken, offered and installed, the log that
# goes behind them.
#
# Upkeep decides when; checkpoint and transfer know files, raft and log what lives. turn.pxd adds
# the loop that calls it.
from libc.stdint cimport uint32_t, uint64_t

from dengine._core.checkpoint cimport Checkpoint
from dengine._core.membership cimport Membership
from dengine._core.transfer cimport Transfer
from dengine._core.types cimport Job, Work
from dengine._core.worker cimport Worker


cdef class Upkeep(Membership):
    cdef Worker flusher
    cdef Worker preparer
    cdef readonly Checkpoint checkpoint
    cdef readonly Transfer transfer
    cdef uint64_t keep_bytes                # of the log that is in snapshots, for peers that lag
    # called with a Work: a thread is to step it, then to call snapshot_ended with it; or None.
    # After the turn that began it: to start a thread waits for it, and lets others run meanwhile.
    cdef public object on_snapshot
    cdef list begun                         # Works that on_snapshot has not been called with

    cdef int schedule(self) except -1       # a turn runs soon
    # Snapshots
    cpdef int snapshot_ended(self, Work work) except -1         # from any thread, under the GIL
    cdef int begin_snapshot(self) except -1
    cdef int compact(self, uint64_t now_us) except -1
    cdef bint fetches(self, int slot, uint64_t now_us) noexcept
    cdef int offer_snapshot(self, int slot) except -1
    cdef int fetch_piece(self) except -1
    cdef int serve_pieces(self, uint64_t now_us) except -1
    cdef int send_piece(self, const Job *job) except -1
    cdef int give_piece(self, int slot, uint64_t number, uint64_t index, uint32_t header_crc,
                        uint64_t offset, const char *bytes, size_t n) except -1
    cdef int begin_load(self) except -1
    cdef int start_works(self) except -1
    cdef int install(self, uint64_t now_us) except -1
