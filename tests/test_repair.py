"""A node of a cluster whose log went bad: real processes, real files.

It starts with what is good, gets the rest again, and its vote helps nobody before that.
"""
from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dengine.examine import examine
from tests.cluster import Cluster, eventually

KEYS = 60
SETTLE_S = 5.0
ELECTION_S = 3.0        # more than two of the longest election time-outs
Damage = Callable[[Path, int], None]


@pytest.fixture(params=["MemFirst", "DiskFirst"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    persistence = {"raft.persistence.strategy": request.param}
    if request.param == "DiskFirst":
        persistence["raft.persistence.flush_policy"] = "Immediate"
    with Cluster(tmp_path, settings=persistence) as started:
        yield started
        started.print_logs()


def record_of(directory: Path, index: int) -> tuple[Path, int]:
    """File and offset of an entry."""
    found = examine(str(directory))
    for segment in found.live:
        if segment.first <= index <= segment.kept:
            for record in found.records(segment, index, index):
                if record["type"] == "record":
                    return directory / segment.name, int(record["offset"])
    raise AssertionError(f"entry {index} is not in {directory}")


def flipped(directory: Path, index: int) -> None:
    file, offset = record_of(directory, index)
    data = bytearray(file.read_bytes())
    data[offset + 33] ^= 1
    file.write_bytes(data)


def cut_short(directory: Path, index: int) -> None:
    file, offset = record_of(directory, index)
    file.write_bytes(file.read_bytes()[:offset])


def header_gone(directory: Path, _: int) -> None:
    for file in (directory / "log").glob("*.seg"):
        file.write_bytes(bytes(512) + file.read_bytes()[512:])


def log_gone(directory: Path, _: int) -> None:
    shutil.rmtree(directory / "log")


def write(cluster: Cluster, node: int, first: int, count: int) -> None:
    for n in range(first, first + count):
        assert cluster.put(node, f"k{n}", f"v{n}").status == 200


def holds_all(cluster: Cluster, node: int, count: int) -> bool:
    return all(cluster.get(node, f"k{n}", "eventual").status == 200 for n in range(count))


def is_well(cluster: Cluster, node: int) -> bool:
    health = cluster.health(node)
    return health is not None and not health["recovering"]


@pytest.mark.parametrize(("damage", "share"), [
    *((damage, share) for damage in (flipped, cut_short) for share in (0.0, 0.5, 1.0)),
    (header_gone, 0.0), (log_gone, 0.0)])
def test_a_damaged_node_gets_its_log_again(cluster: Cluster, damage: Damage, share: float) -> None:
    """`share`: how far into the log; the whole log where the damage has no place."""
    leader = cluster.wait_leader()
    victim = next(i for i in (1, 2, 3) if i != leader)
    write(cluster, leader, 0, KEYS)
    cluster.wait_caught_up(victim)
    assert cluster.terminate(victim) == 0
    last = examine(str(cluster.nodes[victim].data)).mark["index"]
    damage(cluster.nodes[victim].data, 1 + round(share * (last - 1)))
    write(cluster, leader, KEYS, 5)
    cluster.start(victim)
    cluster.wait_caught_up(victim)
    eventually("it recovers", lambda: is_well(cluster, victim), SETTLE_S)
    assert holds_all(cluster, victim, KEYS + 5)
    assert "comes from the leader again" in cluster.nodes[victim].log.read_text()
    kept = list((cluster.nodes[victim].data / "log").glob("*.seg.corrupt"))
    assert bool(kept) == (damage in (cut_short, header_gone)), "what no record is read from"
    cluster.kill(leader)                        # it counts again: two of three go on
    write(cluster, cluster.wait_leader(other_than=[leader]), 0, 3)
    cluster.start(leader)
    cluster.wait_caught_up(leader)
    assert cluster.terminate(victim) == 0       # and starts again like any other
    assert not examine(str(cluster.nodes[victim].data)).verdict
    cluster.start(victim)
    cluster.wait_caught_up(victim)
    assert holds_all(cluster, victim, KEYS + 5)


def test_the_only_other_holder_of_a_write_cannot_lose_it(cluster: Cluster) -> None:
    """Leader and one follower acknowledged; then that follower, damaged, and the third live."""
    leader = cluster.wait_leader()
    holder, third = (i for i in (1, 2, 3) if i != leader)
    write(cluster, leader, 0, KEYS)
    cluster.wait_caught_up(third)
    cluster.kill(third)
    write(cluster, leader, KEYS, 5)
    cluster.wait_caught_up(holder)
    assert cluster.terminate(holder) == 0
    cluster.kill(leader)
    flipped(cluster.nodes[holder].data, examine(str(cluster.nodes[holder].data)).mark["index"] - 3)
    cluster.start(holder, third)
    with pytest.raises(AssertionError, match="a leader that lacks the write"):
        eventually("a leader that lacks the write", cluster.leader, ELECTION_S)
    cluster.start(leader)
    cluster.wait_leader()
    for node in (1, 2, 3):
        cluster.wait_caught_up(node)
        assert holds_all(cluster, node, KEYS + 5)
    eventually("it recovers", lambda: is_well(cluster, holder), SETTLE_S)
