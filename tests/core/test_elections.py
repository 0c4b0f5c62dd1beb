"""Elections, terms and votes, sentence by sentence.

The Raft paper is R, Ongaro's dissertation D, the rest is our blueprint. One node at a time, alone.
"""
from __future__ import annotations

import pytest

from tests.core.bare_rafts import (
    APPEND,
    GRANTED,
    LEASE_MS,
    PRE,
    PROMISE_MS,
    RANK_MS,
    TIMEOUT_MS,
    VOTE,
    VOTED,
    only,
    serving,
)
from tests.sim.bare import BareRaft, Msg


@pytest.mark.parametrize(("log", "index", "term", "granted"), [
    ([1, 1], 2, 1, True), ([1, 1], 3, 1, True), ([1, 1], 1, 1, False), ([1, 2], 9, 1, False),
    ([1, 1, 1], 1, 2, True)])
def test_a_vote_goes_only_to_a_log_at_least_as_up_to_date(log, index, term, granted):
    """R 5.4.1: the election restriction; for the pre-vote too."""
    for pre in (0, PRE):
        raft = BareRaft(log=log, term=2)
        replies = raft.step(VOTE, 2, 5, index=index, index_term=term, flags=pre)
        replies += raft.saved() if raft.save else []
        assert only(replies, "voted")[0].flags == pre | (GRANTED if granted else 0)


def test_a_vote_is_saved_before_it_is_said():
    """R 5.2, figure 2: the vote is on stable storage before the reply."""
    raft = BareRaft(term=1)
    assert raft.step(VOTE, 2, 2) == []
    assert raft.save
    assert raft.saved() == [Msg("voted", 2, 2, 0, 0, 0, 0, 0, GRANTED)]


def test_a_node_votes_once_in_a_term():
    raft = BareRaft(term=1)
    raft.step(VOTE, 2, 2)
    raft.saved()
    assert raft.step(VOTE, 3, 2)[0].flags == 0
    assert raft.step(VOTE, 2, 2)[0].flags == GRANTED, "the same one again"


def test_a_vote_of_before_the_start_binds():
    raft = BareRaft(term=2, vote=2)
    assert raft.step(VOTE, 3, 2)[0].flags == 0


def test_requests_for_votes_wait_for_the_own_vote():
    raft = BareRaft(log=[1], term=1)
    assert [m.flags for m in raft.campaigns()] == [PRE, PRE]
    assert raft.step(VOTED, 2, 2, flags=PRE | GRANTED) == []
    assert [(m.kind, m.to, m.term) for m in raft.saved()] == [("vote", 2, 2), ("vote", 3, 2)]


def test_the_own_vote_counts_only_once_it_is_durable():
    raft = BareRaft(log=[1], term=1)
    raft.campaigns()
    raft.step(VOTED, 2, 2, flags=PRE | GRANTED)
    assert raft.role == "candidate"
    raft.step(VOTED, 2, 2, flags=GRANTED)
    assert raft.role == "candidate", "two of three, but the own vote is not saved"
    raft.saved()
    assert raft.role == "leader"


def test_votes_of_another_term_do_not_count():
    raft = BareRaft(log=[1], term=3)
    raft.campaigns()
    raft.step(VOTED, 2, 4, flags=PRE | GRANTED)
    raft.saved()
    raft.step(VOTED, 2, 3, flags=GRANTED)
    raft.step(VOTED, 3, 4, flags=PRE | GRANTED)
    assert raft.role == "candidate"


def test_one_voter_twice_is_one_vote():
    raft = BareRaft(nodes=5, log=[1], term=1)
    raft.campaigns()
    for _ in range(4):
        raft.step(VOTED, 2, 2, flags=PRE | GRANTED)
    assert raft.role == "precandidate"


def test_a_pre_vote_raises_no_terms():
    """D 9.6: neither the asker's nor the voter's."""
    raft = BareRaft(log=[1], term=1)
    raft.campaigns()
    assert (raft.role, raft.term, raft.save) == ("precandidate", 1, False)
    voter = BareRaft(2, log=[1], term=1)
    assert voter.step(VOTE, 1, 2, index=1, index_term=1, flags=PRE)[0].flags == PRE | GRANTED
    assert (voter.term, voter.vote, voter.save) == (1, 0, False)


def test_a_server_that_rejoins_disrupts_nobody():
    """D 9.6: cut off for long, it asks in vain, and its asking unseats no leader."""
    old = BareRaft(3, log=[1], term=1)
    for _ in range(10):
        asked = old.campaigns()
    assert asked[0].term == 2
    assert asked[0].flags == PRE
    raft = serving(log=[1], term=1)
    reply = raft.step(VOTE, 3, 2, index=1, index_term=1, flags=PRE)
    assert only(reply, "voted")[0].flags == PRE
    assert raft.role == "leader"


def test_an_older_pre_vote_learns_the_higher_term():
    raft = BareRaft(log=[1], term=7)
    reply = raft.step(VOTE, 2, 3, index=1, index_term=1, flags=PRE)[0]
    assert (reply.term, reply.flags) == (7, PRE)
    asker = BareRaft(2, log=[1], term=2)
    asker.campaigns()
    asker.step(VOTED, 1, 7, flags=PRE)
    assert (asker.term, asker.role) == (7, "follower")


def test_no_vote_within_the_promise():
    """D 6.2, 6.4.1: who heard a leader votes for nobody, and is not moved to a higher term."""
    raft = BareRaft(2, log=[1], term=1)
    raft.step(APPEND, 1, 1, index=1, index_term=1, round=1)
    raft.tick(PROMISE_MS - 1)
    for flags in (0, PRE):
        reply = raft.step(VOTE, 3, 9, index=5, index_term=5, flags=flags)[0]
        assert (reply.kind, reply.flags) == ("voted", flags)
    assert raft.term == 1
    raft.tick(1)
    raft.step(VOTE, 3, 9, index=5, index_term=5)
    assert raft.vote == 3


def test_a_leader_with_a_lease_votes_for_nobody():
    raft = serving()
    raft.step(VOTE, 3, 9, index=99, index_term=8)
    assert (raft.role, raft.term) == ("leader", 1)
    raft.now += (LEASE_MS + 1) * 1000
    raft.step(VOTE, 3, 9, index=99, index_term=8)
    assert (raft.role, raft.term) == ("follower", 9)


def test_a_start_makes_a_promise():
    """The start rule: it may have promised something before it was stopped."""
    raft = BareRaft(log=[1], term=1, start_rule=True)
    assert raft.promise_left_ms == PROMISE_MS
    assert raft.election_in_ms >= PROMISE_MS
    assert raft.step(VOTE, 2, 2, index=1, index_term=1, flags=PRE)[0].flags == PRE


def test_an_empty_node_with_a_term_may_have_promised_too():
    raft = BareRaft(term=1, formed=False, start_rule=True)
    assert raft.step(VOTE, 2, 2)[0].flags == 0
    assert raft.election_in_ms >= PROMISE_MS
    new = BareRaft(2, term=0, formed=False, start_rule=True)
    assert new.promise_left_ms == 0
    assert new.election_in_ms == RANK_MS, "ranks keep the first election from being a draw"


def test_the_first_election_needs_every_vote():
    """Two halves of the first voters must not form two clusters."""
    raft = BareRaft(nodes=5, formed=False)
    raft.campaigns()
    for peer in (2, 3, 4):
        raft.step(VOTED, peer, 1, flags=PRE | GRANTED)
    assert raft.role == "precandidate"
    raft.step(VOTED, 5, 1, flags=PRE | GRANTED)
    raft.saved()
    for peer in (2, 3, 4):
        raft.step(VOTED, peer, 1, flags=GRANTED)
    assert raft.role == "candidate"
    raft.step(VOTED, 5, 1, flags=GRANTED)
    assert raft.role == "leader"


def test_a_lone_voter_leads_at_once():
    raft = BareRaft(nodes=1, log=[1], term=1)
    assert raft.tick() == []
    assert raft.role == "candidate"
    raft.saved()
    assert (raft.role, raft.term) == ("leader", 2)
    raft.durable(2)
    assert raft.leads
    assert raft.read(5) == [(5, 2)]


def test_election_timeouts_are_drawn_anew():
    """R 5.2."""
    raft = BareRaft(log=[1], term=1)
    waits = {raft.campaigns() and raft.election_in_ms for _ in range(30)}
    assert len(waits) > 20
    assert min(waits) >= PROMISE_MS
    assert max(waits) <= TIMEOUT_MS


def test_a_lost_connection_lets_a_follower_ask_at_the_end_of_its_promise():
    """By rank, then every 20 ms; the promise itself is never shortened."""
    raft = BareRaft(3, log=[1], term=1)
    raft.step(APPEND, 1, 1, index=1, index_term=1, round=1)
    raft.tick(100)
    raft.link_down(1)
    assert raft.election_in_ms == PROMISE_MS - 100 + 2 * RANK_MS
    raft.campaigns()
    assert (raft.role, raft.election_in_ms) == ("precandidate", RANK_MS)
    raft.link_up(1)
    assert raft.election_in_ms >= PROMISE_MS


def test_another_peer_s_lost_connection_changes_nothing():
    raft = BareRaft(3, log=[1], term=1)
    raft.step(APPEND, 1, 1, index=1, index_term=1, round=1)
    before = raft.election_in_ms
    raft.link_down(2)
    assert raft.election_in_ms == before


def test_a_node_with_a_stalled_disk_neither_leads_nor_campaigns():
    raft = serving()
    raft.stall()
    raft.tick()
    assert raft.role == "follower"
    raft.campaigns()
    assert raft.role == "follower"
    raft.stall(False)
    raft.tick()
    assert raft.role == "precandidate"


def test_check_quorum():
    """D 6.2: a leader that no quorum answers steps down."""
    raft = serving()
    raft.tick(TIMEOUT_MS)
    assert raft.role == "leader"
    raft.tick(1)
    assert (raft.role, raft.term) == ("follower", 1)
    assert raft.tick() == [], "and starts no round"
