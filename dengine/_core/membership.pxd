# Which configuration acts on this node, who sits in which slot, and how a leader goes on with a
# change that was begun.
#
# What a configuration means is members.pxd, what its quorums decide is raft's. A configuration acts
# from its append, and the one before it again where that entry is cut.
from libc.stdint cimport uint32_t, uint64_t

from dengine._core.members cimport Members
from dengine._core.meta cimport Meta
from dengine._core.requests cimport Requests
from dengine._core.types cimport MAX_MEMBERS


cdef class Membership(Requests):
    cdef readonly Meta meta
    cdef list links                         # Link or None, by slot
    cdef list bulks                         # likewise: second connections
    cdef list bulk_boxes                    # Outbox, by slot
    cdef uint32_t promise_ms
    cdef bytes address                      # of this node, by its file; None: it has none
    # (index, payload) of the newest configurations in the log, ascending; the last one acts
    cdef list configs
    cdef uint64_t named                     # the newest of them that names this directory; 0: none
    cdef bint under_way                     # a leader goes on with the change by itself
    cdef bint visited                       # there is a connection to a node that is no member
    cdef uint64_t rise_term                 # of what follows, by slot: learners that are to vote
    cdef uint64_t rise_to[MAX_MEMBERS]      # this round of catching up ends there (D 4.2.1)
    cdef uint64_t rise_us[MAX_MEMBERS]      # and began then
    # called when it is known to other nodes who is a member; or None
    cdef public object on_members

    cdef int slot_by_id(self, uint64_t node) noexcept
    # The (index, payload) of a configuration in the log or in a snapshot: it acts from now on.
    cdef int adopt(self, tuple config) except -1
    cdef tuple newest(self)                 # configuration that is known
    cdef int cut_configs(self, uint64_t to) except -1           # the log ends at `to` now
    # Votes and acknowledgements count only from the directory that the configuration names.
    cdef bint counts(self, int slot) noexcept
    # Requests are also taken from one that a configuration names which this node has not seen yet.
    cdef bint hears(self, int slot) noexcept
    # To a peer, where it is connected: the configuration that names this directory.
    cdef int say_named(self, int slot) except -1
    # Its connections are gone; whoever holds them is not told.
    cdef int unlink(self, int slot) except -1
    cdef int unlink_bulk(self, int slot) except -1
    cdef int hang_up(self, int slot) except -1          # both, and closes them
    # A slot for a node that is no member here, and knows a newer configuration; -1: none.
    cdef int admit(self, uint64_t node, uint64_t incarnation, uint64_t config) except? -1
    cdef int announce_links(self, uint64_t now_us) except -1
    # Leading: the next configuration may be appended.
    cdef bint may_change(self) noexcept
    cdef int change(self, Members *next) except -1
    cdef int steer(self, uint64_t now_us) except -1
    cdef int dismiss(self, uint64_t now_us) except -1       # who is no member, once that is sure

    # private
    cdef int make_room(self, const Members *next) except -1
    cdef int seated(self, uint64_t changed, uint64_t index) except -1
    cdef bint has_caught_up(self, int slot, uint64_t now_us) noexcept
