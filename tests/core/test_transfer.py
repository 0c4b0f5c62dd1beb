"""The lead is handed over: to whom, when, and what holds meanwhile."""
from __future__ import annotations

import pytest

from dengine.errors import RequestError, UnavailableError
from tests.core.bare_rafts import (
    DURABLE,
    GRANTED,
    HEARD,
    HEARTBEAT_MS,
    PRE,
    PROMISE_MS,
    VOTE,
    VOTED,
    only,
    serving,
)
from tests.core.clusters import done, followers
from tests.sim.bare import BareRaft

TIMEOUT_NOW = 16
FORCED = 128
MS, SECOND = 1000, 1_000_000
STRATEGIES = pytest.mark.parametrize("strategy", [0, 1], ids=["DiskFirst", "MemFirst"])


def heard(raft, *peers):
    """They echo the newest round."""
    for peer in peers:
        raft.step(HEARD, peer, raft.term, index=raft.last, round=raft.round)


# ---------------------------------------------------------------------------------- one node alone
def test_whoever_has_everything_is_told_to_campaign():
    """D 3.10: the prior leader brings it up to date, then sends TimeoutNow."""
    raft = serving()
    sent = only(raft.transfer(2), "timeout now")
    assert [(m.to, m.term, m.index, m.index_term) for m in sent] == [(2, raft.term, raft.last, 1)]


def test_whoever_lags_is_told_once_it_has_everything():
    raft = serving()
    raft.propose(1)
    assert only(raft.transfer(2), "timeout now") == []
    assert not raft.takes_writes, "so that there is an end to it"
    assert only(raft.step(DURABLE, 3, 1, index=2), "timeout now") == [], "that is another one"
    assert [m.to for m in only(raft.step(DURABLE, 2, 1, index=2), "timeout now")] == [2]


def test_the_lease_is_given_up_for_the_rest_of_the_term():
    raft = serving()
    raft.transfer(2)
    assert not raft.leads
    raft.tick(HEARTBEAT_MS)
    heard(raft, 2, 3)
    assert not raft.leads, "a confirmed round does not bring it back"
    assert raft.read(7, lease=True) == [], "a lease read waits for a round"
    raft.tick(0)
    heard(raft, 2)
    assert raft.grants() == [(7, 1)]


def test_a_transfer_that_never_began_costs_nothing():
    raft = serving()
    raft.propose(1)
    raft.transfer(2)                            # it lags, and goes on to
    for _ in range(PROMISE_MS // HEARTBEAT_MS):
        raft.tick(HEARTBEAT_MS)
        heard(raft, 3)
    assert raft.role == "leader"
    assert raft.leads
    assert raft.takes_writes


def test_a_transfer_that_fails_is_taken_back_in_a_term_of_its_own():
    raft = serving()
    raft.transfer(2)
    for _ in range(PROMISE_MS // HEARTBEAT_MS - 1):
        raft.tick(HEARTBEAT_MS)
        heard(raft, 3)
    raft.tick(HEARTBEAT_MS)
    assert (raft.role, raft.term) == ("candidate", 2)
    assert {m.flags for m in only(raft.saved(), "vote")} == {FORCED}
    raft.step(VOTED, 3, 2, flags=GRANTED)
    assert raft.role == "leader"


@pytest.mark.parametrize(("term", "index", "index_term"), [(2, 2, 1), (4, 2, 1), (3, 1, 1),
                                                           (3, 3, 1), (3, 2, 2)])
def test_timeout_now_is_for_one_term_and_one_log(term, index, index_term):
    raft = BareRaft(log=[1, 1], term=3)
    raft.step(TIMEOUT_NOW, 2, term, index=index, index_term=index_term)
    assert (raft.role, raft.term) == ("follower", 3)


def test_timeout_now_skips_the_pre_vote_and_the_promise():
    raft = BareRaft(log=[1, 1], term=3, start_rule=True)
    assert raft.step(TIMEOUT_NOW, 2, 3, index=2, index_term=1) == []
    assert (raft.role, raft.term) == ("candidate", 4)
    assert [(m.kind, m.term, m.flags) for m in raft.saved()] == [("vote", 4, FORCED)] * 2


@pytest.mark.parametrize(("flags", "granted"), [(0, False), (FORCED, True), (FORCED | PRE, False)])
def test_a_promise_to_the_leader_that_hands_over_does_not_bind(flags, granted):
    raft = BareRaft(log=[1], term=1)
    raft.step(4, 2, 1, index=1, index_term=1)   # its leader is heard
    replies = raft.step(VOTE, 3, 2, index=1, index_term=1, flags=flags)
    replies += raft.saved() if raft.save else []
    assert bool(only(replies, "voted")[0].flags & GRANTED) == granted


def test_the_leader_that_hands_over_votes_for_its_successor():
    raft = serving()
    raft.transfer(2)
    raft.step(VOTE, 2, 2, index=1, index_term=1, flags=FORCED)
    assert only(raft.saved(), "voted")[0].flags == GRANTED
    assert raft.role == "follower"


# --------------------------------------------------------------------------------- whole clusters
@STRATEGIES
@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_the_lead_goes_where_it_is_sent(make, strategy, nodes):
    """And writes under way at all nodes are answered, each applied once."""
    c = make(nodes, strategy=strategy)
    old = c.leader()
    heir = followers(c)[-1]
    writes = [c.put(n, b"%d" % n, b"before") for n in range(nodes)]
    assert c.transfer(old, heir + 1)
    writes += [c.put(n, b"%d" % n, b"after") for n in range(nodes)]
    begun = c.now_us
    assert done(c, *writes) == [0] * 2 * nodes
    assert c.leader() == heir
    assert c.now_us - begun < 100 * MS
    assert c.states()[heir]["term"] == 2
    assert c.states()[heir]["revision"] == 2 * nodes


def test_without_a_name_it_goes_to_the_one_that_is_ahead(make):
    c = make(5)
    behind = followers(c)[0]
    for other in range(5):
        if other != behind:
            c.cut(behind, other)
    done(c, c.put(c.leader(), b"k", b"v"))
    old = c.leader()
    assert c.transfer(old)
    assert c.run_until(lambda: c.leader() not in (-1, old), SECOND)
    assert c.leader() != behind


def test_the_lead_comes_back_when_the_successor_dies(make):
    c = make()
    old, heir = c.leader(), followers(c)[0]
    c.run_for(SECOND)                           # it has all that the leader has
    c.stall(heir, 60 * SECOND)                  # it is told, and cannot save the next term
    assert c.transfer(old, heir + 1)
    write = c.put(old, b"k", b"v")
    assert done(c, write, within_us=2 * SECOND) == [0]
    assert c.leader() == old
    assert c.states()[old]["term"] > 1


def test_who_cannot_take_it_is_refused(make):
    c = make()
    old, other = c.leader(), followers(c)[0]
    with pytest.raises(RequestError, match="no voter"):
        c.ask_transfer(old, 9)
    with pytest.raises(RequestError, match="the leader"):
        c.ask_transfer(old, old + 1)
    with pytest.raises(UnavailableError, match=f"ask node {old + 1}"):
        c.ask_transfer(other)
    c.stall(other, SECOND)
    c.put(old, b"k", b"v")
    c.ask_transfer(old, other + 1)
    with pytest.raises(RequestError, match="wait for that"):
        c.ask_transfer(old)
