"""One node of a simulated cluster as the specification sees it. It judges nothing."""
from dengine._core.members cimport VOTER, VOTER_OLD, Members, members_decode
from dengine._core.turn cimport Turn
from tests.sim.nodes cimport SimNode


def observe(SimNode node not None):
    """What of a living node the specification has variables for, and what of it is on disk."""
    cdef Turn turn = node.turn
    return (turn.raft.term, turn.raft.vote, turn.raft.role, turn.raft.version, turn.raft.saved,
            0 if turn.raft.begin else turn.raft.noop, turn.raft.last,
            min(turn.raft.durable, turn.raft.verified), turn.raft.durable, turn.raft.leader,
            turn.raft.doubt, turn.raft.target, turn.raft.commit, turn.turns)


def terms(SimNode node not None):
    """The term of each entry of its log, from the first on; nothing of it may be compacted."""
    cdef Turn turn = node.turn
    if turn.raft.terms.base:
        raise ValueError("entries are compacted")
    return [turn.raft.terms.at(i) for i in range(1, turn.raft.last + 1)]


def configurations(SimNode node not None):
    """(index, voters of the outgoing half, voters) of those in its log that may be cut, and of the
    one before."""
    cdef Members m
    cdef Turn turn = node.turn
    out = []
    for index, payload in turn.configs:
        if index == 0:
            continue                            # would form the cluster
        if members_decode(payload, len(payload), &m):
            raise ValueError(f"entry {index} is no configuration")
        out.append((index, rows(&m, VOTER_OLD), rows(&m, VOTER)))
    return out


cdef object rows(const Members *m, int flag):
    return frozenset([m.id[i] for i in range(m.count) if m.flags[i] & flag])
