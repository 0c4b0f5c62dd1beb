# A snapshot on its way from the leader to a follower whose next entries are in no log any more.
#
# The leader offers its newest one with its heartbeats. The follower asks for it piece by piece,
# each when the one before is written: so there is never more than one piece under way, and a
# transfer goes on where it stopped, whichever side was started again. It ends with the file that it
# began with, for as long as the leader has that one open: newer ones are offered faster than a slow
# connection brings one. What arrived is verified and loaded beside the store that is in use.
# transfer knows files and bytes, no roles or sockets.
#
# The file snapshot/<index>.snap.part holds what arrived; complete and verified it loses its suffix.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from dengine._core.kv cimport KV
from dengine._core.idempotency cimport Idempotency
from dengine._core.snapshot cimport SnapshotReader
from dengine._core.types cimport MAX_MEMBERS, Io, Job, Work
from dengine._core.wire cimport PieceFields
from dengine._core.worker cimport Worker

cdef enum:
    TRANSFER = 1                # tag of jobs

ctypedef struct Offer:          # one file
    uint64_t index              # of the last entry in it
    uint64_t term
    uint32_t last_crc
    uint32_t header_crc         # two nodes' files of one index differ
    uint64_t size               # bytes

ctypedef struct Piece:          # being read for a follower
    int slot
    uint64_t number             # of its connection
    uint64_t index
    uint32_t header_crc
    uint64_t offset
    uint64_t size
    char bytes[0]

ctypedef struct Source:         # the file that a follower reads from
    int fd                      # -1: none
    uint64_t index              # 0: none
    uint32_t header_crc
    uint64_t size               # bytes of the file
    bint reading
    PieceFields asked           # the piece that it waits for, where its bit of `asking` is set
    uint64_t number             # of the connection that asks
    uint64_t asked_us           # when it asked


cdef class Loader(Work):
    # Verifies a file that arrived, loads it into a new store, gives it its name.
    cdef const Io *io
    cdef bytes directory
    cdef bytes temporary
    cdef uint64_t cluster
    cdef Offer offer
    cdef SnapshotReader reader
    cdef KV kv                              # complete after the last step
    cdef bytes engine
    cdef Idempotency idempotency

    cdef int begin(self) except -1
    cdef int discard(self) except -1
    cdef int publish(self) except -1
    cdef int check(self, int error, str what) except -1


cdef class Transfer:
    cdef const Io *io
    cdef bytes directory
    cdef uint64_t cluster
    cdef Worker preparer
    # the leader's side
    cdef Source sources[MAX_MEMBERS]
    cdef uint32_t asking                    # slots
    cdef uint64_t next_us                   # when the next piece may be read, while
    cdef uint64_t last                      # other entries than this one are the last
    # the follower's side
    cdef Offer offer                        # index 0: nothing is on its way
    cdef int fd                             # of the part; -1
    cdef uint64_t have                      # bytes written
    cdef uint64_t due_us                    # when the next piece is asked for again
    cdef uint64_t asked_us                  # when it was asked for first
    cdef uint64_t wait_us                   # until then: a few times what the last one took
    cdef bint writing                       # the preparer has a piece
    cdef uint64_t unsynced                  # bytes of `have`
    cdef uint64_t again_us                  # after an error of the disk
    cdef Loader loader                      # None: it has not all arrived
    cdef list parts                         # names of parts in the directory
    cdef list notes                         # the node's: what failed; the owner's to set
    cdef readonly uint64_t received         # counters: bytes, snapshots
    cdef readonly uint64_t installed

    # `names` are the files in the directory.
    cdef int open(self, const Io *io, bytes directory, list names, uint64_t cluster,
                  Worker preparer) except -1
    cdef int close(self) except -1
    # The leader's side. Over connection `number` to the node of that slot comes this request.
    cdef int ask(self, int slot, uint64_t number, const PieceFields *asked,
                 uint64_t now_us) noexcept
    # Each turn: reads one piece that was asked for; the log ends at `last`. The slot of a follower
    # whose file is gone, which is to be told; -1: none.
    cdef int serve(self, uint64_t now_us, uint64_t last) except -2
    # Borrowed from the job; NULL: it failed.
    cdef Piece *was_read(self, const Job *job) noexcept
    # Of its file, unless it is being read: it may be unlinked.
    cdef int let_go(self, int slot) noexcept
    # The follower's side, whose log is committed so far. True: ask for the piece at `have`.
    cdef int reconnected(self) noexcept     # what was asked for may be lost
    cdef bint offered(self, const Offer *offer, uint64_t commit, uint64_t now_us) except -1
    # None, or what is wrong with it. Without bytes: the file is gone, the next offer is taken.
    cdef object arrived(self, uint64_t index, uint32_t header_crc, uint64_t offset,
                        const char *bytes, size_t n)
    cdef bint was_written(self, const Job *job, uint64_t now_us) except -1   # True: ask for more
    cdef bint complete(self) noexcept                           # all is here: load it
    cdef Loader load(self)
    cdef int ended(self, bint complete, uint64_t now_us) except -1      # the loader is done
    cdef int forget(self) except -1                             # the transfer is over

    # False: there is no such file.
    cdef bint read(self, int slot) except -1
    cdef bint find(self, int slot) except -1
    cdef int begin(self, const Offer *offer) except -1
    cdef bint failed(self, int error, uint64_t now_us) except -1
    cdef uint64_t resumed(self) noexcept
    cdef bytes part(self, uint64_t index)
