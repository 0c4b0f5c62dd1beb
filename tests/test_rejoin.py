"""`dengine rejoin`: a node that lost its vote, with real processes."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dengine.cli import root
from dengine.examine import examine
from tests.cluster import Cluster, eventually

SETTLE_S = 5.0
ELECTION_S = 3.0        # more than two of the longest election time-outs
PAGE = 4096


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as started:
        yield started


def missing(meta: Path, _: bytes) -> None:
    meta.unlink()


def damaged(meta: Path, _: bytes) -> None:
    data = bytearray(meta.read_bytes())
    data[20] ^= 1
    data[PAGE + 20] ^= 1
    meta.write_bytes(data)


def older(meta: Path, before: bytes) -> None:
    meta.write_bytes(before)


def rejoin(cluster: Cluster, node: int, *others: int) -> Result:
    own = cluster.nodes[node]
    return CliRunner().invoke(root, [
        "rejoin", str(own.data), "--config-path", str(own.config), "--health",
        ",".join(f"127.0.0.1:{cluster.nodes[i].health}" for i in others)])


def put(cluster: Cluster, node: int, key: str) -> None:
    assert cluster.put(node, key, "v").status == 200


@pytest.mark.parametrize("damage", [missing, damaged, older], ids=lambda f: f.__name__)
def test_a_node_without_its_vote_comes_back(
        cluster: Cluster, damage: Callable[[Path, bytes], None]) -> None:
    leader = cluster.wait_leader()
    victim = next(i for i in (1, 2, 3) if i != leader)
    meta = cluster.nodes[victim].data / "meta"
    before = meta.read_bytes()
    put(cluster, leader, "a")
    cluster.kill(leader)                        # a later term, in every log
    now = cluster.wait_leader(other_than=[leader])
    put(cluster, now, "b")
    cluster.start(leader)
    cluster.wait_caught_up(leader)
    cluster.wait_caught_up(victim)
    assert cluster.terminate(victim) == 0
    damage(meta, before)
    process = cluster.nodes[victim].process = cluster.spawn(victim)
    assert process.wait(10) == 1
    assert "dengine rejoin" in cluster.nodes[victim].log.read_text()
    others = [i for i in (1, 2, 3) if i != victim]
    term = cluster.health(cluster.wait_leader())["term"]  # type: ignore[index]

    cluster.terminate(others[0])                # not all others can answer
    lost = meta.read_bytes() if meta.exists() else None
    assert rejoin(cluster, victim, *others).exit_code == 3
    assert rejoin(cluster, victim, others[1]).exit_code == 3
    assert (meta.read_bytes() if meta.exists() else None) == lost
    cluster.start(others[0])
    cluster.wait_leader()

    done = rejoin(cluster, victim, *others)
    assert done.exit_code == 0, done.output
    said = examine(str(cluster.nodes[victim].data)).meta
    assert said is not None
    assert (said["vote"], said["doubt"]) == (victim, 1)     # so it votes for nobody else in it
    assert said["term"] >= term
    cluster.start(victim)
    cluster.wait_caught_up(victim)
    eventually("it recovers", lambda: (cluster.health(victim) or {}).get("recovering") is False,
               SETTLE_S)
    health = cluster.health(victim)
    assert health is not None
    assert health["term"] >= term
    for key in "ab":
        assert cluster.get(victim, key, "eventual").status == 200
    leader = cluster.wait_leader()
    gone = next(i for i in others if i != leader) if leader == victim else leader
    cluster.kill(gone)                          # it counts again: two of three go on
    put(cluster, cluster.wait_leader(other_than=[gone]), "c")
    again = rejoin(cluster, gone, victim, next(i for i in others if i != gone))
    assert (again.exit_code, "needs nothing else" in again.output) == (0, True)


def test_an_older_copy_of_a_directory(cluster: Cluster, tmp_path: Path) -> None:
    """Put back beside nodes that know of a later start, it stops by itself: it forgot votes."""
    leader = cluster.wait_leader()
    victim, third = (i for i in (1, 2, 3) if i != leader)
    put(cluster, leader, "a")
    cluster.wait_caught_up(victim)
    assert cluster.terminate(victim) == 0
    data = cluster.nodes[victim].data
    older = tmp_path / "older"
    shutil.copytree(data, older)
    cluster.start(victim)
    put(cluster, victim, "b")
    assert cluster.terminate(victim) == 0
    shutil.rmtree(data)
    shutil.copytree(older, data)
    process = cluster.nodes[victim].process = cluster.spawn(victim)
    assert process.wait(10) == 1
    told = cluster.nodes[victim].log.read_text()
    assert "knows of a later start" in told
    assert "dengine rejoin" in told
    (data / "meta").rename(data / "meta.older")
    assert rejoin(cluster, victim, leader, third).exit_code == 0
    cluster.start(victim)
    cluster.wait_caught_up(victim)
    assert cluster.get(victim, "b", "eventual").status == 200


def test_until_it_has_caught_up_its_vote_helps_nobody(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    victim, third = (i for i in (1, 2, 3) if i != leader)
    put(cluster, leader, "a")
    cluster.wait_caught_up(victim)
    assert cluster.terminate(victim) == 0
    (cluster.nodes[victim].data / "meta").unlink()
    assert rejoin(cluster, victim, leader, third).exit_code == 0
    cluster.kill(leader, third)
    cluster.start(victim, third)
    with pytest.raises(AssertionError, match="a leader with its vote"):
        eventually("a leader with its vote", cluster.leader, ELECTION_S)
    cluster.start(leader)
    put(cluster, cluster.wait_leader(), "b")


def test_a_node_that_forgot_its_terms_is_no_witness(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    victim, wiped = (i for i in (1, 2, 3) if i != leader)
    put(cluster, leader, "a")
    cluster.wait_caught_up(victim)
    for node in (victim, wiped):
        assert cluster.terminate(node) == 0
    shutil.rmtree(cluster.nodes[wiped].data)
    cluster.start(wiped)
    meta = cluster.nodes[victim].data / "meta"
    meta.unlink()
    refused = rejoin(cluster, victim, leader, wiped)
    assert (refused.exit_code, "has no log" in refused.output) == (3, True)
    assert not meta.exists()


def test_of_another_cluster(cluster: Cluster, tmp_path: Path) -> None:
    leader = cluster.wait_leader()
    victim = next(i for i in (1, 2, 3) if i != leader)
    put(cluster, leader, "a")
    cluster.wait_caught_up(victim)
    assert cluster.terminate(victim) == 0
    meta = cluster.nodes[victim].data / "meta"
    meta.unlink()
    with Cluster(tmp_path / "other", settings={"cluster.name": "other"}) as other:
        own = cluster.nodes[victim]
        refused = CliRunner().invoke(root, [
            "rejoin", str(own.data), "--config-path", str(own.config), "--health",
            ",".join(f"127.0.0.1:{n.health}" for n in other.nodes.values())])
    assert refused.exit_code == 1
    assert "is of cluster" in refused.output
    assert not meta.exists()
