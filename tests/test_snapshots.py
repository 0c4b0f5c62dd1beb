"""Snapshots between real processes: a node that was away longer than the log reaches back."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dengine.examine import examine
from dengine.findings import Severity
from tests.cluster import Cluster, eventually

SETTLE_S = 20.0
VALUE = "v" * 2000
SETTINGS = {"log.segment_bytes": 1 << 20, "raft.snapshot.entries": 1000,
            "raft.snapshot.keep_bytes": 0}


@pytest.fixture(params=["MemFirst", "DiskFirst"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    settings = SETTINGS | {"raft.persistence.strategy": request.param}
    if request.param == "DiskFirst":
        settings["raft.persistence.flush_policy"] = "Immediate"
    with Cluster(tmp_path, settings=settings) as started:
        yield started
        started.print_logs()


def write(cluster: Cluster, node: int, count: int) -> None:
    for n in range(count):
        assert cluster.put(node, f"k{n % 50}", f"{n}{VALUE}").status == 200


def counters(cluster: Cluster, node: int) -> dict[str, int]:
    health = cluster.health(node)
    return {} if health is None else {**health["counters"], "first": health["first"]}


def test_a_node_that_was_away_too_long_gets_the_snapshot(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    away = next(n for n in (1, 2, 3) if n != leader)
    cluster.kill(away)
    write(cluster, leader, 3500)
    eventually("the log is compacted", lambda: counters(cluster, leader)["first"] > 1, SETTLE_S)
    assert cluster.put(leader, "k0", "last").status == 200
    cluster.start(away)
    eventually("the snapshot is installed",
               lambda: counters(cluster, away).get("snapshots_installed"), SETTLE_S)
    eventually("the rest came too", lambda: cluster.get(away, "k0", "eventual").json["value"]
               == "last", SETTLE_S)
    assert cluster.get(away, "k49", "linearizable").json["value"] == f"3499{VALUE}"
    assert cluster.put(away, "k1", "through it").status == 200
    cluster.kill(away)
    cluster.start(away)
    eventually("it starts from what it got",
               lambda: cluster.get(away, "k1", "eventual").json.get("value") == "through it",
               SETTLE_S)
    for node in (1, 2, 3):
        assert cluster.terminate(node) == 0
        found = examine(str(cluster.nodes[node].data))
        assert found.verdict == Severity.FINE, [f for f in found.findings if f.severity]
        assert found.base[0] > 1000
