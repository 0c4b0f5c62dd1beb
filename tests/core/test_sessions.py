"""Exactly once: whatever dies, a write that a live node took is applied once, and answered."""
from __future__ import annotations

import struct

import pytest

from tests.core.clusters import agreed, done, followers
from tests.sim.views import build_frame, decode_command

MS, SECOND = 1000, 1_000_000
OK, NOT_PROPOSED, UNKNOWN = 0, 3, 4
FORWARD = 7
STAMP = 1           # offset in a command of session, sequence and floor
STRATEGIES = pytest.mark.parametrize("strategy", [0, 1], ids=["DiskFirst", "MemFirst"])


@STRATEGIES
def test_a_leader_s_death_is_invisible(make, strategy):
    """It is killed at each moment of a write that a follower took."""
    copies = 0
    for at_us in range(0, 12 * MS, 400):
        c = make(strategy=strategy, seed=at_us + 1)
        leader, node = c.leader(), followers(c)[0]
        writes = [c.put(node, b"k%d" % n, b"v%d.%d" % (at_us, n), 5 * SECOND) for n in range(3)]
        c.run_for(at_us)
        c.kill(leader)
        assert done(c, *writes) == [OK] * 3
        c.boot(leader)
        copies += agreed(c).copies
    assert copies                               # some had been committed before


@STRATEGIES
def test_a_deposed_leader_s_own_writes_go_to_the_next(make, strategy):
    c = make(strategy=strategy)
    old = c.leader()
    c.cut(old, (old + 1) % 3)
    c.cut(old, (old + 2) % 3)
    write = c.put(old, b"k", b"v", 8 * SECOND)
    c.run_for(3 * SECOND)
    assert write.status < 0
    assert c.leader() != old
    c.heal()
    assert done(c, write) == [OK]
    agreed(c)


def test_a_broken_connection_is_invisible(make):
    c = make()
    leader, node = c.leader(), followers(c)[0]
    writes = []
    for i in range(30):
        writes.append(c.put(node, b"k", b"v%d" % i, 5 * SECOND))
        c.run_for(300)
        if i % 3 == 0:
            c.disconnect(leader, node)
    assert set(done(c, *writes)) == {OK}
    assert agreed(c).copies


def test_whoever_waits_is_answered_from_a_snapshot(make):
    """A follower that the leader reaches no more gets its own write as part of a snapshot."""
    c = make(snapshot_entries=5, snapshot_keep_bytes=0, segment_bytes=16 << 10)
    leader, node = c.leader(), followers(c)[0]
    c.cut(leader, node, both=False)
    write = c.put(node, b"k", b"v", 9 * SECOND)
    assert c.run_until(lambda: any(decode_command(p)[1] for _, p in c.commands()), SECOND)
    c.cut(leader, node)
    for i in followers(c)[1:]:
        c.cut(i, node)
    assert write.status < 0
    for i in range(60):
        done(c, c.put(leader, b"more", b"%d" % i * 1000))
    c.disconnect(leader, node)                  # what was on its way is lost
    before = c.counts.get("snapshot installed", 0)
    c.heal()
    assert done(c, write) == [OK]
    assert c.counts["snapshot installed"] > before
    agreed(c)


def forwarded(c, node, sequence, floor):
    """Somebody sends the last write of this node's session to the leader, numbered anew."""
    payload = next(p for _, p in reversed(c.commands()) if decode_command(p)[1])
    session = struct.unpack_from("<Q", payload, STAMP)[0]
    command = (payload[:STAMP] + struct.pack("<QQQ", session, sequence, floor)
               + payload[STAMP + 24:])
    body = struct.pack("<II", 1, len(command)) + command
    return c.receive(c.leader(), node, build_frame(FORWARD, 0, c.states()[c.leader()]["term"],
                                                   body))


def test_a_copy_changes_nothing(make):
    c = make()
    node = followers(c)[0]
    assert done(c, *[c.put(node, b"k", b"v%d" % i) for i in range(5)]) == [OK] * 5
    revision = c.states()[0]["revision"]
    sequence, floor = decode_command(c.commands()[-1][1])[2:4]
    for copy in ((sequence, floor), (sequence - 1, floor)):
        assert forwarded(c, node, *copy) is None
    assert c.run_until(c.settled, SECOND)
    assert {s["revision"] for s in c.states()} == {revision}
    assert forwarded(c, node, sequence + 1, sequence + 1) is None       # the next one counts
    assert c.run_until(c.settled, SECOND)
    assert {s["revision"] for s in c.states()} == {revision + 1}
    assert forwarded(c, node, sequence + 9, sequence + 9) is None       # given up: all before
    assert c.run_until(c.settled, SECOND)
    assert forwarded(c, node, sequence + 5, floor) is None
    assert c.run_until(c.settled, SECOND)
    assert {s["revision"] for s in c.states()} == {revision + 2}


def test_numbers_that_no_node_gives(make):
    c = make()
    node = followers(c)[0]
    done(c, c.put(node, b"k", b"v"))
    c.strict = False
    for sequence, floor in ((1, 2), (5000, 1), (0, 1)):
        assert "no command" in forwarded(c, node, sequence, floor)


def test_not_proposed_and_unknown(make):
    """No leader had it: not proposed. One had it, and none is left to ask: unknown."""
    c = make()
    leader = c.leader()
    one, two = followers(c)
    sent = c.put(one, b"k", b"sent", 2 * SECOND)
    c.run_for(200)                              # on its way
    c.kill(leader)
    c.kill(two)
    c.run_for(MS)
    never = c.put(one, b"k", b"never", 2 * SECOND)
    assert done(c, sent, never) == [UNKNOWN, NOT_PROPOSED]
    c.boot(leader)
    c.boot(two)
    agreed(c)
