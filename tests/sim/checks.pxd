# What must hold after every step of every node: kept here, beside the nodes, from what they show
# and from the bytes on their disks. A node's word for what it wrote or synced is not taken.
from libc.stdint cimport uint32_t, uint64_t

from dengine._core.meta cimport MetaSlot
from dengine._core.turn cimport Turn
from dengine._core.types cimport MAX_MEMBERS
from tests.sim.maps cimport Map, Words
from tests.sim.platter cimport State


cdef class Checks:
    cdef readonly int nodes
    cdef bint mem_first
    cdef State *disks[MAX_MEMBERS]
    cdef list meta_paths
    cdef list turns                         # None: dead
    cdef Words logs[MAX_MEMBERS]            # by node: its entries, each as term << 32 | crc
    cdef Words committed                    # by index - 1, likewise
    cdef Words committed_in                 # likewise: the term of the leader that committed it
    cdef Words committed_us                 # likewise: when
    # (index, payload) of committed commands and of jumps of the revision, the latter a number
    cdef readonly list commands
    cdef const uint64_t *now_us
    cdef uint64_t max_unflushed_us
    cdef Words digests                      # by applied index: of the store; 0: none applied it yet
    cdef Map chain                          # index << 24 | term -> term << 32 | crc
    cdef Map leaders                        # term -> node + 1
    cdef Map votes                          # term << 4 | node -> vote in durable bytes
    cdef Map sure                           # likewise, of a node that was not in doubt then
    cdef Map given                          # likewise -> vote that it sent
    cdef Map noops                          # term -> index of its no-op
    cdef Words lost[MAX_MEMBERS]            # index and entry of what a page cache held
    cdef Words rotten[MAX_MEMBERS]          # likewise, of what the disk held and returns no more
    cdef uint64_t cached[MAX_MEMBERS]       # entries up to here were seen in the page cache
    cdef uint64_t synced[MAX_MEMBERS]       # likewise, on the platter
    cdef uint64_t term[MAX_MEMBERS]         # on the platter
    cdef uint64_t vote[MAX_MEMBERS]
    cdef uint64_t commit[MAX_MEMBERS]       # in this life
    cdef uint64_t applied[MAX_MEMBERS]      # in this life
    cdef uint64_t led[MAX_MEMBERS]          # the term that it leads; 0: none
    cdef readonly uint64_t elections
    cdef readonly uint64_t by_all           # of these, with the marked votes of all
    cdef readonly uint64_t lost_writes      # MemFirst: committed, and on no disk any more
    cdef readonly uint64_t cuts

    cdef int booted(self, int node, Turn turn) except -1
    cdef int dies(self, int node, Turn turn, bint power) except -1  # its files are still open
    cdef int loses_cache(self, int node) except -1                  # it is dead
    cdef int damaged(self, int node, uint64_t index) except -1      # likewise: from this entry on
    cdef int forget(self, int node) except -1
    cdef int renewed(self, int node, uint64_t term) except -1       # it lost its hard state
    cdef int after(self, int node, Turn turn) except -1             # each step
    cdef int meta_synced(self, int node) except -1          # a slot may have reached the platter
    cdef int at_rest(self, int node, bint broken) except -1         # no save is under way
    cdef int sends(self, int node, Turn turn, int to, const char *data, size_t n) except -1

    cdef int see_log(self, int node, Turn turn) except -1
    cdef int see_leader(self, int node, Turn turn) except -1
    cdef int complete(self, int node) except -1
    cdef int gives_up(self, int node, size_t n) except -1
    cdef int see_commit(self, int node, Turn turn) except -1
    cdef int loses(self, int node, uint64_t after) except -1
    cdef int note_command(self, Turn turn, uint64_t index) except -1
    cdef bint had(self, const Words *w, uint64_t index, uint64_t entry) noexcept
    cdef uint64_t forgets(self, int node) noexcept
    cdef bint has_snapshot(self, int node, uint64_t index) except -1
    cdef bint lies(self, int node, Turn turn, uint64_t index, bint platter) noexcept
    cdef int see_disk(self, int node, Turn turn) except -1
    cdef int see_snapshot(self, int node, Turn turn) except -1
    cdef int sends_one(self, int node, Turn turn, int to, const char *at, size_t n,
                       size_t *used) except -1
