"""One Raft at a time, alone: messages and time in, messages out. No clock, no sockets, no files."""
from __future__ import annotations

from tests.sim.bare import BareRaft, Msg

VOTE, VOTED, APPEND, HEARD, DURABLE = 2, 3, 4, 5, 6
PRE, GRANTED, MARKED, REJECTED, DIVERGED = 1, 2, 4, 8, 16
PROMISE_MS, TIMEOUT_MS, LEASE_MS, RANK_MS, HEARTBEAT_MS = 600, 1200, 500, 20, 100


def only(messages: list[Msg], kind: str) -> list[Msg]:
    return [m for m in messages if m.kind == kind]


def leader(node: int = 1, log=(), term: int = 0, nodes: int = 3, **options) -> BareRaft:
    """A node that was just elected by all; its no-op is the last entry, durable nowhere yet."""
    raft = BareRaft(node, nodes, log=log, term=term, **options)
    raft.campaigns()
    others = [n for n in range(1, nodes + 1) if n != node]
    for peer in others:
        raft.step(VOTED, peer, term + 1, flags=PRE | GRANTED)
    raft.saved()
    for peer in others:
        raft.step(VOTED, peer, term + 1, flags=GRANTED)
    assert raft.role == "leader"
    return raft


def serving(node: int = 1, **options) -> BareRaft:
    """A leader whose no-op is committed and whose lease was just confirmed."""
    raft = leader(node, **options)
    for peer in (n for n in (1, 2, 3) if n != node):
        raft.step(HEARD, peer, raft.term, index=raft.last, round=raft.round)
        raft.step(DURABLE, peer, raft.term, index=raft.last)
    raft.durable(raft.last)
    assert raft.leads
    return raft
