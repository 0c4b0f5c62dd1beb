"""Three real processes: what a user is promised, seen from outside, kill -9 included.

DENGINE_CRASH_CYCLES (default 3) and DENGINE_SEED set how often and when all nodes are killed at
once under load.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.cluster import Answer, Cluster, eventually, put

IDS = (1, 2, 3)
FAILOVER_S = 2.0
DEADLINE_MS = 1000                          # of requests, where a test waits for one to pass
CYCLES = int(os.environ.get("DENGINE_CRASH_CYCLES", "3"))
SEED = int(os.environ.get("DENGINE_SEED", "1"))
WRITERS = 6


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as started:
        yield started
        started.print_logs()                # captured: shown only if the test failed


def code(answer: Answer) -> str:
    assert answer.headers["Content-Type"] == "application/problem+json", answer
    return str(answer.json["code"])


def put_until(cluster: Cluster, i: int, key: str, value: str, seconds: float) -> None:
    """Repeats a put at node i until it is acknowledged. A write caught by the leader's death may
    wait for its deadline, so each attempt is given up after half a second."""
    eventually(
        f"a write at node {i}", lambda: cluster.put(i, key, value, 0.5).status == 200, seconds
    )


def settle(cluster: Cluster) -> int:
    """Until one node is primary and all others are replicas; returns the primary."""
    leader = cluster.wait_leader()
    others = [i for i in IDS if i != leader]

    def followed() -> bool:
        return all(cluster.check(i, "/replica") == 200 for i in others)

    eventually(f"nodes {others} follow {leader}", followed, 3.0)
    return leader


def test_one_primary_and_two_replicas(cluster: Cluster) -> None:
    leader = settle(cluster)
    for i in IDS:
        assert (cluster.check(i, "/primary") == 200) == (i == leader)
        assert (cluster.check(i, "/replica") == 200) == (i != leader)
        assert cluster.check(i, "/ready") == 200
        health = cluster.health(i)
        assert health is not None
        assert health["leader"] == leader


def test_every_node_takes_writes_and_reads_them_everywhere_at_once(cluster: Cluster) -> None:
    revisions = []
    for i in IDS:
        answer = cluster.put(i, f"key{i}", f"value{i}")
        assert answer.status == 200
        revisions.append(answer.json["revision"])
        for j in IDS:
            for consistency in (None, "linearizable", "lease"):
                read = cluster.get(j, f"key{i}", consistency)
                assert (read.status, read.json) == (200, {"value": f"value{i}"})
                assert read.headers["ETag"] == f'"{revisions[-1]}"'
                assert int(read.headers["Dengine-Revision"]) >= revisions[-1]
        assert cluster.get(i, f"key{i}", "eventual").json == {"value": f"value{i}"}
    assert revisions == sorted(set(revisions))
    for i in IDS:
        deleted = cluster.delete(i, f"key{i}")
        assert (deleted.status, deleted.json["deleted"]) == (200, 1)
        assert {cluster.get(j, f"key{i}").status for j in IDS} == {404}


def test_writes_go_on_after_the_leader_was_killed(cluster: Cluster) -> None:
    leader = settle(cluster)
    assert cluster.put(leader, "before", "1").status == 200
    cluster.kill(leader)
    others = cluster.alive()
    with ThreadPoolExecutor() as pool:
        for done in [
            pool.submit(put_until, cluster, i, f"after{i}", "2", FAILOVER_S) for i in others
        ]:
            done.result()
    assert cluster.wait_leader() != leader
    for i in others:
        assert cluster.get(i, "before").json == {"value": "1"}

    cluster.restart(leader)
    cluster.wait_caught_up(leader)
    for key in ("before", *(f"after{i}" for i in others)):
        assert cluster.get(leader, key, "eventual").status == 200
    assert cluster.put(leader, "back", "3").status == 200


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_one_of_three_serves_only_eventual_reads(role: str, tmp_path: Path) -> None:
    with Cluster(tmp_path, settings={"http.request_timeout_ms": DEADLINE_MS}) as cluster:
        leader = settle(cluster)
        survivor = leader if role == "leader" else leader % 3 + 1
        dead = [i for i in IDS if i != survivor]
        assert cluster.put(survivor, "k", "v").status == 200
        cluster.kill(*dead)
        eventually("no primary", lambda: cluster.check(survivor, "/primary") == 503, 3.0)

        begin = time.monotonic()
        refused = cluster.put(survivor, "k", "lost")
        assert (refused.status, code(refused)) == (503, "not_proposed")
        assert "Retry-After" in refused.headers
        assert 0.9 * DEADLINE_MS / 1000 <= time.monotonic() - begin <= 2.0 * DEADLINE_MS / 1000
        assert cluster.get(survivor, "k", "linearizable").status == 503
        assert cluster.get(survivor, "k", "eventual").json == {"value": "v"}
        assert cluster.check(survivor, "/health") == 200

        cluster.restart(*dead)
        cluster.wait_leader()
        assert cluster.get(survivor, "k").json == {"value": "v"}


# ---------------------------------------------------------------- kill -9 of all, under load
class Load:
    """Writers that put new keys at all nodes; `acknowledged` holds the revision of each that was
    answered with 200. A value is its key."""

    def __init__(self, cluster: Cluster, prefix: str) -> None:
        self.acknowledged: dict[str, int] = {}
        self.end = Event()
        self.threads = [Thread(target=self._write, args=(cluster, f"{prefix}-{w}", w % 3 + 1))
                        for w in range(WRITERS)]

    def _write(self, cluster: Cluster, prefix: str, i: int) -> None:
        n = 0
        while not self.end.is_set():
            n += 1
            key = f"{prefix}-{n}"
            answer = cluster.put(i, key, key, 1.0)
            if answer.status == 200:
                self.acknowledged[key] = answer.json["revision"]

    def wait_for(self, goal: int) -> None:
        eventually(f"{goal} writes", lambda: len(self.acknowledged) >= goal, 60.0)

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end.set()
        for thread in self.threads:
            thread.join()


def lost(cluster: Cluster, written: dict[str, int]) -> list[str]:
    """The keys that are not as they were acknowledged, asked at all nodes in parallel."""

    def read(n: int, key: str, revision: int) -> bool:
        answer = cluster.get(n % 3 + 1, key)
        return (
            answer.status == 200
            and answer.json == {"value": key}
            and answer.headers["ETag"] == f'"{revision}"'
        )

    with ThreadPoolExecutor(WRITERS) as pool:
        kept = pool.map(read, range(len(written)), written.keys(), written.values())
        return [key for key, found in zip(written, kept, strict=True) if not found]


@pytest.mark.parametrize("strategy", ["MemFirst", "DiskFirst"])
def test_nothing_acknowledged_is_lost_when_all_are_killed(strategy: str, tmp_path: Path) -> None:
    seeded = random.Random(SEED)
    everything: dict[str, int] = {}
    small = {"raft.snapshot.entries": 300, "raft.snapshot.keep_bytes": 0,
             "log.segment_bytes": 1 << 20}
    with Cluster(tmp_path, strategy=strategy, settings=small) as cluster:
        for cycle in range(CYCLES):
            with Load(cluster, f"c{cycle}") as load:
                load.wait_for(seeded.randrange(20, 800))
                cluster.kill(*seeded.sample(IDS, 3))
            cluster.restart(*IDS)
            settle(cluster)
            assert lost(cluster, load.acknowledged) == [], f"cycle {cycle}, seed {SEED}"
            everything |= load.acknowledged
        assert lost(cluster, everything) == []
        assert len(set(everything.values())) == len(everything), "a revision was given twice"


# ---------------------------------------------------------------- starting and stopping
def test_sigterm_ends_each_node_cleanly(cluster: Cluster) -> None:
    assert cluster.put(1, "k", "v").status == 200
    assert [cluster.terminate(i) for i in IDS] == [0, 0, 0]
    cluster.restart(*IDS)
    cluster.wait_leader()
    assert cluster.get(1, "k").json == {"value": "v"}


def refused(cluster: Cluster, i: int) -> str:
    """Starts a second process on node i's configuration: it must end by itself, with an error.
    Returns what it said."""
    node = cluster.nodes[i]
    said = node.log.stat().st_size
    process = cluster.spawn(i)
    try:
        assert process.wait(10.0) not in (0, -signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    with node.log.open("rb") as log:
        log.seek(said)
        return log.read().decode()


def test_a_second_process_on_the_directory_is_refused_by_name(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    free = Cluster(node.directory / "other").nodes[1]       # other ports, the same directory
    node.config.write_text(
        node.config.read_text()
        .replace(str(node.http), str(free.http))
        .replace(str(node.health), str(free.health))
        .replace(str(node.raft), str(free.raft))
    )
    said = refused(cluster, 1)
    assert str(node.data) in said
    assert "Traceback" not in said
    assert cluster.put(1, "k", "v").status == 200


def test_a_taken_port_is_named(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    node.config.write_text(
        node.config.read_text().replace(str(node.data), str(node.directory / "other"))
    )
    said = refused(cluster, 1)
    assert any(str(port) in said for port in (node.http, node.health, node.raft))
    assert "Traceback" not in said
    assert put(node.http, "k", "v").status == 200
