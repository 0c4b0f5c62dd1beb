"""Changes of the membership: how a cluster grows, shrinks and replaces its nodes, and what cannot
happen to it meanwhile (D 4)."""
from __future__ import annotations

import asyncio
import struct

import pytest

from dengine._core.peer import Peer
from dengine.errors import RemovedError, RequestError, UnavailableError
from tests.core.clusters import SECOND, agreed, done, followers
from tests.sim import views

HELLO, FORWARD, BYE, REGISTER = 1, 7, 12, 16
OUTDATED, REMOVED = 1, 2
STRANGERS = 20
UNKNOWN = 4
STRATEGIES = pytest.mark.parametrize("strategy", [0, 1], ids=["DiskFirst", "MemFirst"])


def voters(c):
    return sorted(i for i, role in c.members(c.leader()).items() if role == "voter")


def becomes(c, *nodes, within_us=30 * SECOND):
    """Runs until these are the voters, and all members agree."""
    assert c.run_until(lambda: c.leader() >= 0 and voters(c) == list(nodes) and c.settled(),
                       within_us), (c.states(), c.members(c.leader()))
    states = [c.items(i) for i in nodes]
    assert all(s == states[0] for s in states)
    assert all(c.same_results(i, nodes[0]) for i in nodes)


def write(c, node, n, prefix=b"k"):
    assert done(c, *(c.put(node, b"%s%d" % (prefix, i), b"v%d" % i) for i in range(n))) == [0] * n


@STRATEGIES
def test_three_grow_to_five_and_shrink_again(make, strategy):
    c = make(3, spare=2, strategy=strategy)
    write(c, 0, 50)
    for new in (3, 4):
        c.boot(new)
        c.ask_change(c.leader(), "add", new)
        becomes(c, *range(new + 1))
        write(c, new, 10, b"of %d " % new)
    for old in (4, 3):
        if c.leader() == old:
            c.ask_transfer(old)
            assert c.run_until(lambda old=old: c.leader() not in (old, -1), 5 * SECOND)
        c.ask_change(c.leader(), "remove", old)
        becomes(c, *range(old))
        assert c.run_until(lambda old=old: not c.nodes[old].alive, 10 * SECOND), "it was told"
    assert len(c.items(0)) == 70


@STRATEGIES
def test_one_grows_to_three_under_load(make, strategy):
    """Writes of a node alone have no session; from the first learner on they need one."""
    c = make(1, spare=2, strategy=strategy)
    c.until_us = c.now_us + 20 * SECOND
    c.think_us = 1000
    c.load(5)
    c.run_for(SECOND)
    for new in (1, 2):
        c.boot(new)
        assert c.run_until(lambda new=new: c.change(c.leader(), "add", new), 5 * SECOND)
        assert c.run_until(lambda new=new: voters(c) == list(range(new + 1)), 20 * SECOND)
    c.run_for(20 * SECOND)
    becomes(c, 0, 1, 2)
    agreed(c)
    c.kill(c.leader())
    assert c.run_until(lambda: c.leader() >= 0, 5 * SECOND), "two of three go on"


@STRATEGIES
def test_a_node_with_an_empty_disk_takes_the_place_of_the_one_it_was(make, strategy):
    c = make(3, strategy=strategy)
    write(c, 0, 20)
    for old in range(3):
        if c.leader() == old:
            c.ask_transfer(old)
            assert c.run_until(lambda old=old: c.leader() not in (old, -1), 5 * SECOND)
        c.kill(old)
        c.wipe(old)
        c.boot(old)
        assert c.run_until(lambda old=old: c.change(c.leader(), "replace", old), 5 * SECOND)
        becomes(c, 0, 1, 2)
        write(c, old, 10, b"of %d " % old)
    assert len(c.items(0)) == 50


@pytest.mark.parametrize("leaver_lives", [True, False])
def test_a_joint_configuration_needs_both_halves(make, leaver_lives):
    """Four voters are to become three. The leader and the leaver are a third of the new and half of
    the old; the leader and one that stays are a majority of the new, and half of the old."""
    c = make(3, spare=1)
    c.boot(3)
    c.ask_change(c.leader(), "add", 3)
    becomes(c, 0, 1, 2, 3)
    leader = c.leader()
    if leader == 3:
        c.ask_transfer(3, 1)
        assert c.run_until(lambda: c.leader() == 0, 5 * SECOND)
        leader = 0
    others = [i for i in range(3) if i != leader]
    c.ask_change(leader, "remove", 3)
    dead = others if leaver_lives else [others[0], 3]
    for other in dead:
        c.kill(other)
    put = c.put(leader, b"k", b"v", 2 * SECOND)
    c.run_until(lambda: put.status >= 0, 3 * SECOND)
    assert put.status != 0
    for other in dead:
        c.boot(other)
    becomes_without(c, 3)


def becomes_without(c, gone):
    assert c.run_until(lambda: c.leader() >= 0 and gone not in c.members(c.leader()),
                       20 * SECOND), c.states()


def test_who_is_being_left_out_leads_where_nobody_else_has_what_leaves_it_out(make):
    """The leader dies when only the leaver has its last configuration (D 4.2.2): the others' logs
    are too short, and one of four may die."""
    c = make(4)
    write(c, 0, 5)
    leader = c.leader()
    leaver, *others = followers(c)
    c.ask_change(leader, "remove", leaver)
    assert c.run_until(lambda: leaver not in c.members(leader), SECOND)
    for other in others:
        c.cut(leader, other)
    assert c.run_until(lambda: leaver not in c.members(leaver), SECOND)
    c.kill(leader)
    assert c.members(others[0])[leaver] == c.members(others[1])[leaver] == "leaving"
    assert c.run_until(lambda: c.leader() in others, 20 * SECOND), c.states()
    write(c, others[0], 5)
    assert leaver not in c.members(others[0])
    c.heal()
    c.boot(leader)
    becomes(c, *(n for n in range(4) if n != leaver))


def test_a_configuration_that_is_cut_acts_no_more(make):
    """The leader appends it, cut off, and is overruled."""
    c = make(3, spare=1)
    write(c, 0, 5)
    leader = c.leader()
    for other in followers(c)[:2]:
        c.cut(leader, other)
    c.ask_change(leader, "add", 3)
    assert 3 in c.members(leader)
    assert c.run_until(lambda: c.leader() not in (leader, -1), 10 * SECOND)
    write(c, c.leader(), 5)
    c.heal()
    assert c.run_until(lambda: 3 not in c.members(leader), 10 * SECOND)
    becomes(c, 0, 1, 2)


def test_a_new_leader_changes_nothing_before_its_no_op_is_committed(make):
    """The erratum to D 4.1: else two configurations without a common quorum may be at work."""
    c = make(3, spare=1)
    old = c.leader()
    c.kill(old)
    assert c.run_until(lambda: c.leader() not in (old, -1), 5 * SECOND)
    with pytest.raises(UnavailableError, match="just begun to lead"):
        c.ask_change(c.leader(), "add", 3)


def test_a_node_that_was_away_hears_a_leader_that_was_replaced_meanwhile(make):
    """It knows the leader's id with another directory only."""
    c = make(5)
    write(c, 0, 10)
    away, new, *_ = followers(c)
    c.kill(away)
    c.kill(new)
    c.wipe(new)
    c.boot(new)
    assert c.run_until(lambda: c.change(c.leader(), "replace", new), 5 * SECOND)
    assert c.run_until(lambda: len(voters(c)) == 5 and c.seats(new), 20 * SECOND)
    c.ask_transfer(c.leader(), new + 1)
    assert c.run_until(lambda: c.leader() == new, 5 * SECOND)
    write(c, new, 10)
    c.boot(away)
    becomes(c, 0, 1, 2, 3, 4)


def test_a_member_that_lags_hears_one_that_was_replaced_while_it_was_connected(make):
    """It shook hands with the empty directory, and has no other connection since."""
    c = make(5)
    write(c, 0, 10)
    lags, new, *others = followers(c)
    for other in (c.leader(), *others):
        c.cut(lags, other)
    c.kill(new)
    c.wipe(new)
    c.boot(new)
    assert c.run_until(lambda: c.change(c.leader(), "replace", new), 5 * SECOND)
    assert c.run_until(lambda: len(voters(c)) == 5 and c.seats(new), 20 * SECOND)
    c.run_for(SECOND)                           # the joint configuration is settled
    for other in others:
        c.kill(other)
    assert c.run_until(lambda: c.leader() == new, 20 * SECOND), c.states()
    write(c, new, 10)


def test_the_session_of_a_removed_node_ends_and_it_gets_no_other(make):
    c = make(4)
    write(c, 3, 5)
    leader = c.leader()
    if leader == 3:
        c.ask_transfer(3)
        assert c.run_until(lambda: c.leader() not in (3, -1), 5 * SECOND)
        leader = c.leader()
    incarnation = c.nodes[3].setup.incarnation
    c.kill(3)
    c.ask_change(leader, "remove", 3)
    becomes_without(c, 3)
    assert c.run_until(c.settled, 5 * SECOND)
    assert c.with_sessions(leader) == [0, 1, 2]
    command = struct.pack("<BQQQQQQ", REGISTER, 0, 0, 0, 4, incarnation, 77)
    slot = c.visit(leader, 3)                   # it asked just before it was told
    assert c.receive(leader, slot, views.build_frame(
        FORWARD, 0, c.states()[leader]["term"],
        struct.pack("<II", 1, len(command)) + command)) is None
    write(c, leader, 5)
    assert c.with_sessions(leader) == [0, 1, 2]
    becomes(c, 0, 1, 2)


def test_one_change_at_a_time(make):
    c = make(3, spare=2)
    leader = c.leader()
    c.boot(3)
    c.ask_change(leader, "add", 3)
    with pytest.raises(UnavailableError, match="under way"):
        c.ask_change(leader, "add", 4)
    with pytest.raises(UnavailableError, match=f"ask node {leader + 1}"):
        c.ask_change(followers(c)[0], "add", 4)
    becomes(c, 0, 1, 2, 3)


@pytest.mark.parametrize(("what", "node", "why"), [
    ("add", 1, "a member already"), ("promote", 1, "a voter already"),
    ("promote", 3, "no member"), ("remove", 3, "no member"), ("replace", 3, "no member"),
    ("replace", 1, "up with its directory"), ("praise", 1, "no change")])
def test_what_makes_no_sense_is_refused(make, what, node, why):
    c = make(3, spare=1)
    if c.leader() == 1:
        c.ask_transfer(1)
        assert c.run_until(lambda: c.leader() not in (1, -1), 5 * SECOND)
    before = c.members(c.leader())
    with pytest.raises(RequestError, match=why):
        c.ask_change(c.leader(), what, node)
    assert c.members(c.leader()) == before


def test_no_voter_goes_while_the_rest_is_no_majority(make):
    c = make(3)
    leader = c.leader()
    a, b = followers(c)
    c.kill(a)
    c.run_for(SECOND)
    with pytest.raises(UnavailableError, match="no majority"):
        c.ask_change(leader, "remove", b)


def test_a_learner_does_not_vote_and_is_promoted_when_asked(make):
    c = make(3, spare=1)
    c.boot(3)
    c.ask_change(c.leader(), "add", 3, promote=False)
    c.run_for(3 * SECOND)
    assert c.members(c.leader())[3] == "learner"
    write(c, 3, 5)
    assert c.run_until(lambda: c.change(c.leader(), "promote", 3), 5 * SECOND)
    becomes(c, 0, 1, 2, 3)


def test_an_old_directory_of_a_replaced_node_stops(make):
    """Its place was given away: it counts nowhere, and is told so."""
    c = make(3)
    write(c, 0, 10)
    old = followers(c)[0]
    c.kill(old)
    disk, incarnation = c.nodes[old].disk, c.nodes[old].setup.incarnation
    c.wipe(old)
    c.boot(old)
    leader = c.leader()
    assert c.run_until(lambda: c.change(leader, "replace", old), 5 * SECOND)
    becomes(c, 0, 1, 2)
    c.kill(old)
    c.put_back(old, disk, incarnation)
    c.boot(old)
    assert c.run_until(lambda: not c.nodes[old].alive, 5 * SECOND)


@pytest.mark.parametrize("lives", [True, False])
def test_a_directory_that_was_removed_may_come_back_when_its_id_does(make, lives):
    """It was away meanwhile. What it was, it is again, with a session of its own; what was under
    way is unknown."""
    c = make(4)
    write(c, 0, 10)
    old, *others = followers(c)
    write(c, old, 10)
    for other in (c.leader(), *others):
        c.cut(old, other)
    lost = c.put(old, b"k", b"never")
    if not lives:
        c.kill(old)
    c.ask_change(c.leader(), "remove", old)
    becomes_without(c, old)
    assert c.run_until(lambda: c.change(c.leader(), "add", old), 5 * SECOND)
    c.run_for(SECOND)
    c.heal()
    if not lives:
        c.boot(old)
    becomes(c, 0, 1, 2, 3)
    assert not lives or done(c, lost) == [UNKNOWN]
    write(c, old, 10)


def test_a_directory_whose_naming_was_cut_joins_although_the_members_changed_since(make):
    """The leader that named it is overruled, and another changes the members: it was no member."""
    c = make(3, spare=2)
    leader, (a, b) = c.leader(), followers(c)[:2]
    c.ask_change(leader, "add", 3)
    c.run_for(SECOND)
    for other in (a, b):
        c.cut(leader, other)
        c.cut(3, other)
    c.boot(3)
    assert c.run_until(lambda: c.leader() in (a, b), 10 * SECOND)
    assert c.states()[3]["last"], "it has what names it"
    assert c.run_until(lambda: c.change(c.leader(), "add", 4), SECOND)
    c.run_for(SECOND)
    c.heal()
    assert c.run_until(lambda: voters(c) == [0, 1, 2, 3], 20 * SECOND)
    write(c, 3, 5)


def test_a_node_cannot_forget_with_its_power_that_there_is_another_voter(make):
    """MemFirst: else it would be the only one again, and elect itself by the votes of all."""
    c = make(1, spare=1, strategy=1, threshold=1000, interval_us=150_000)
    c.boot(1)
    c.ask_change(0, "add", 1)
    assert c.run_until(lambda: voters(c) == [0, 1], 20 * SECOND)
    puts = [c.put(0, b"k%d" % i, b"v") for i in range(5)]
    assert done(c, *puts) == [0] * 5
    c.kill(0, True)
    c.boot(0)
    becomes(c, 0, 1)
    assert len(c.items(0)) == 5


class Wire(asyncio.Transport):
    """A connection that a stranger opened, with what the node said."""

    def __init__(self):
        super().__init__()
        self.said = b""
        self.open = True

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def write(self, data):
        self.said += data

    def close(self):
        self.open = False

    abort = close


def connect(c, node):
    """A peer at `node` that has said nothing yet, and its wire."""
    peer = Peer(c.nodes[node].turn, 0, lambda *_: None, lambda *_: None, lambda _: None)
    wire = Wire()
    peer.connection_made(wire)
    return peer, wire


@pytest.mark.parametrize("flag", [OUTDATED, REMOVED])
def test_a_stranger_cannot_send_a_member_away(make, flag):
    c = make(3)
    for node in range(3):
        peer, wire = connect(c, node)
        peer.data_received(views.build_frame(BYE, flag, 0, struct.pack("<Q", 1_000_000) + b"go"))
        assert not wire.open
    c.run_for(SECOND)
    assert all(c.failed(node) is None for node in range(3))
    write(c, 0, 5)


@pytest.mark.parametrize(("config", "obeyed"), [(1, False), (1_000_000, True), (None, False)])
def test_a_member_that_lags_cannot_send_a_member_away(make, config, obeyed):
    """It says by which configuration the other was removed: an older one than names it is none."""
    c = make(3)
    peer, wire = connect(c, 0)
    other = c.nodes[1].setup
    peer.data_received(views.build_frame(HELLO, 0, 0, struct.pack(
        "<HQQQQQQQQ", 1, other.cluster, 2, other.incarnation, 1, 9, 1_000, 1, 1)))
    assert peer.up
    peer.data_received(views.build_frame(
        BYE, REMOVED, 0, b"go" if config is None else struct.pack("<Q", config) + b"go"))
    assert not wire.open
    assert isinstance(c.failed(0), RemovedError) == obeyed


def test_strangers_do_not_take_the_slots_of_members(make):
    """They say that they know of a later configuration, as a member would that is new here."""
    c = make(3, spare=1)
    cluster = c.nodes[0].setup.cluster
    opened = []
    for node in range(3):
        for stranger in range(STRANGERS):
            peer, wire = connect(c, node)
            peer.data_received(views.build_frame(HELLO, 0, 0, struct.pack(
                "<HQQQQQQQQ", 1, cluster, 100 + stranger, 7, node + 1, 0, 1, 1, 1_000_000)))
            opened.append((peer, wire))
    assert sum(peer.up for peer, _ in opened) == 3 * 13, "so many slots are free"
    c.boot(3)
    c.ask_change(c.leader(), "add", 3)
    assert sum(wire.open for _, wire in opened) >= 3 * 12, "one makes room"
    becomes(c, 0, 1, 2, 3)
    write(c, 3, 5)


def test_a_removed_directory_is_not_taken_for_the_one_that_is_added_in_its_place(make):
    """The leader has not heard yet that the connection to it is gone."""
    c = make(3, spare=1)
    leader = c.leader()
    peer, wire = connect(c, leader)
    peer.data_received(views.build_frame(HELLO, 0, 0, struct.pack(
        "<HQQQQQQQQ", 1, c.nodes[0].setup.cluster, 4, 7, leader + 1, 9, 1, 1, 1_000_000)))
    assert peer.up
    c.ask_change(leader, "add", 3)
    assert not wire.open
    c.run_for(SECOND)
    c.boot(3)
    becomes(c, 0, 1, 2, 3)
