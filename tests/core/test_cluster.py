"""Whole cores in one process: load and faults from a seed, then peace; all checked at each step.

A seed that fails is told by `python -m tests.sim --seed N --trace`.
"""
from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dengine._core import boot
from dengine._core.examine import SEGMENT_DATA
from dengine.errors import ConfigError, StorageError
from tests.core.clusters import done, followers
from tests.sim import history
from tests.sim.checks import Violation
from tests.sim.plan import Fault, Plan, plan
from tests.sim.run import PAGE, Run, run
from tests.sim.views import build_frame, check_frame

FOUND = Path(__file__).parents[1] / "sim" / "found"
MS = 1000
SECOND = 1_000_000
LINEARIZABLE, LEASE, EVENTUAL = 0, 1, 2
VOTED, READ, GRANTED = 3, 9, 10  # kinds of frames
POLICIES = (LINEARIZABLE, LEASE, EVENTUAL)
STRATEGIES = pytest.mark.parametrize("strategy", [0, 1], ids=["DiskFirst", "MemFirst"])


@pytest.mark.parametrize("path", sorted(FOUND.glob("*.json")), ids=lambda path: path.stem)
def test_plans_that_found_something(path):
    run(Plan.loads(path.read_text()))


@pytest.mark.parametrize("nodes", [1, 3, 5, 7])
@STRATEGIES
def test_random_runs(nodes, strategy):
    base = 10_000 + 1000 * nodes + 100 * strategy
    for seed in range(base, base + (12 if nodes == 3 else 5)):
        run(seed, nodes=nodes, strategy=strategy, load_ms=4000)


def test_equal_seeds_are_equal_runs():
    first, second = (run(99, nodes=3, load_ms=3000) for _ in range(2))
    assert first.cluster.digest == second.cluster.digest
    assert first.cluster.steps == second.cluster.steps
    assert run(98, nodes=3, load_ms=3000).cluster.digest != first.cluster.digest


def test_a_clock_beyond_the_bound_is_noticed():
    """Leases hold while clocks drift less than lease and promise differ; beyond, a check sees."""
    fast = 3_000_000                                # ppm: a follower's promise ends too early
    found = []
    for seed in range(40):
        p = plan(seed, nodes=3, load_ms=4000)
        p.drift_ppm, p.mangle, p.standing = 0, [0.0] * 4, "none"
        p.faults = [Fault(at, "isolate leader", -1, 0, 900) for at in range(1500, 4000, 1000)]
        current = Run(p)
        for node in range(3):
            current.cluster.set_clock(node, 1_000_000, fast * (node != 0))
        try:
            current()
        except Violation as wrong:
            found.append(str(wrong))
        finally:
            current.cluster.close()
    assert any("primary" in x or "stale" in x for x in found), found


# --------------------------------------------------------------------------------- named scenarios
def primary(cluster):
    states = enumerate(cluster.states())
    return [i for i, s in states if s and s["role"] == "leader" and s["lease_ms"]]


@STRATEGIES
def test_every_node_takes_writes_and_reads(make, strategy):
    c = make(strategy=strategy)
    puts = [c.put(i, b"k%d" % i, b"v%d" % i) for i in range(3)]
    assert done(c, *puts) == [0, 0, 0]
    asked = [(i, j, p) for i in range(3) for j in range(3) for p in (LINEARIZABLE, LEASE)]
    reads = [c.get(i, b"k%d" % j, p) for i, j, p in asked]
    done(c, *reads)
    assert [r.value for r in reads] == [b"v%d" % j for _, j, _ in asked]


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_cluster_is_formed_by_all_of_its_first_voters_only(make, missing):
    c = make(settle=False)
    c.start([i for i in range(3) if i != missing])
    c.run_for(10 * SECOND)
    assert c.leader() == -1
    assert c.checks.elections == 0
    c.boot(missing)
    assert c.run_until(c.settled, 3 * SECOND)


def test_a_directory_that_the_configuration_does_not_name_counts_for_nothing(make):
    """One voter lost its directory, one is down: no vote, no acknowledgement is enough."""
    c = make()
    leader, (wiped, down) = c.leader(), followers(c)
    for i in (wiped, down):
        c.kill(i)
    c.wipe(wiped)
    c.boot(wiped)
    write = c.put(leader, b"k", b"v", 3 * SECOND)
    assert done(c, write) in ([3], [4])
    c.run_for(10 * SECOND)
    assert primary(c) == []
    assert c.states()[wiped]["last"] == 0
    c.kill(leader)
    c.boot(leader)
    c.run_for(10 * SECOND)
    assert primary(c) == []
    c.boot(down)
    assert c.run_until(lambda: primary(c) != [], 3 * SECOND)
    assert done(c, c.put(down, b"k2", b"v2")) == [0]


def test_an_empty_node_beside_a_log_forms_no_cluster(make):
    c = make()
    wiped = followers(c)[0]
    c.kill(wiped)
    c.wipe(wiped)
    c.boot(wiped)
    c.run_for(5 * SECOND)
    assert c.states()[wiped]["connected"] != []
    assert c.states()[wiped]["role"] == "follower", "nobody has to vote for it"


@STRATEGIES
def test_a_formed_cluster_starts_with_a_majority(make, strategy):
    c = make(strategy=strategy)
    write = c.put(0, b"k", b"v")
    done(c, write)
    for i in range(3):
        c.kill(i)
    c.boot(1)
    c.boot(2)
    read = c.get(1, b"k", LINEARIZABLE)
    assert done(c, read) == [0]
    assert read.value == b"v"


def test_a_leader_that_is_killed_is_replaced_within_two_seconds(make):
    for seed in range(8):
        c = make(seed=seed)
        c.kill(c.leader())
        began = c.now_us
        c.run_for(50 * MS)  # what was sent to the dead leader has an unknown outcome
        write = c.put(next(i for i in range(3) if c.nodes[i].alive), b"k", b"v")
        assert done(c, write) == [0]
        assert c.now_us - began < 2 * SECOND


def test_no_leader_no_answer_but_an_eventual_one(make):
    c = make()
    one = followers(c)[0]
    for i in range(3):
        if i != one:
            c.kill(i)
    c.run_for(2 * SECOND)
    write = c.put(one, b"k", b"v", 1 * SECOND)
    reads = [c.get(one, b"k", policy, 1 * SECOND) for policy in POLICIES]
    assert done(c, write, *reads) == [3, 5, 5, 1]
    assert c.now_us < 10 * SECOND


def test_a_partitioned_leader_is_primary_no_longer_than_its_lease(make):
    c = make()
    old = c.leader()
    for i in followers(c):
        c.cut(old, i)
    c.run_for(520 * MS)
    assert primary(c) == []
    assert c.run_until(lambda: primary(c) not in ([], [old]), 2 * SECOND)
    stale = c.get(old, b"k", LEASE, 300 * MS)
    assert done(c, stale) == [5]


def test_a_node_without_the_leader_s_connection_disturbs_nobody(make):
    c = make()
    leader, (lost, _) = c.leader(), followers(c)
    c.cut(leader, lost)
    c.run_for(10 * SECOND)
    assert c.leader() == leader
    assert {s["term"] for s in c.states()} == {1}
    c.heal()
    assert c.run_until(c.settled, 3 * SECOND)


def test_a_rejoining_node_disturbs_nobody(make):
    c = make()
    leader, (lost, other) = c.leader(), followers(c)
    c.cut(leader, lost)
    c.cut(other, lost)
    c.run_for(20 * SECOND)
    c.heal()
    assert c.run_until(c.settled, 3 * SECOND)
    assert c.leader() == leader
    assert {s["term"] for s in c.states()} == {1}


def test_a_pause_does_not_end_in_an_election(make):
    """What lay in the socket is read before the clock is looked at."""
    for seed in range(10):
        c = make(seed=seed)
        slow = followers(c)[0]
        terms = {s["term"] for s in c.states()}
        for _ in range(3):
            c.pause(slow, 3 * SECOND)
            c.run_for(3 * SECOND - 1)
            for _ in range(300):
                c.step()
                assert c.states()[slow]["role"] == "follower", "not even a pre-vote"
        assert {s["term"] for s in c.states()} == terms


def test_a_node_with_a_stalled_disk_hands_over_by_stepping_down(make):
    c = make()
    slow = c.leader()
    c.stall(slow, 20 * SECOND)
    c.put(slow, b"k", b"v")
    assert c.run_until(lambda: c.leader() not in (-1, slow), 5 * SECOND)
    write = c.put(c.leader(), b"k2", b"v2")
    assert done(c, write) == [0]


def test_a_stalled_disk_stops_no_node(make):
    """Terms rise while nothing is saved: the hard state waits, no ring of jobs overflows."""
    c = make()
    slow, other = followers(c)
    c.run_for(SECOND)
    c.stall(slow, 60 * SECOND)
    c.kill(c.leader())
    c.run_for(2 * SECOND)
    for term in range(100, 200):
        assert c.receive(slow, other, build_frame(VOTED, 0, term, b"")) is None
        c.run_for(1 * MS)
    assert c.nodes[slow].turn.raft.term == 199
    assert c.states()[slow]["term"] < 100           # what is not saved is not told


@STRATEGIES
def test_no_entry_of_a_term_is_written_before_the_term_is_saved(make, strategy):
    """Else a kill leaves a log that knows a term whose vote is forgotten: it could vote again."""
    c = make(nodes=5, strategy=strategy)
    slow = followers(c)[0]
    done(c, c.put(slow, b"k", b"v"))
    c.stall(slow, 60 * SECOND)
    done(c, c.put(c.leader(), b"k", b"v"))
    c.run_for(100 * MS)  # a sync is under way: the next term has to wait for it
    before = c.states()[slow]["last"]
    c.kill(c.leader())
    assert c.run_until(lambda: primary(c) != [] and c.states()[slow]["last"] > before, 9 * SECOND)
    c.run_for(100 * MS)
    c.kill(slow)
    c.boot(slow)
    assert c.states()[slow]["term"] == 1
    assert c.states()[slow]["last"] <= before
    c.stall(slow, 0)
    c.boot(next(i for i in range(5) if not c.nodes[i].alive))
    assert c.run_until(c.settled, 5 * SECOND)


def test_at_rest_both_copies_of_the_hard_state_are_equal(make):
    c = make()
    c.run_for(100_000)                          # the save that follows the first commit
    for node in c.nodes:
        meta = node.disk.read("/node/meta")
        assert len(meta) == 2 * PAGE
        assert meta[:PAGE] == meta[PAGE:]


def test_a_failed_sync_of_a_start_is_doubt_at_the_next(make):
    """What the run before left unsynced may be gone, and the kernel tells it only once."""
    c = make()
    node = followers(c)[0]
    c.run_for(100_000)                          # no save is under way
    c.kill(node)
    c.nodes[node].disk.fail("sync", 2, errno.EIO)       # after the hard state: of the first segment
    with pytest.raises(StorageError, match="the log could not be synced"):
        c.boot(node)
    c.boot(node)
    assert c.states()[node]["recovering"]


def test_a_recovering_node_is_no_replica(make):
    """It follows and hears its leader; but whoever asks may be told less than was acknowledged."""
    c = make()
    node, other = followers(c)
    c.run_for(200 * MS)                         # no save is under way
    c.fail(node, "sync")
    c.put(other, b"k", b"v")
    assert c.run_until(lambda: not c.nodes[node].alive, SECOND)
    c.boot(node)
    c.stall(node, SECOND)                       # it hears of new entries, and cannot keep them
    c.put(other, b"k", b"w")
    c.run_for(500 * MS)
    state = c.states()[node]
    assert state["recovering"]
    assert state["leader"] == c.leader() + 1
    assert not boot.is_replica(c.nodes[node].turn)
    c.run_for(3 * SECOND)
    assert not c.states()[node]["recovering"]
    assert boot.is_replica(c.nodes[node].turn)


@pytest.mark.parametrize("wiped", [0, 1, 2])
def test_nodes_that_lost_their_logs_form_no_second_cluster(make, wiped):
    """Hard state knows that there was one; nodes without any cannot persuade it."""
    c = make()
    c.run_for(200 * MS)
    for node in range(3):
        c.stop(node)
        c.damage(node, 1, 1, 8 * SEGMENT_DATA)  # for the checks: nothing of it counts
        for name in c.nodes[node].disk.names("/node/log"):
            c.nodes[node].disk.remove(f"/node/log/{name}")
    for node in range(wiped):
        c.wipe(node)
    c.start()
    c.run_for(5 * SECOND)
    assert c.leader() == -1
    assert [s["last"] for s in c.states()] == [0, 0, 0]
    assert [s["formed"] for s in c.states()] == [False] * 3


def test_the_promise_is_the_cluster_s(make):
    """A follower's own file cannot shorten what the leader's lease relies on."""
    c = make()
    node = followers(c)[0]
    c.kill(node)
    c.nodes[node].setup.promise_ms -= 100
    with pytest.raises(ConfigError, match="the cluster was formed with 600"):
        c.boot(node)


@STRATEGIES
def test_a_node_that_missed_a_hundred_elections_catches_up(make, strategy):
    c = make(strategy=strategy, segment_bytes=1 << 20)
    late = followers(c)[0]
    c.kill(late)
    others = [i for i in range(3) if i != late]
    for _ in range(100):
        for i in others:
            c.kill(i)
        for i in others:
            c.boot(i)
        assert c.run_until(lambda: primary(c) != [], 20 * SECOND)
    c.boot(late)
    assert c.run_until(c.settled, 5 * SECOND)
    assert c.states()[late]["term"] > 64


@STRATEGIES
def test_catching_up_from_old_segments(make, strategy):
    """Entries that are in no map are read by the preparer."""
    c = make(strategy=strategy, segment_bytes=1 << 20)
    late = followers(c)[0]
    c.kill(late)
    for i in range(60):
        done(c, c.put(c.leader(), b"k%d" % (i % 5), b"%d" % i + b"." * 200_000))
    c.boot(late)
    assert c.run_until(c.settled, 10 * SECOND)
    history.check(c.commands(), c.clients, c.configs())


@STRATEGIES
def test_a_large_write_behind_a_thousand_small_ones(make, strategy):
    c = make(strategy=strategy)
    node = followers(c)[0]
    puts = [c.put(node, b"k%d" % i, b"%d" % i + b"." * 1000) for i in range(1030)]
    puts.append(c.put(node, b"large", b"x" * (1 << 20)))
    assert set(done(c, *puts)) == {0}


def test_a_single_node_reads_before_it_leads(make):
    c = make(nodes=1, settle=False)
    c.start()
    reads = [c.get(0, b"k", policy) for policy in POLICIES]
    assert done(c, *reads, within_us=SECOND) == [1, 1, 1]


@STRATEGIES
def test_an_entry_of_an_earlier_process_answers_nobody(make, strategy):
    """The log may hold entries with the session and the numbers that a new process uses."""
    c = make(nodes=1, strategy=strategy)
    assert done(c, c.put(0, b"k", b"old")) == [0]
    c.kill(0)
    c.boot(0)
    new = c.put(0, b"k", b"new")  # waits while the old one is applied again
    assert done(c, new) == [0]
    assert new.revision == 2


@pytest.mark.parametrize("again", [False, True], ids=["connected", "connected again"])
def test_a_read_index_goes_to_the_connection_that_asked(make, again):
    """A process that was started since counts its tickets from one again."""
    c = make()
    leader, node, granted = c.leader(), followers(c)[0], []

    def spy(sender, receiver, data):
        while data:
            _, kind, _, _, body, used = check_frame(data)
            if kind == GRANTED and (sender, receiver) == (leader, node):
                granted.append(body)
            data = data[used:]

    for i in followers(c):
        c.cut(leader, i, both=False)  # no round is confirmed
    c.spy = spy
    assert c.receive(leader, node, build_frame(READ, 0, 1, (77).to_bytes(8, "little"))) is None
    c.run_for(20 * MS)
    if again:
        c.disconnect(leader, node)
        c.run_for(50 * MS)
    c.heal(leader, node)  # the first to confirm is the one that asked
    assert c.run_until(lambda: node + 1 in c.states()[leader]["connected"], SECOND)
    c.run_for(200 * MS)
    assert c.leader() == leader
    assert len(granted) == (0 if again else 1)


def test_a_lease_read_waits_until_all_that_is_committed_is_applied(make):
    """A new leader has much to apply; a state of the past is not the answer."""
    c = make()
    old, others = c.leader(), followers(c)
    for i in others:
        c.cut(i, old, both=False)  # it hears of no acknowledgement
    for i in range(3000):
        c.put(old, b"k", b"%d" % i)
    c.run_for(100 * MS)
    c.kill(old)
    reads = []

    def applying():
        return [i for i in primary(c) if c.states()[i]["applied"] < c.states()[i]["commit"]]

    assert c.run_until(applying, 5 * SECOND)
    while applying():
        reads += [c.get(i, b"k", LEASE) for i in applying()]
        c.step()
    assert set(done(c, *reads)) == {0}
    assert {r.value for r in reads} == {b"2999"}


def test_a_leader_that_stepped_down_is_not_asked_in_a_loop(make):
    c = make()
    old, (one, _) = c.leader(), followers(c)
    c.stall(old, 10 * SECOND)
    done(c, c.put(old, b"k", b"v", 100 * MS))
    c.run_until(lambda: c.states()[old]["role"] != "leader", 5 * SECOND)
    before = c.frames
    c.put(one, b"k1", b"v1")
    c.get(one, b"k1", LINEARIZABLE)
    c.run_for(300 * MS)
    assert c.frames - before < 1000


def test_a_follower_of_no_leader_runs_no_endless_turns(make):
    c = make()
    old = c.leader()
    for i in followers(c):
        c.cut(old, i)
    c.run_for(3 * SECOND)
    before = c.states()[old]["counters"]["turns"]
    c.run_for(1 * SECOND)
    assert c.states()[old]["counters"]["turns"] - before < 300
