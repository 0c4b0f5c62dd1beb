# What a connection or a frame from a peer changes. Frames are stepped as they arrive; the turn that
# they schedule sends the answers, so the bytes of a frame are never kept.
from libc.stdint cimport uint64_t

from dengine._core.turn cimport Turn
from dengine._core.types cimport Link
from dengine._core.wire cimport Frame, Hello

# A handshake succeeded on `link`; the one before it, if any, is down already.
cdef int link_up(Turn turn, int slot, Link link, const Hello *hello) except -1
cdef int link_down(Turn turn, int slot, Link link) except -1
# One checked frame, after the handshake. None, or what is wrong with it: the connection is closed.
cdef object receive(Turn turn, int slot, const Frame *f)
cdef int hello(Turn turn, uint64_t to, Hello *out) noexcept    # what this node says of itself
cdef int seat_of(Turn turn, const Hello *h) except -2           # of who says it; -1: a stranger
cdef bint removed(Turn turn, int slot, const Hello *h) noexcept
cdef bint outdated(Turn turn, int slot, const Hello *h) noexcept
# Why a peer that says BYE closes the connection; -1: one that is not known. The node stops if its
# directory is outdated, or no member any more.
cdef str farewell(Turn turn, int slot, const Frame *f)
# Likewise, the second connection to a peer, for snapshots.
cdef int bulk_up(Turn turn, int slot, Link link) except -1
cdef int bulk_down(Turn turn, int slot, Link link) except -1
