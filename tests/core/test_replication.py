"""Replication, commitment and divergence, sentence by sentence.

The Raft paper is R, Ongaro's dissertation D, the rest is our blueprint. One node at a time, alone.
"""
from __future__ import annotations

import pytest

from dengine.errors import InvariantError
from tests.core.bare_rafts import (
    APPEND,
    DIVERGED,
    DURABLE,
    GRANTED,
    HEARD,
    HEARTBEAT_MS,
    PRE,
    REJECTED,
    TIMEOUT_MS,
    VOTE,
    VOTED,
    leader,
    only,
    serving,
)
from tests.sim.bare import BareRaft, Msg

FULL, PACKED = 32, 64         # flags of HEARD


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


def test_nothing_below_the_base_is_sent_to_a_follower_whose_disk_is_full():
    """What it lacks went behind the snapshots while it was on its way."""
    raft = serving()
    raft.propose(5)
    raft.durable(raft.last)
    raft.step(DURABLE, 3, raft.term, index=raft.last)
    raft.compact(raft.last)
    raft.step(HEARD, 2, raft.term, index=1, round=raft.round, flags=FULL | PACKED)
    sent = only(raft.tick(HEARTBEAT_MS), "append")
    assert sorted((m.to, m.index) for m in sent) == [(2, raft.last), (3, raft.last)]


def test_a_follower_that_has_room_again_gets_entries_again():
    """What it answered to rounds before the leader heard of its full disk proves nothing, and must
    not be taken for the last word either."""
    raft = serving()
    for _ in range(3):                          # rounds in flight
        raft.tick(HEARTBEAT_MS)
    older = raft.round - 1
    raft.step(HEARD, 2, raft.term, index=raft.last, round=older - 1, flags=FULL | PACKED)
    raft.step(HEARD, 2, raft.term, index=raft.last, round=older)
    raft.tick(HEARTBEAT_MS)
    raft.step(HEARD, 2, raft.term, index=raft.last, round=raft.round)
    sent = only(raft.propose(1), "append")
    assert [m.count for m in sent if m.to == 2] == [1]
