"""What an operator asks of the membership: is it sound now, and the first step of it.

It decides what is refused. How a change goes on is membership.pyx, what its steps are members.pyx.
"""
from libc.stdint cimport uint64_t

from dengine._core.consensus cimport LEADER
from dengine._core.fault cimport MUTANT
from dengine._core.members cimport (LEARNER, RISING, VOTER, VOTER_OLD, Members, fill_member,
                                    is_joint, remove_member, replace_member, seat_new, slot_in)
from dengine._core.turn cimport Turn
from dengine._core.types cimport MAX_MEMBERS

from dengine.errors import RequestError, UnavailableError

cdef enum:
    # two slots stay free: for a member that leaves, and for one that this node has not heard of
    MEMBERS = MAX_MEMBERS - 2


def change(Turn turn not None, str what not None, uint64_t node, bytes address not None=b"",
           bint promote=False):
    """Begins a change of the membership: add, promote, remove or replace."""
    cdef Members m = turn.members
    cdef int slot = slot_in(&m, node)
    cdef bint member = slot >= 0 and m.flags[slot] != 0
    leads(turn)
    if what == "add":
        if member:
            raise refused(f"node {node} is a member already", "see `dengine member list`")
        add(turn, &m, node, address, promote)
        if slot >= 0:
            turn.hang_up(slot)                  # to a directory that was removed, and may be gone
    elif not member:
        raise refused(f"node {node} is no member", "see `dengine member list`")
    elif what == "promote":
        if not m.flags[slot] & LEARNER:
            raise refused(f"node {node} is a voter already", "see `dengine member list`")
        m.flags[slot] |= RISING
    elif what == "remove":
        stays_safe(turn, &m, slot)
        remove_member(&m, slot)
    elif what == "replace":
        stays_safe(turn, &m, slot)
        empty(turn, slot)
        replace_member(&m, slot)
    else:
        raise RequestError(f"{what} is no change of a membership: use add, promote, remove or "
                           "replace")
    turn.change(&m)
    turn.schedule()


cdef object refused(str why, str fix):
    return RequestError(f"{why}: nothing was changed; {fix}")


cdef object not_now(str why, str fix):
    return UnavailableError(f"{why}: nothing was changed; {fix}")


cdef int leads(Turn turn) except -1:
    """One change at a time, by the leader, when it has committed something (D 4.1)."""
    cdef uint64_t leader = turn.raft.known_leader()
    if turn.raft.role != LEADER:
        raise not_now(f"node {turn.meta.state.node} does not lead",
                      f"ask node {leader}, which does" if leader else "no leader is known now")
    if is_joint(&turn.members) or turn.raft.config_index > turn.raft.commit:
        raise not_now("another change of the membership is under way", "wait for it and try again")
    if not turn.may_change():
        raise not_now("this node has just begun to lead, or hands over", "try again")
    return 0


cdef int add(Turn turn, Members *m, uint64_t node, bytes address, bint promote) except -1:
    cdef int i, slot, members = 0
    if not 0 < node < 65536:
        raise refused(f"{node} is no id of a node", "name one from 1 to 65535")
    if not 0 < len(address) <= 255:
        raise refused("the address has to have 1 to 255 bytes", "name host:port")
    for i in range(m.count):
        members += m.flags[i] != 0
        if m.flags[i] and m.address[i][:m.address_size[i]] == address:
            raise refused(f"{address.decode(errors='replace')} is the address of node {m.id[i]}",
                          "name another")
    if members >= MEMBERS:
        raise refused(f"the cluster has {members} members", "remove one first")
    for i in range(m.count):
        if m.flags[i] == 0:
            m.id[i] = 0                         # who only visits takes no member's slot
    slot = seat_new(m, node, 0)
    return fill_member(m, slot, node, 0, LEARNER | (RISING if promote else 0), address)


cdef int stays_safe(Turn turn, const Members *m, int slot) except -1:
    """A majority of the voters that stay is connected: else nothing would be committed any more."""
    cdef int i, voters = 0, connected = 0
    if m.flags[slot] & LEARNER:
        return 0
    if m.id[slot] == turn.meta.state.node:
        raise refused("this node leads", "hand over first, with `dengine transfer`")
    for i in range(m.count):
        if m.flags[i] & VOTER and i != slot:
            voters += 1
            connected += m.id[i] == turn.meta.state.node or (
                turn.peers[i].up and turn.counts(i))
    if 2 * connected <= voters and not MUTANT(161):
        raise not_now(f"only {connected} of the {voters} voters that stay are connected, which is "
                      "no majority", "start the others first")
    return 0


cdef int empty(Turn turn, int slot) except -1:
    """Its directory is gone, and it is up with an empty one."""
    if turn.peers[slot].up and turn.counts(slot):
        raise refused(f"node {turn.members.id[slot]} is up with its directory",
                      "stop it, and start it with an empty one")
    if not turn.peers[slot].up:
        raise not_now(f"node {turn.members.id[slot]} is not connected",
                      "start it with an empty directory, or remove it: `dengine member remove`")
    if turn.peers[slot].last:
        raise refused(f"the directory of node {turn.members.id[slot]} is not empty",
                      "start it with an empty one")
    return 0


def members(Turn turn not None):
    """Every member, by id."""
    cdef const Members *m = &turn.members
    cdef bint leads = turn.raft.role == LEADER
    cdef int i
    cdef list out = []
    for i in range(m.count):
        if m.flags[i] == 0:
            continue
        own = m.id[i] == turn.meta.state.node
        out.append({
            "id": m.id[i], "address": m.address[i][:m.address_size[i]].decode(errors="replace"),
            "role": role(m.flags[i]), "promoting": bool(m.flags[i] & RISING),
            "connected": own or (turn.peers[i].up and turn.counts(i)),
            "match": turn.raft.durable if own else turn.raft.peers[i].match if leads else None})
    return sorted(out, key=lambda row: row["id"])


cdef str role(int flags):
    if flags & VOTER_OLD and not flags & VOTER:
        return "leaving"
    return "voter" if flags & VOTER else "learner"


def settled(Turn turn not None):
    """Is the configuration that acts committed, and no change of voters under way?"""
    return not is_joint(&turn.members) and turn.raft.config_index <= turn.raft.commit
