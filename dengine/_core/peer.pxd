# One connection to a peer: an asyncio protocol around the frames. The side with the lower id dials.
from libc.stdint cimport uint8_t, uint64_t

from dengine._core.turn cimport Turn
from dengine._core.types cimport Link, iovec
from dengine._core.wire cimport Frame

cdef enum:
    HANDSHAKE_BYTES = 512       # a first frame longer than this is not ours
    QUEUE_BYTES = 64 << 20      # unsent bytes; above, the peer does not read and is closed


cdef class Peer(Link):
    cdef Turn turn
    cdef object transport
    cdef object on_event        # called with (text, level) for the node's log
    cdef object on_up           # called with (self, slot) after the handshake
    cdef object on_lost         # called with (self) when the connection is gone
    cdef readonly int slot      # of the peer; -1: not known before its hello
    cdef readonly uint64_t node     # its id; 0: likewise
    cdef readonly bint dialled
    cdef readonly bint bulk     # the second connection, for snapshots
    cdef readonly bint up       # after the handshake
    cdef bint closed
    cdef bint shaken            # the handshake succeeded once
    cdef char *rest             # an incomplete frame
    cdef size_t rest_size
    cdef size_t rest_capacity
    cdef readonly uint64_t opened_us
    cdef uint64_t sent_us       # newest write
    cdef uint64_t heard_us      # newest bytes

    cdef int feed(self, const char *p, size_t n) except -1
    cdef ssize_t frames(self, const char *p, size_t n) except -1
    cdef object handshake(self, const Frame *f)
    cdef int hang_up(self) except -1
    cdef int say_hello(self) except -1
    cdef int introduce(self, uint64_t to) except -1
    cdef int refuse(self, str why, uint8_t flags=*) except -1
    cdef int keep(self, const char *p, size_t n) except -1
