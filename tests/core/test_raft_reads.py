"""Reads and leases, sentence by sentence.

The Raft paper is R, Ongaro's dissertation D, the rest is our blueprint. One node at a time, alone.
"""
from __future__ import annotations

from tests.core.bare_rafts import (
    APPEND,
    DURABLE,
    HEARD,
    HEARTBEAT_MS,
    LEASE_MS,
    REJECTED,
    leader,
    serving,
)
from tests.sim.bare import BareRaft


def test_no_read_before_the_no_op_of_the_term_is_committed():
    """D 6.4, step 1: only then does a leader know what is committed."""
    raft = leader(log=[1], term=1)
    raft.step(HEARD, 2, 2, index=2, round=raft.round)
    assert raft.read(1) == []
    assert raft.read(2, lease=True) == []
    assert not raft.leads
    raft.durable(2)
    raft.step(DURABLE, 2, 2, index=2)
    assert raft.grants() == []
    raft.step(HEARD, 2, 2, index=2, round=raft.round)
    assert raft.grants() == [(1, 2), (2, 2)]


def test_a_linearizable_read_waits_for_a_round_that_was_sent_after_it():
    """D 6.4, step 3."""
    raft = serving()
    raft.tick(HEARTBEAT_MS)
    before = raft.round
    assert raft.confirmed < before, "sent, not echoed yet"
    assert raft.read(9) == []
    raft.step(HEARD, 2, 1, index=1, round=before)
    assert raft.grants() == []
    sent = raft.tick()
    assert {m.round for m in sent} | {raft.round} == {before + 1}
    raft.step(HEARD, 3, 1, index=1, round=before + 1)
    assert raft.grants() == [(9, 1)]


def test_the_read_index_is_the_commit_at_arrival():
    raft = serving()
    raft.read(9)
    raft.propose(2)
    raft.durable(3)
    raft.step(DURABLE, 2, 1, index=3)
    raft.step(HEARD, 2, 1, index=3, round=raft.round)
    assert raft.grants() == [(9, 1)]


def test_a_round_needs_a_quorum():
    raft = leader(nodes=5)
    raft.durable(1)
    for peer in (2, 3):
        raft.step(DURABLE, peer, 1, index=1)
    raft.read(9)
    raft.tick()
    raft.step(HEARD, 2, 1, index=1, round=raft.round)
    raft.step(HEARD, 2, 1, index=1, round=raft.round)
    assert raft.grants() == []
    raft.step(HEARD, 4, 1, index=1, round=raft.round)
    assert raft.grants() == [(9, 1)]


def test_a_lease_read_is_granted_at_once_while_the_lease_holds():
    raft = serving()
    assert raft.read(1, lease=True) == [(1, 1)]
    raft.now += LEASE_MS * 1000
    assert raft.read(2, lease=True) == []


def test_a_lease_counts_from_the_sending():
    """D 6.4.1: not from the reply."""
    raft = leader()
    raft.now += 300 * 1000
    raft.step(HEARD, 2, 1, index=1, round=raft.round)
    assert raft.lease_left_ms == LEASE_MS - 300


def test_a_lease_is_shorter_than_the_promise():
    raft = serving()
    follower = BareRaft(2, log=[1], term=1)
    follower.step(APPEND, 1, 1, index=1, index_term=1, round=1)
    assert raft.lease_left_ms <= 0.9 * follower.promise_left_ms


def test_a_round_that_was_never_sent_confirms_nothing():
    raft = serving()
    raft.read(9)
    raft.step(HEARD, 2, 1, index=1, round=raft.round + 50)
    assert raft.grants() == []


def test_reads_of_a_leader_that_steps_down_are_forgotten():
    raft = serving()
    raft.read(9)
    raft.step(HEARD, 2, 7, flags=REJECTED)
    assert raft.grants() == []
    assert not raft.leads
