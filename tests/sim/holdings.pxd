# Where the entries of all nodes lie: kept from the bytes on their disks. A node's word for what it
# wrote or synced is not taken.
from libc.stdint cimport uint64_t

from dengine._core.members cimport Members
from dengine._core.meta cimport MetaSlot
from dengine._core.quorum cimport Config
from dengine._core.turn cimport Turn
from dengine._core.types cimport MAX_MEMBERS
from tests.sim.maps cimport Map, Words
from tests.sim.platter cimport State


cdef enum:
    HOMES = 64                  # data directories that ever were; the last one stands for none


cdef class Holdings:
    cdef readonly int nodes
    cdef int homes
    cdef int home[MAX_MEMBERS]              # by node: number of its directory
    cdef dict owners                        # incarnation -> that number
    cdef readonly dict members              # committed: incarnation -> id
    cdef bint mem_first
    cdef State *disks[MAX_MEMBERS]
    cdef list meta_paths
    cdef list turns                         # None: dead
    cdef Words logs[HOMES]            # by directory: its entries, each as term << 32 | crc
    cdef Words committed                    # by index - 1, likewise
    cdef Map votes                          # term << 16 | directory -> vote in durable bytes
    cdef Map sure                           # likewise, of a node that was not in doubt then
    cdef Words lost[HOMES]            # likewise: index and entry of what a page cache held
    cdef Words rotten[HOMES]          # likewise, of what the disk held and returns no more
    cdef uint64_t cached[HOMES]       # entries up to here were seen in the page cache
    cdef uint64_t synced[HOMES]       # likewise, on the platter
    cdef uint64_t term[HOMES]         # on the platter
    cdef uint64_t vote[HOMES]

    cdef int loses_cache(self, int node) except -1                  # it is dead
    cdef int damaged(self, int node, uint64_t index) except -1      # likewise: from this entry on
    cdef int forget(self, int node) except -1
    cdef int owns(self, int node, uint64_t incarnation) except -1
    cdef bint is_member(self, uint64_t incarnation) except? False
    cdef bint anything_lost(self) except -1
    cdef int returns(self, int node, uint64_t incarnation) except -1    # an old directory
    cdef uint64_t home_of(self, const Members *m, int slot) except? 0
    cdef bint quorum_holds(self, const Members *m, const Config *c, uint64_t index, uint64_t entry,
                           bint platter) except -1
    cdef int renewed(self, int node, uint64_t term) except -1       # it lost its hard state
    cdef int meta_synced(self, int node) except -1          # a slot may have reached the platter
    cdef int at_rest(self, int node, bint broken) except -1         # no save is under way
    cdef int loses(self, int node, uint64_t after) except -1
    cdef bint had(self, const Words *w, uint64_t index, uint64_t entry) noexcept
    cdef uint64_t forgets(self, int node) noexcept
    cdef bint has_snapshot(self, int node, uint64_t index) except -1
    cdef bint lies(self, int node, Turn turn, uint64_t index, bint platter) noexcept
    cdef int see_disk(self, int node, Turn turn) except -1
    cdef int see_snapshot(self, int node, Turn turn) except -1
