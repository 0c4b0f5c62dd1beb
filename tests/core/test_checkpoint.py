"""Snapshots in the life of a node: taken, started from, installed; what each damage comes to."""
from __future__ import annotations

import errno
import random
import struct

import pytest

from dengine.errors import CorruptionError
from tests.sim import views
from tests.sim.nodes import PATH

MS, SECOND = 1000, 1_000_000
STRATEGIES = pytest.mark.parametrize("strategy", [0, 1], ids=["DiskFirst", "MemFirst"])
SNAPSHOTS = f"{PATH}/snapshot"
VOTE, OFFER = 2, 13


@pytest.fixture
def make(make):
    """Likewise, with small segments and snapshots."""
    def build(nodes=3, **options):
        return make(nodes, **{"segment_bytes": 16 << 10, "snapshot_entries": 30,
                              "snapshot_keep_bytes": 0, **options})

    return build


def write(c, n, *, node=0, size=500, prefix=b"k"):
    """n puts of a few keys, all acknowledged."""
    for i in range(n):
        put = c.put(node, prefix + b"%d" % (i % 7), b"%d" % i + b"." * size)
        assert c.run_until(lambda put=put: put.status >= 0, 10 * SECOND)
        assert put.status == 0


def agree(c):
    assert c.run_until(c.settled, 15 * SECOND), c.states()
    states = [c.items(i) for i in range(len(c.nodes))]
    assert all(s == states[0] for s in states)
    return states[0]


def follower(c):
    return next(i for i in range(len(c.nodes)) if i != c.leader())


def left_behind(c):
    """A follower that died before so many writes that its next entries are in no log."""
    node = follower(c)
    c.kill(node)
    write(c, 200, node=c.leader())
    return node


@STRATEGIES
def test_the_log_behind_the_snapshot_before_the_newest_goes(make, strategy):
    c = make(1, strategy=strategy)
    write(c, 200)
    c.run_for(SECOND)
    write(c, 1)
    assert len(c.snapshots(0)) == 2
    kept = [int(n[:16], 16) for n in c.snapshots(0)]
    assert 1 < c.first(0) <= kept[0] + 1
    c.run_for(SECOND)
    assert "0000000000000001.seg" not in c.nodes[0].disk.names(f"{PATH}/log")


@STRATEGIES
@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
def test_a_start_goes_on_from_the_newest_snapshot(make, strategy, power):
    c = make(1, strategy=strategy)
    write(c, 200)
    before, revision = c.items(0), c.states()[0]["revision"]
    c.run_for(SECOND)                       # all is synced
    c.kill(0, power)
    c.boot(0)
    assert c.first(0) > 1
    assert agree(c) == before
    assert c.states()[0]["revision"] % 10**9 == revision
    write(c, 1)


def test_without_the_newest_the_one_before_and_the_log_make_the_same_state(make):
    c = make(1)
    write(c, 200)
    before = c.items(0)
    c.stop(0)
    newest = c.snapshots(0)[-1]
    c.nodes[0].disk.flip(f"{SNAPSHOTS}/{newest}", 8 * 4100)
    c.boot(0)
    assert agree(c) == before
    assert newest not in c.snapshots(0)
    assert newest + ".corrupt" in c.nodes[0].disk.names(SNAPSHOTS)
    write(c, 100)
    assert len(c.snapshots(0)) == 2


@STRATEGIES
def test_no_snapshot_of_a_term_before_the_term_is_saved(make, strategy):
    """Else a kill leaves a snapshot that knows a term whose vote is forgotten."""
    c = make(5, strategy=strategy)
    write(c, 1)
    slow = follower(c)
    write(c, 60 - 2 - c.states()[c.leader()]["last"])
    c.run_for(SECOND)
    assert len(c.snapshots(slow)) == 1
    c.stall(slow, 60 * SECOND)
    write(c, 1, node=c.leader())
    c.run_for(100 * MS)                         # a sync is under way: the next term waits for it
    before = c.snapshots(slow)
    c.kill(c.leader())
    assert c.run_until(lambda: c.leader() not in (-1, slow), 9 * SECOND)
    c.run_for(SECOND)
    assert c.states()[slow]["applied"] == 60, "of the next term, and a snapshot is due"
    assert c.states()[slow]["term"] == 1, "which is not saved"
    assert c.snapshots(slow) == before
    c.kill(slow)
    c.boot(slow)
    assert c.states()[slow]["term"] == 1


@pytest.mark.parametrize("nth", [2, 3, 4])
def test_one_that_the_disk_does_not_return_is_left_out(make, nth):
    c = make(1)
    write(c, 200)
    before = c.items(0)
    c.stop(0)
    newest = c.snapshots(0)[-1]
    c.nodes[0].disk.fail("read", nth, errno.EIO)    # the first is that of `meta`
    c.boot(0)
    assert agree(c) == before
    assert newest not in c.snapshots(0)
    write(c, 100)


def test_without_any_snapshot_a_node_alone_refuses(make):
    c = make(1)
    write(c, 200)
    c.stop(0)
    names = c.nodes[0].disk.names(SNAPSHOTS)
    for name in names:
        c.nodes[0].disk.flip(f"{SNAPSHOTS}/{name}", 8 * 4100)
    with pytest.raises(CorruptionError, match="nothing was changed"):
        c.boot(0)
    assert c.nodes[0].disk.names(SNAPSHOTS) == names
    for name in names:                      # the disk is well again
        c.nodes[0].disk.flip(f"{SNAPSHOTS}/{name}", 8 * 4100)
    c.boot(0)
    agree(c)


@pytest.mark.parametrize("lost", ["log", "snapshot"])
def test_what_was_there_is_missed(make, lost):
    """One of the two is not enough where the other held more."""
    c = make(1)
    write(c, 205)
    c.stop(0)
    for name in c.nodes[0].disk.names(f"{PATH}/{lost}"):
        c.nodes[0].disk.remove(f"{PATH}/{lost}/{name}")
    with pytest.raises(CorruptionError, match="nothing was changed"):
        c.boot(0)


@STRATEGIES
def test_a_follower_whose_entries_are_gone_gets_the_snapshot(make, strategy):
    c = make(strategy=strategy)
    node = left_behind(c)
    c.boot(node)
    agree(c)
    assert c.nodes[node].turn.transfer.installed >= 1
    assert c.first(node) > 1
    write(c, 10, node=node)
    c.kill(node)
    c.boot(node)                            # from what was installed
    agree(c)


def test_a_log_that_does_not_lead_to_the_snapshot_begins_anew(make):
    """A node that died when a snapshot had its name, and the log was still the old one: longer than
    the snapshot, but of another term."""
    c = make()
    old = c.leader()
    for i in range(3):
        if i != old:
            c.cut(old, i)
    for i in range(300):
        c.put(old, b"never", b"%d" % i)
    assert c.run_until(lambda: c.leader() != old, 5 * SECOND)
    leader = c.leader()
    write(c, 70, node=leader)
    c.run_for(SECOND)
    term = c.states()[leader]["term"]
    asked = views.build_frame(VOTE, 0, term, struct.pack("<QQ", 0, 0))
    assert c.receive(old, leader, asked) is None        # so it knows of the term
    c.run_for(SECOND)
    c.kill(old)
    name = c.snapshots(leader)[-1]
    assert int(name[:16], 16) < 300
    c.nodes[old].disk.put(f"{SNAPSHOTS}/{name}",
                          c.nodes[leader].disk.read(f"{SNAPSHOTS}/{name}"))
    c.heal()
    c.boot(old)
    assert any("does not lead to the snapshot" in note for note in c.nodes[old].turn.notes)
    assert b"never" not in agree(c)


@pytest.mark.parametrize("who", ["follower", "leader"])
def test_a_transfer_goes_on_where_it_stopped(make, who):
    """Whichever side is started again."""
    c = make()
    leader, (node, third) = c.leader(), [i for i in range(3) if i != c.leader()]
    c.kill(node)
    for i in range(3):
        put = c.put(leader, b"large%d" % i, random.Random(i).randbytes(600_000))
        assert c.run_until(lambda put=put: put.status == 0, 10 * SECOND)
    write(c, 60, node=leader)
    c.run_for(SECOND)
    assert c.first(leader) > 10
    c.kill(third)                           # so that nobody else can lead
    c.boot(node)
    got = 0
    for _ in range(3):
        had = received(c, node)
        assert c.run_until(lambda had=had: received(c, node) > had, 20 * SECOND)
        victim = node if who == "follower" else leader
        got += received(c, node) if victim == node else 0
        c.kill(victim)
        c.boot(victim)
    c.boot(third)
    agree(c)
    assert c.nodes[node].turn.transfer.installed == 1
    size = len(c.nodes[node].disk.read(f"{SNAPSHOTS}/{c.snapshots(node)[0]}"))
    assert size > 1_800_000
    assert size * 0.99 <= got + received(c, node) <= 1.1 * size


def test_a_transfer_ends_although_the_leader_takes_new_snapshots_faster(make):
    """Else a slow connection would never bring one. The log that comes after it waits."""
    c = make()
    node, leader = follower(c), c.leader()
    c.kill(node)
    for i in range(6):
        put = c.put(leader, b"large%d" % i, random.Random(i).randbytes(600_000))
        assert c.run_until(lambda put=put: put.status == 0, 10 * SECOND)
    write(c, 60, node=leader)
    c.run_for(SECOND)
    c.boot(node)
    assert c.run_until(lambda: received(c, node), 10 * SECOND)
    before = c.nodes[leader].turn.checkpoint.taken
    c.delay_us = 40 * MS
    for n in range(200):
        puts = [c.put(leader, b"k%d" % i, b"%d" % n) for i in range(40)]
        assert c.run_until(lambda puts=puts: all(p.status == 0 for p in puts), 10 * SECOND)
        if c.nodes[node].turn.transfer.installed:
            break
    assert c.nodes[leader].turn.checkpoint.taken > before + 2
    assert c.nodes[node].turn.transfer.installed == 1
    agree(c)
    assert c.nodes[node].turn.transfer.installed == 1
    assert received(c, node) < 1.1 * 6 * 600_000


def test_a_transfer_begins_anew_where_the_next_leader_has_another_file(make):
    c = make()
    node, leader = follower(c), c.leader()
    c.kill(node)
    for i in range(3):
        put = c.put(leader, b"large%d" % i, random.Random(i).randbytes(600_000))
        assert c.run_until(lambda put=put: put.status == 0, 10 * SECOND)
    write(c, 60, node=leader)
    c.run_for(SECOND)
    c.boot(node)
    assert c.run_until(lambda: received(c, node), 10 * SECOND)
    c.ask_transfer(leader)
    agree(c)
    assert c.nodes[node].turn.transfer.installed == 1


def test_an_offer_that_comes_late_puts_no_node_back(make):
    """All of the snapshot lies there, and the log has brought more meanwhile."""
    c = make()
    node, leader, offers = left_behind(c), c.leader(), []

    def spy(_, to, data):
        while data and to == node:
            _, kind, _, _, body, used = views.check_frame(data)
            if kind == OFFER:
                offers.append((data[:used], body))
            data = data[used:]

    c.spy = spy
    c.boot(node)
    assert c.run_until(lambda: offers, 10 * SECOND)
    offer, body = offers[0]
    index = struct.unpack_from("<Q", body)[0]
    file = c.nodes[leader].disk.read(f"{SNAPSHOTS}/{index:016x}.snap")
    agree(c)
    c.nodes[node].disk.leave(f"{SNAPSHOTS}/{index:016x}.snap.part", file)
    assert c.receive(node, leader, offer) is None
    c.run_for(SECOND)
    write(c, 20, node=leader)
    agree(c)
    assert c.nodes[node].turn.transfer.installed == 1


def received(c, i):
    return c.nodes[i].turn.transfer.received


def test_parts_of_other_snapshots_go(make):
    c = make()
    node = follower(c)
    c.kill(node)
    for name in ("0000000000000003.snap.part", "00000000000003e8.snap.part"):
        c.nodes[node].disk.put(f"{SNAPSHOTS}/{name}", b"x" * 5000)
    write(c, 200, node=c.leader())
    c.boot(node)
    agree(c)
    assert not [n for n in c.nodes[node].disk.names(SNAPSHOTS) if n.endswith(".part")]


def test_pieces_are_spread_out_while_there_are_writes():
    idle = [(us, 7) for us in (1000, 1100, 1200)]
    busy = [(1300, 8), (3600, 9), (3700, 10), (6190, 11), (6200, 12)]
    assert views.served(idle + busy) == [True, True, True, False, False, True, False, True]


def test_a_piece_that_does_not_come_is_asked_for_ever_more_seldom(tmp_path):
    """A slow connection would bring each as often as it was asked for."""
    seconds = [n for n in range(70) if views.asked(bytes(tmp_path), [0, *range(0, 70 * SECOND,
                                                                            SECOND)])[n + 1]]
    assert seconds == [1, 3, 7, 15, 31, 61]


def test_a_node_alone_keeps_no_log_for_others(make):
    c = make(1, snapshot_keep_bytes=1 << 30)
    write(c, 200)
    c.run_for(SECOND)
    write(c, 1)
    assert c.first(0) > 1


def test_a_part_that_was_never_synced_is_synced_before_it_counts(make):
    """All had arrived when the process was killed: nothing more is written to the file."""
    c = make()
    node, leader = follower(c), c.leader()
    c.kill(node)
    write(c, 200, node=leader)
    c.run_for(SECOND)
    name = c.snapshots(leader)[-1]
    c.nodes[node].disk.leave(f"{SNAPSHOTS}/{name}.part",
                             c.nodes[leader].disk.read(f"{SNAPSHOTS}/{name}"))
    c.boot(node)
    assert c.run_until(lambda: c.nodes[node].turn.transfer.installed, 20 * SECOND)
    assert c.nodes[node].turn.transfer.received == 0
    c.kill(node, True)
    c.boot(node)
    assert not c.states()[node]["recovering"]
    agree(c)


def test_a_part_that_cannot_be_written_is_told_and_tried_again(make):
    c = make()
    node = left_behind(c)
    c.boot(node)
    c.fail(node, "open", 1)
    assert c.run_until(lambda: any("could not be written" in n for n in c.nodes[node].turn.notes),
                       5 * SECOND)
    agree(c)


def test_a_damaged_part_is_fetched_again(make):
    c = make()
    node = left_behind(c)
    c.run_for(SECOND)
    c.at(c.now_us + 1, lambda: c.boot(node))

    def part():
        return [n for n in c.nodes[node].disk.names(SNAPSHOTS) if n.endswith(".part")]

    assert c.run_until(lambda: part() and c.nodes[node].turn.transfer.received, 20 * SECOND)
    c.nodes[node].disk.flip(f"{SNAPSHOTS}/{part()[0]}", 8 * 4200)
    assert c.run_until(lambda: not part(), 5 * SECOND), "it is of no use"
    assert not c.nodes[node].turn.transfer.installed
    assert c.run_until(lambda: c.nodes[node].turn.transfer.installed, 60 * SECOND)
    size = len(c.nodes[node].disk.read(f"{SNAPSHOTS}/{c.snapshots(node)[0]}"))
    assert c.nodes[node].turn.transfer.received > 1.5 * size
    agree(c)


def test_an_installed_snapshot_that_is_lost_is_missed(make):
    """Before anything else was written: nothing but its name tells of it."""
    c = make()
    node = follower(c)
    c.stop(node)                            # the hard state knows what was there
    write(c, 200, node=c.leader())
    c.boot(node)
    assert c.run_until(lambda: c.nodes[node].turn.transfer.installed, 20 * SECOND)
    c.kill(node)
    for name in c.snapshots(node):
        c.damage_snapshot(node, name, 8 * 4100, True)
    assert c.nodes[node].disk.names(f"{PATH}/log")      # of before, with marks that are true
    c.boot(node)
    assert c.states()[node]["recovering"]
    agree(c)


def test_a_node_that_lost_its_only_snapshot_is_in_doubt_and_gets_another(make):
    c = make()
    node = left_behind(c)
    c.boot(node)
    agree(c)
    c.stop(node)
    for name in c.snapshots(node):
        c.damage_snapshot(node, name, 8 * 4100, True)
    c.boot(node)
    assert c.states()[node]["recovering"]
    agree(c)
    assert not c.states()[node]["recovering"]
