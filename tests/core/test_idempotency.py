"""Idempotency-Key: one request, however often it comes, through whichever node, changes once."""
from __future__ import annotations

import pytest

from tests.core.clusters import agreed, done, followers

MS, SECOND = 1000, 1_000_000
OK, MISMATCH, KEYS_FULL = 0, 8, 9
STRATEGIES = pytest.mark.parametrize("strategy", [0, 1], ids=["DiskFirst", "MemFirst"])


def again(c, node, key=b"key", value=b"v"):
    """The put of `k` under that key, once more; its client."""
    put = c.put(node, b"k", value, idempotency=key)
    done(c, put)
    return put


@STRATEGIES
@pytest.mark.parametrize("nodes", [1, 3])
def test_a_copy_through_any_node_is_told_the_same(make, strategy, nodes):
    c = make(nodes, strategy=strategy)
    first = again(c, 0)
    assert (first.status, first.revision) == (OK, 1)
    done(c, c.put(0, b"k", b"another", idempotency=None))
    for node in range(nodes):
        copy = again(c, node)
        assert (copy.status, copy.revision) == (OK, 1)
    assert c.states()[0]["revision"] == 2
    assert agreed(c).again == nodes


def test_copies_at_once_through_all_nodes(make):
    c = make()
    puts = [c.put(n, b"k", b"v", idempotency=b"key") for n in range(3) for _ in range(3)]
    assert set(done(c, *puts)) == {OK}
    assert {put.revision for put in puts} == {1}
    assert agreed(c).again == 8


def test_another_request_under_the_same_key_is_refused(make):
    c = make()
    again(c, 0)
    for node in range(3):
        other = again(c, node, value=b"w")
        assert other.status == MISMATCH
    assert c.items(0)[b"k"] == b"v"


@STRATEGIES
def test_after_the_leader_s_death(make, strategy):
    """At each moment of the first attempt: the copy through another node finds it, or is it."""
    found = 0
    for at_us in range(0, 12 * MS, 800):
        c = make(strategy=strategy, seed=at_us + 1)
        leader, node = c.leader(), followers(c)[0]
        c.put(leader, b"k", b"v%d" % at_us, idempotency=b"key")
        c.run_for(at_us)
        c.kill(leader)
        put = c.put(node, b"k", b"v%d" % at_us, idempotency=b"key")
        assert done(c, put) == [OK]
        c.boot(leader)
        found += agreed(c).again
    assert found


@pytest.mark.parametrize("way", ["start", "install"])
def test_results_are_part_of_a_snapshot(make, way):
    c = make(snapshot_entries=20, snapshot_keep_bytes=0, segment_bytes=16 << 10)
    node = followers(c)[0]
    if way == "install":
        c.kill(node)
    revisions = [again(c, c.leader(), b"key%d" % i, b"v%d" % i).revision for i in range(30)]
    for i in range(60):
        done(c, c.put(c.leader(), b"more", b"%d" % i * 1000))
    if way == "start":
        c.kill(node)
    before = c.counts.get("snapshot installed", 0)
    c.boot(node)
    agreed(c)
    assert c.counts.get("snapshot installed", 0) - before == (way == "install")
    c.kill(followers(c)[1] if followers(c)[0] == node else followers(c)[0])
    assert [again(c, node, b"key%d" % i, b"v%d" % i).revision for i in range(30)] == revisions


def test_a_result_is_kept_for_as_long_as_leaders_led(make):
    """And not for longer than needed: without one, time stands still and no entry is written."""
    c = make(idempotency_retention_ms=2000)
    leader = c.leader()
    again(c, leader)
    c.run_for(1500 * MS)
    assert again(c, leader).revision == 1
    c.run_for(SECOND)
    assert again(c, leader).revision == 2, "it was forgotten"
    c.run_for(3 * SECOND)
    assert c.run_until(c.settled, SECOND)
    last = c.states()[leader]["last"]
    c.run_for(5 * SECOND)
    assert c.states()[leader]["last"] == last, "nothing has a deadline"
    again(c, leader, b"late")
    c.run_for(1500 * MS)
    assert again(c, leader, b"late").revision == 3, "the pause before it did not count"


def test_a_new_leader_goes_on_from_the_time_before(make):
    c = make(idempotency_retention_ms=2000)
    again(c, c.leader())
    c.run_for(1200 * MS)
    old = c.leader()
    c.kill(old)
    assert c.run_until(lambda: c.leader() not in (-1, old), 5 * SECOND)
    node = c.leader()
    assert again(c, node).revision == 1, "the election did not count"
    c.run_for(1500 * MS)
    assert again(c, node).revision == 2


def test_ticks_carry_ever_later_times(make):
    c = make()
    again(c, c.leader())
    c.run_for(3 * SECOND)
    times = [p for _, p in c.commands() if isinstance(p, tuple)]
    assert times == sorted(times)
    assert 20 <= len(times) <= 31, "ten a second at most"
    assert times[-1][0] <= 3000
