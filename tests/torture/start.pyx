"""One start of a node alone on a fake disk: what it finds, leads with and applies.

It does not judge. The reference is what the undamaged directory holds, record by record.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memcmp

from dengine._core.apply cimport Machine
from dengine._core.boot cimport boot
from dengine._core.codec cimport Record
from dengine._core.examine cimport Reader
from dengine._core.kv cimport KV
from dengine._core.session cimport Results, Session
from dengine._core.turn cimport Turn
from tests.sim.disk cimport Disk

PATH = "/node"                  # of the data directory on the fake disk

cdef enum:
    TURNS = 100                 # a lone voter leads within
    TURN_US = 100000            # the clock between two of them


def reader_of(Disk disk not None) -> Reader:
    """What `dengine check` reads with, on this disk."""
    cdef Reader reader = Reader()
    reader.io = &disk.io
    return reader


def names_of(Disk disk not None) -> tuple[bool, list[str], list[str]]:
    """Is there a `meta`, what lies in `log` and in `snapshot`: what a start is told."""
    return "meta" in disk.names(PATH), disk.names(f"{PATH}/log"), disk.names(f"{PATH}/snapshot")


cdef class Started:
    """What a start found, before it changed anything, and what it then applied."""
    cdef readonly uint64_t last         # newest entry
    cdef readonly uint64_t term         # hard state
    cdef readonly uint64_t vote
    cdef readonly bint same             # every record is that of the reference
    cdef readonly uint64_t digest       # of the store, after all was applied
    cdef readonly bint rolls            # the next record opens a segment
    cdef readonly list notes


def start(Disk disk not None, setup, list reference not None) -> Started:
    """Opens, leads and applies as a Store does. Raises what the start raises."""
    cdef Turn turn
    cdef Started found = Started()
    has_meta, names, snapshots = names_of(disk)
    turn = boot(&disk.io, PATH.encode(), has_meta, names, snapshots, setup)
    try:
        found.last = turn.log.last
        found.term = turn.meta.state.term
        found.vote = turn.meta.state.vote
        found.notes = turn.notes
        found.rolls = turn.log.must_roll
        found.same = same_records(turn, reference)
        lead(turn, disk)
        found.digest = turn.kv.digest()
    finally:
        turn.log.close()
        turn.meta.close()
    return found


cdef bint same_records(Turn turn, list reference) except -1:
    """Up to the shorter one's end; padding does not count."""
    cdef const Record *r
    cdef bytes expected
    cdef uint64_t i
    for i in range(turn.log.first(), min(turn.log.last, <uint64_t>len(reference)) + 1):
        r = <const Record *>turn.log.record(i)
        expected = reference[i - 1]
        if r.length != <uint64_t>len(expected) or memcmp(r, <const char *>expected, r.length):
            return False
    return True


cdef int lead(Turn turn, Disk disk) except -1:
    cdef int _i
    for _i in range(TURNS):
        turn.run()
        if turn.failed is not None:
            raise turn.failed
        turn.flusher.run_inline()
        turn.preparer.run_inline()
        if turn.may_read(0) and turn.machine.applied == turn.raft.commit:
            return 0
        disk.state.clock.offset_us += TURN_US
    raise AssertionError("the node does not lead")


def records_of(Disk disk not None, setup) -> list[bytes]:
    """Every record that the log on this disk holds, without padding."""
    cdef Turn turn
    cdef const char *at
    cdef uint64_t i
    has_meta, names, snapshots = names_of(disk)
    turn = boot(&disk.io, PATH.encode(), has_meta, names, snapshots, setup)
    found = []
    for i in range(turn.log.first(), turn.log.last + 1):
        at = turn.log.record(i)
        found.append(at[:(<const Record *>at).length])
    turn.log.close()
    turn.meta.close()
    return found


def digests(list records not None) -> list[int]:
    """The digest of the store after each number of records, from none to all."""
    cdef KV kv = KV()
    cdef Machine machine = Machine(kv, Session(1, 1, 1, len(records), True))
    cdef Results results = Results()
    found = [kv.digest()]
    for record in records:
        machine.apply(<bytes>record, results)
        found.append(kv.digest())
    return found
