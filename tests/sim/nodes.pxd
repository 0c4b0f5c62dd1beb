# Real cores in one process, each on a virtual clock and a disk in memory, its workers run by hand.
#
# Each node is a Turn opened by boot.boot. Time stands still inside an event. How nodes are
# connected is network.pxd's.
from libc.stdint cimport uint8_t, uint64_t

from dengine._core.turn cimport Turn
from dengine._core.types cimport Work
from tests.sim.checks cimport Checks
from tests.sim.disk cimport Disk
from tests.sim.events cimport Event, Events


cdef class SimNode:
    cdef readonly int index
    cdef readonly Turn turn                 # None: dead
    cdef readonly object setup
    cdef readonly Disk disk
    cdef readonly uint64_t life             # grows with each start
    cdef readonly bint alive
    cdef bint paused
    cdef list deferred                      # events while paused
    cdef list links                         # MemLink or None, by peer
    cdef dict open                          # clients not answered
    cdef bint syncing                       # a job of the flusher is under way
    cdef bint begun                         # its calls were made; else they are made when it ends
    cdef bint preparing
    cdef uint64_t late_us                   # when EV_LATE is due; 0
    cdef list works                         # snapshots being written or loaded
    cdef uint64_t installed                 # as it was seen last
    cdef uint64_t stalled_us                # the disk finishes nothing before
    cdef readonly uint64_t waits            # jobs that a stall held back
    cdef uint8_t role                       # as it was seen last
    cdef uint64_t turns                     # likewise
    cdef uint64_t first                     # likewise: the oldest entry of its log
    cdef readonly bint ahead                # a learner: it holds what all voters forgot
    cdef bint full, packed                  # likewise: what its disk has no room for
    cdef uint64_t recycled                  # likewise


cdef class Nodes(Events):
    cdef readonly list nodes
    cdef readonly int first                 # so many form the cluster; the others may join it
    cdef readonly Checks checks
    cdef readonly dict counts               # what happened how often
    cdef public uint64_t sync_us            # mean of a sync
    cdef public uint64_t tick_us
    cdef public object on_stop              # called with a node that its disk stopped; or None
    cdef readonly set broken                # nodes whose disks may fail
    cdef uint64_t compacted                 # times that a log lost its oldest segments
    cdef uint64_t recycled                  # segments made of old ones
    cdef set lying                          # those whose syncs may fail
    cdef uint64_t roles[4][4]               # changes from one to another

    cpdef int count(self, str what) except -1
    cdef int node_event(self, SimNode node, int kind, object what) except -1
    cdef int run_node(self, SimNode node) except -1
    cdef int look(self, SimNode node) except -1
    cdef int pump(self, SimNode node) except -1
    cdef int sync_done(self, SimNode node) except -1
    cdef int work(self, SimNode node, Work work) except -1
    cdef int connect(self, int i) except -1                     # a node has started
    cdef int hang_up(self, SimNode node, bint sent) except -1   # it is gone
