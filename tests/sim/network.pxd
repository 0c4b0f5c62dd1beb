# Links in memory between nodes.
#
# A connection is ordered and reliable until it breaks; then what is in flight is lost, both sides
# hear of it at their own time, and it is made anew with a handshake. Beyond that, `mangle` loses,
# repeats and reorders single frames, as no TCP would.
from libc.stdint cimport int64_t, uint8_t, uint64_t

from dengine._core.types cimport MAX_MEMBERS, Io, Item, Link, Waiter, iovec
from dengine._core.wire cimport Frame
from tests.sim.nodes cimport Nodes, SimNode

cdef enum:
    FRAMES = 18                 # kinds of frames


cdef class MemLink(Link):
    # One side of a connection: what its owner sends, on the way to `other`.
    cdef Network network
    cdef int owner
    cdef int peer
    cdef int slot                           # of the peer at the owner; -1: not known yet
    cdef bint dialled                       # by the owner
    cdef bint late_dial                     # it was refused: it is not tried again soon
    cdef bint open                          # the owner has not heard that it is down
    cdef bint up                            # the handshake succeeded on this side
    cdef bint broken                        # nothing that is sent from now on arrives
    cdef MemLink other
    cdef object queue                       # of bytes in flight
    cdef uint64_t arrives_us                # of the newest
    cdef int stuck                          # arrivals that a cut holds back
    cdef bytes rest                         # of a frame, received by the owner
    cdef bytes late                         # a frame that those behind it overtake


cdef class Network(Nodes):
    cdef readonly list faults               # (time, node, peer, why): what was refused
    cdef public uint64_t delay_us           # mean of a link
    cdef public object spy                  # called with (sender, receiver, bytes); or None
    cdef public bint strict                 # a refused frame is a violation
    cdef public double lose, repeat, reorder, corrupt       # chance of each frame
    cdef readonly uint64_t frames           # sends
    cdef uint64_t heard[FRAMES]             # frames that arrived, by kind
    cdef bint cuts[MAX_MEMBERS][MAX_MEMBERS]
    cdef uint64_t cut_number
    cdef dict numbers                       # of the newest cut, by direction

    cdef int arrive(self, MemLink link) except -1
    cdef int feed(self, MemLink link, bytes data) except -1
    cdef object frame(self, MemLink link, const Frame *f)
    cdef object hears_bye(self, MemLink link, const Frame *f)
    cdef int dial(self, int a, int b) except -1
    cdef int give_up(self, MemLink link) except -1
    cdef int down(self, MemLink link) except -1
    cdef int give(self, MemLink link, bytes data) except -1
    cdef bytes mangle(self, MemLink link, bytes data)
    cdef int schedule_arrival(self, MemLink link) except -1
    cdef int client_next(self, object what) except -1
