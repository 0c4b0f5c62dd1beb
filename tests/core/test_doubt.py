"""A node that may have forgotten what it acknowledged: how its votes count, and until when."""
from __future__ import annotations

import pytest

from tests.core.bare_rafts import APPEND, GRANTED, MARKED, PRE, VOTE, VOTED, only
from tests.sim.bare import BareRaft


def doubtful(log=(1, 1, 1), term=1, **options) -> BareRaft:
    return BareRaft(log=log, term=term, doubt=True, **options)


def hears(raft: BareRaft, term: int, index: int, index_term: int, entries=(), **fields) -> None:
    """An append that matches; what it appends is durable at once."""
    raft.step(APPEND, 2, term, index=index, index_term=index_term, entries=entries, **fields)
    if raft.save:
        raft.saved()
    raft.durable(raft.last)


def stands(raft: BareRaft, votes: dict[int, int]) -> str:
    """The role of a candidate that got these flags from these nodes, in pre-vote and vote."""
    raft.campaigns()
    term = raft.term + 1
    for peer, flags in votes.items():
        raft.step(VOTED, peer, term, flags=PRE | GRANTED | flags)
    if raft.role == "candidate":
        raft.saved()
        for peer, flags in votes.items():
            raft.step(VOTED, peer, term, flags=GRANTED | flags)
    return raft.role


@pytest.mark.parametrize("pre", [0, PRE])
def test_each_vote_of_a_node_in_doubt_is_marked(pre):
    raft = doubtful()
    replies = raft.step(VOTE, 2, 2, index=9, index_term=1, flags=pre)
    replies += raft.saved() if raft.save else []
    assert only(replies, "voted")[0].flags == pre | GRANTED | MARKED


@pytest.mark.parametrize(("doubt", "votes", "role"), [
    (False, {2: 0}, "leader"),                          # two of three without a mark
    (False, {2: MARKED}, "precandidate"),
    (True, {2: 0}, "precandidate"),                     # its own is marked too
    (True, {2: 0, 3: 0}, "leader"),                     # two of three again
    (False, {2: MARKED, 3: MARKED}, "leader"),          # all of three
    (True, {2: MARKED, 3: MARKED}, "leader")])
def test_a_majority_without_marks_or_all_elect(doubt, votes, role):
    raft = BareRaft(log=[1], term=1, doubt=doubt)
    assert stands(raft, votes) == role
    assert raft.by_all == (role == "leader" and sum(
        flags == 0 for flags in votes.values()) + (not doubt) < 2)


def test_a_vote_again_without_its_mark_counts():
    raft = BareRaft(log=[1], term=1)
    assert stands(raft, {2: MARKED}) == "precandidate"
    raft.step(VOTED, 2, raft.term + 1, flags=PRE | GRANTED)
    raft.saved()
    raft.step(VOTED, 2, raft.term, flags=GRANTED)
    assert raft.role == "leader"


def test_a_lone_voter_elects_itself_and_says_that_it_may_have_lost_entries():
    raft = BareRaft(nodes=1, log=[1], term=1, doubt=True)
    raft.tick(1)
    raft.saved()
    assert raft.role == "leader"
    assert raft.by_all


def test_who_wins_is_in_doubt_until_its_no_op_is_durable():
    """With the no-op the jump of the revision would be lost, and nobody would make it again."""
    raft = doubtful()
    assert stands(raft, {2: 0, 3: 0}) == "leader"
    raft.saved()
    assert raft.doubt
    raft.durable(4)
    assert not raft.doubt
    assert raft.save, "and will know it after another start"


def test_the_no_op_of_a_later_term_ends_doubt():
    raft = doubtful()
    hears(raft, 2, 3, 1, last=9)
    assert raft.doubt, "what it held at the start proves nothing"
    hears(raft, 2, 3, 1, [2], last=9)
    assert not raft.doubt
    assert raft.save


def test_the_no_op_of_the_term_of_the_start_does_not():
    raft = doubtful(log=(1, 1))
    hears(raft, 1, 2, 1, [1], last=9)
    assert raft.doubt


def test_what_the_leader_had_at_the_first_contact_ends_it():
    raft = doubtful(log=(1, 1))
    hears(raft, 1, 2, 1, [1, 1], last=5)
    assert raft.doubt
    hears(raft, 1, 4, 1, [1], last=9)           # 5 of 9: what came later was never forgotten
    assert not raft.doubt


def test_the_length_of_the_log_does_not():
    """It holds five entries, but of those only two are known to be the leader's."""
    raft = doubtful(log=(1, 1, 1, 1, 1), term=2)
    hears(raft, 2, 2, 1, last=5)
    assert raft.doubt


def test_a_new_term_forgets_the_first_contact():
    raft = doubtful(log=(1, 1), term=2)
    raft.step(APPEND, 2, 2, index=2, index_term=1, entries=[2], last=4)
    raft.saved() if raft.save else None
    raft.step(APPEND, 3, 3, index=2, index_term=1, last=7)
    raft.saved()
    hears(raft, 3, 2, 1, last=9)
    assert raft.doubt


def test_what_is_not_durable_does_not():
    """Power may be lost again before it is: then it would have forgotten, and not know."""
    raft = doubtful()
    raft.step(APPEND, 2, 2, index=3, index_term=1, entries=[2])
    raft.saved()
    assert raft.doubt
    raft.durable(4)
    assert not raft.doubt
