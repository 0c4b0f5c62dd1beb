"""Partitions that are none of the whole network: which leave a leader that serves, and which must
not. docs/operations.md says it in words."""
from __future__ import annotations

import itertools

import pytest

from tests.core.clusters import SECOND


def serves(c, within_us=15 * SECOND):
    """A node exists by which a write is acknowledged."""
    began = c.now_us
    while c.now_us < began + within_us:
        leader = c.leader()
        if leader >= 0:
            put = c.put(leader, b"k", b"v", SECOND)
            if c.run_until(lambda put=put: put.status >= 0, 2 * SECOND) and put.status == 0:
                return True
        c.run_for(SECOND // 5)
    return False


def stays(c):
    """It serves, and whoever leads then leads on."""
    assert serves(c)
    leader, term = c.leader(), c.states()[c.leader()]["term"]
    c.run_for(10 * SECOND)
    return serves(c) and (c.leader(), c.states()[c.leader()]["term"]) == (leader, term)


def connect_only(c, pairs):
    """What is not among these pairs is cut, both ways."""
    for a, b in itertools.combinations(range(len(c.nodes)), 2):
        if (a, b) not in pairs and (b, a) not in pairs:
            c.cut(a, b)


def around(c, first):
    """The nodes in order, this one first."""
    return [(first + i) % len(c.nodes) for i in range(len(c.nodes))]


def caught_up(c):
    assert c.run_until(c.settled, 10 * SECOND)


@pytest.mark.parametrize("both", [True, False], ids=["both ways", "one way"])
def test_a_leader_cut_from_one_follower_leads_on(make, both):
    for order in (1, -1):
        c = make(3)
        leader = c.leader()
        pair = (leader, (leader + 1) % 3)[::order]
        c.cut(*pair, both=both)
        term = c.states()[leader]["term"]
        assert stays(c)
        assert c.states()[leader]["term"] == term, "the follower disturbs nobody"


@pytest.mark.parametrize("nodes", [3, 5])
@pytest.mark.parametrize("deaf", [True, False], ids=["it hears nobody", "nobody hears it"])
def test_a_leader_that_is_cut_one_way_makes_room_for_another(make, nodes, deaf):
    c = make(nodes)
    leader = c.leader()
    for other in range(nodes):
        if other != leader:
            c.cut(*((other, leader) if deaf else (leader, other)), both=False)
    assert c.run_until(lambda: c.leader() not in (leader, -1), 15 * SECOND)
    assert stays(c)


def test_a_ring_of_five_has_a_leader(make):
    """Each node hears two neighbours: with itself that is a majority."""
    c = make(5)
    caught_up(c)
    a, b, d, e, f = around(c, c.leader())
    connect_only(c, {(a, b), (b, d), (d, e), (e, f), (f, a)})
    assert stays(c)


def test_two_halves_with_a_bridge_have_a_leader(make):
    """One node of five is connected to all, the two halves are not to each other."""
    c = make(5)
    caught_up(c)
    a, b, bridge, d, e = around(c, c.leader())
    connect_only(c, {(a, b), (d, e)} | {(bridge, i) for i in (a, b, d, e)})
    assert stays(c)


def test_of_a_star_the_hub_leads(make):
    """The others hear one node only. The leader is one of them, and gives up."""
    c = make(5)
    caught_up(c)
    leader, hub, *others = around(c, c.leader())
    connect_only(c, {(hub, i) for i in (leader, *others)})
    assert c.run_until(lambda: c.leader() == hub, 15 * SECOND)
    assert stays(c)


def test_a_star_whose_hub_lacks_a_committed_entry_must_stop(make):
    """It may not lead, and nobody else reaches a majority."""
    c = make(5)
    leader, hub, *others = around(c, c.leader())
    caught_up(c)
    for node in (hub, others[0]):               # it stays alive, and hears nothing new
        c.cut(leader, node)
    assert serves(c)
    connect_only(c, {(hub, i) for i in (leader, *others)})
    c.heal(hub, others[0])
    c.run_for(5 * SECOND)
    assert not serves(c)
    c.heal()
    assert serves(c)


def test_pairs_without_a_majority_must_stop(make):
    c = make(5)
    caught_up(c)
    a, b, d, e, _ = around(c, c.leader())
    connect_only(c, {(a, b), (d, e)})
    c.run_for(5 * SECOND)
    assert not serves(c)
    c.heal()
    assert serves(c)
