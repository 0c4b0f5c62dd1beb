"""Consensus sentence by sentence: the Raft paper (R), Ongaro's dissertation (D) and our blueprint.

One node at a time, alone: messages and time in, messages out. No clock, no sockets, no files.
"""
from __future__ import annotations

import pytest

from dengine.errors import InvariantError
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


# -------------------------------------------------------------------------------------- elections
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


# ------------------------------------------------------------------------------------ replication
def test_the_first_sending_of_a_leader_probes_at_its_last_entry():
    raft = BareRaft(log=[1, 1], term=1)
    raft.campaigns()
    raft.step(VOTED, 2, 2, flags=PRE | GRANTED)
    raft.saved()
    sent = raft.step(VOTED, 2, 2, flags=GRANTED)
    assert [(m.to, m.index, m.index_term, m.count, m.round) for m in sent] == [
        (2, 2, 1, 1, 1), (3, 2, 1, 1, 1)]


def test_a_conflicting_suffix_is_cut():
    """R 5.3."""
    raft = BareRaft(2, log=[1, 1, 2, 2], term=3)
    raft.step(APPEND, 1, 3, index=2, index_term=1, entries=[3], round=1)
    assert (raft.cut_to, raft.append_from, raft.log) == (2, 3, [1, 1, 3])


def test_a_sync_of_what_was_cut_counts_for_nothing():
    raft = BareRaft(2, log=[1, 1], term=1)
    raft.step(APPEND, 1, 3, index=1, index_term=1, entries=[3], round=1)
    raft.saved()
    assert raft.durable(2, term=1) == []
    assert [(m.kind, m.index) for m in raft.durable(2)] == [("durable", 2)]


def test_an_old_append_cuts_nothing():
    """R 5.3: only a conflict cuts; an append that was overtaken does not."""
    raft = BareRaft(2, log=[1, 1, 1], term=1)
    raft.step(APPEND, 1, 1, index=0, entries=[1], round=1)
    assert (raft.cut_to, raft.append_from, raft.log) == (None, 0, [1, 1, 1])


def test_nothing_committed_is_ever_cut():
    raft = BareRaft(2, log=[1, 1], term=1, commit=2)
    with pytest.raises(InvariantError, match="committed"):
        raft.step(APPEND, 1, 3, index=1, index_term=1, entries=[3], round=1)


def test_a_gap_is_rejected_with_where_to_go_on():
    raft = BareRaft(2, log=[1, 1], term=1)
    reply = raft.step(APPEND, 1, 1, index=7, index_term=1, round=4)[0]
    assert (reply.kind, reply.flags, reply.index, reply.index_term, reply.round) == (
        "heard", REJECTED, 2, 1, 4)


def test_back_off_goes_by_term():
    """R 5.3: one rejection per term in conflict, not per entry."""
    follower = BareRaft(2, log=[1] * 10 + [2] * 500 + [3] * 500, term=3)
    raft = leader(log=[1] * 10 + [4] * 600, term=4)
    term, rejections = raft.term, 0
    pending = raft.step(HEARD, 3, term, index=raft.last, round=raft.round)
    pending = [Msg("append", 2, term, 610, 4, 1, 0, raft.round, 0)]
    while follower.log != raft.log:
        m = next(m for m in pending if m.kind == "append" and m.to == 2)
        entries = raft.log[m.index:m.index + m.count]
        replies = follower.step(APPEND, 1, term, index=m.index, index_term=m.index_term,
                                entries=entries, commit=m.commit, round=m.round)
        replies += follower.saved() if follower.save else []
        reply = only(replies, "heard")[0]
        rejections += bool(reply.flags & REJECTED)
        assert rejections <= 3
        pending = raft.step(HEARD, 2, term, index=reply.index, index_term=reply.index_term,
                            round=reply.round, flags=reply.flags)


def test_a_stale_rejection_moves_nothing_back():
    raft = serving(log=[1, 1], term=1)
    raft.propose(3)
    sent = raft.step(HEARD, 2, 2, index=1, index_term=1, round=1, flags=REJECTED)
    assert all(m.index >= 3 for m in only(sent, "append")), "what matches is not sent again"


def test_entries_of_an_older_term_are_not_committed_by_counting():
    """R 5.4.2 and figure 8: only with an entry of the leader's own term."""
    raft = leader(log=[1, 2], term=3)
    raft.durable(2)
    raft.step(DURABLE, 2, 4, index=2)
    raft.step(DURABLE, 3, 4, index=2)
    assert raft.commit == 0
    raft.durable(3)
    raft.step(DURABLE, 2, 4, index=3)
    assert raft.commit == 3


def test_a_leader_counts_itself_only_once_its_own_log_is_durable():
    raft = leader(nodes=3)
    raft.step(DURABLE, 2, 1, index=1)
    assert raft.commit == 0
    raft.durable(1)
    assert raft.commit == 1


def test_answers_of_an_older_term_do_not_count():
    """R 5.1: what was acknowledged to a leader of before may be cut by now."""
    raft = serving(log=[1], term=1)
    raft.propose(1)
    raft.durable(3)
    raft.step(DURABLE, 2, 1, index=3)
    assert raft.commit == 2
    raft.step(DURABLE, 2, 2, index=3)
    assert raft.commit == 3


def test_two_of_four_are_no_majority():
    raft = leader(nodes=4)
    raft.durable(1)
    raft.step(DURABLE, 2, 1, index=1)
    assert raft.commit == 0
    raft.step(DURABLE, 3, 1, index=1)
    assert raft.commit == 1


def test_a_follower_commits_only_what_this_message_verified():
    """R figure 2: min(leaderCommit, index of last new entry); what lies behind may be another's."""
    raft = BareRaft(2, log=[1, 2, 2, 2], term=3)
    raft.step(APPEND, 1, 3, index=1, index_term=1, commit=4, round=1)
    assert raft.commit == 1
    raft.step(APPEND, 1, 3, index=1, index_term=1, entries=[2], commit=4, round=2)
    assert raft.commit == 2


def test_heard_at_once_durable_later():
    raft = BareRaft(2, log=[1], term=1)
    sent = raft.step(APPEND, 1, 1, index=1, index_term=1, entries=[1, 1], round=5)
    assert [(m.kind, m.index, m.round) for m in sent] == [("heard", 3, 5), ("durable", 1, 0)]
    assert [(m.kind, m.index) for m in raft.durable(3)] == [("durable", 3)]


def test_only_what_matches_the_leader_is_acknowledged():
    """The own durable log may end in entries that the leader has not."""
    raft = BareRaft(2, log=[1, 1, 1], term=1)
    sent = raft.step(APPEND, 3, 2, index=1, index_term=1, round=1)
    assert only(sent, "durable") == [], "the term is not saved yet"
    assert [(m.kind, m.index) for m in raft.saved()] == [("heard", 1), ("durable", 1)]


def test_what_matched_in_an_older_term_is_not_known_to_match_in_this_one():
    """The same leader, elected again: it may have other entries behind this prev."""
    raft = BareRaft(2, log=[1, 1, 1], term=1)
    raft.step(APPEND, 1, 1, index=3, index_term=1, round=1)
    raft.step(APPEND, 1, 3, index=1, index_term=1, round=1)
    assert only(raft.saved(), "durable")[0].index == 1


def test_a_term_is_saved_before_it_is_echoed():
    raft = BareRaft(2, log=[1], term=1)
    assert raft.step(APPEND, 1, 4, index=1, index_term=1, round=1) == []
    assert [m.kind for m in raft.saved()] == ["heard", "durable"]


def test_an_append_of_an_older_term_is_answered_with_the_higher():
    raft = BareRaft(2, log=[1], term=5)
    reply = raft.step(APPEND, 1, 4, index=1, index_term=1, round=1)[0]
    assert (reply.kind, reply.term, reply.flags) == ("heard", 5, REJECTED)
    assert raft.promise_left_ms == 0
    old = serving()
    old.step(HEARD, 2, 5, flags=REJECTED)
    assert (old.role, old.term) == ("follower", 5)


def test_a_window_is_bounded_in_frames():
    raft = serving()
    frames = 0
    for _ in range(40):
        frames += len([m for m in raft.propose() if m.to == 2 and m.count])
    assert frames == 16


def test_a_window_is_bounded_in_bytes():
    raft = serving()
    raft.entry_bytes = 1 << 20
    sent = [m for m in raft.propose(40) if m.to == 2]
    assert [m.count for m in sent] == [1, 1, 1, 1]


def test_a_full_window_still_sends_heartbeats():
    raft = serving()
    for _ in range(40):
        raft.propose()
    beat = [m for m in raft.tick(HEARTBEAT_MS) if m.to == 2]
    assert [(m.count, m.round) for m in beat] == [(0, raft.round)]


def test_an_acknowledgement_opens_the_window():
    raft = serving()
    for _ in range(40):
        raft.propose()
    sent = raft.step(DURABLE, 2, 1, index=17)
    assert [(m.index, m.count) for m in only(sent, "append")] == [(17, 24)]


def test_while_probing_one_append_is_under_way():
    raft = leader()
    assert [m for m in raft.propose(3) if m.count] == []
    sent = raft.step(HEARD, 2, 1, index=1, round=raft.round)
    assert [(m.to, m.index, m.count) for m in sent if m.count] == [(2, 1, 3)]


def test_a_new_connection_starts_from_what_is_known_to_match():
    raft = serving()
    raft.propose(5)
    raft.link_down(2)
    assert raft.propose(2) is not None
    sent = [m for m in raft.link_up(2) if m.to == 2]
    assert [(m.index, m.count) for m in sent] == [(8, 0)], "a restarted peer may have less"


def test_an_append_has_no_more_runs_of_terms_than_a_frame_may():
    raft = leader(log=range(1, 101), term=100)
    raft.step(HEARD, 2, 101, index=101, round=raft.round)
    sent = raft.step(HEARD, 2, 101, index=0, round=raft.round, flags=REJECTED)
    assert [(m.index, m.count) for m in only(sent, "append") if m.to == 2] == [(0, 64)]


# ------------------------------------------------------------------------------------- divergence
def test_a_diverged_log_acknowledges_and_votes_for_nothing():
    raft = BareRaft(2, log=[1, 1], term=1)
    reply = raft.step(APPEND, 1, 1, index=2, index_term=1, round=3, flags=DIVERGED)
    assert [(m.kind, m.flags, m.round) for m in reply] == [("heard", REJECTED | DIVERGED, 3)]
    raft.now += TIMEOUT_MS * 1000
    assert raft.step(VOTE, 3, 1, index=9, index_term=1)[0].flags == 0
    assert raft.campaigns() == []


def test_a_leader_told_so_by_a_majority_steps_down_for_good():
    raft = serving()
    raft.step(HEARD, 2, 1, round=raft.round, flags=REJECTED | DIVERGED)
    assert raft.role == "leader"
    raft.step(HEARD, 3, 1, round=raft.round, flags=REJECTED | DIVERGED)
    assert (raft.role, raft.diverged) == ("follower", True)
    assert raft.campaigns() == []


# ------------------------------------------------------------------------------------------ reads
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
