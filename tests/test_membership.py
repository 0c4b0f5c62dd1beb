"""Changes of the membership on real processes: a cluster's life in short, and the command line."""
from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import dengine
from dengine.cli import root
from dengine.errors import FormatError
from tests.cluster import Cluster, eventually
from tests.life import members

SETTLE_S = 20.0


def test_a_cluster_grows_is_renewed_and_shrinks_under_load(tmp_path: Path) -> None:
    result = asyncio.run(members.campaign(tmp_path, "MemFirst", 0.1))
    assert result["violations"] == []
    assert result["changes"] == 11
    assert result["acknowledged"]


def run(cluster: Cluster, *arguments: object) -> Result:
    health = ",".join(f"127.0.0.1:{n.health}" for n in cluster.nodes.values() if n.alive)
    return CliRunner().invoke(root, ["member", *map(str, arguments), "--health", health])


def roles(cluster: Cluster) -> dict[int, str]:
    said = run(cluster, "list", "--json")
    assert said.exit_code == 0, said.output
    return {row["id"]: row["role"] for row in json.loads(said.output)}


@pytest.mark.parametrize("strategy", ["MemFirst", "DiskFirst"])
def test_the_command_line(tmp_path: Path, strategy: str) -> None:
    with Cluster(tmp_path, strategy=strategy) as cluster:
        joining = cluster.join(4)
        joining.process = cluster.spawn(4)
        said = run(cluster, "add", 4, f"127.0.0.1:{joining.raft}")
        assert said.exit_code == 0, said.output
        assert roles(cluster) == {1: "voter", 2: "voter", 3: "voter", 4: "learner"}
        said = run(cluster, "promote", 4)
        assert (said.exit_code, said.output) == (0, "node 4 votes\n")
        again = run(cluster, "add", 4, f"127.0.0.1:{joining.raft}")
        assert (again.exit_code, "a member already" in again.output) == (1, True)
        leader = cluster.wait_leader()
        said = run(cluster, "remove", leader)
        assert (said.exit_code, said.output) == (0, f"node {leader} is removed\n")
        process = cluster.nodes[leader].process
        assert process is not None
        assert process.wait(SETTLE_S) == 0
        assert f"node {leader} was removed" in cluster.nodes[leader].log.read_text()
        assert set(roles(cluster)) == {1, 2, 3, 4} - {leader}
        assert "voter" in run(cluster, "list").output


def test_a_store_becomes_a_cluster(tmp_path: Path) -> None:
    """Its data is that of the cluster; then its directory is that of one node of several."""
    with Cluster(tmp_path, n=1) as cluster:
        cluster.stop()
        data = cluster.nodes[1].data
        for path in sorted(data.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        with dengine.open(data) as store:
            store["a"] = "of the store"
        cluster.start(1)
        for node in (2, 3):
            joining = cluster.join(node)
            joining.process = cluster.spawn(node)
            said = run(cluster, "add", node, f"127.0.0.1:{joining.raft}", "--promote")
            assert said.exit_code == 0, said.output
        assert cluster.get(3, "a").json == {"value": "of the store"}
        rows = json.loads(run(cluster, "list", "--json").output)
        assert [row["address"] for row in rows] == [
            f"127.0.0.1:{cluster.nodes[i].raft}" for i in (1, 2, 3)]
        cluster.kill(1)
        cluster.wait_leader(other_than=[1])
        eventually("two of three go on", lambda: cluster.put(2, "b", "2").status == 200, SETTLE_S)
        with pytest.raises(FormatError, match="which has the voters 1, 2, 3"):
            dengine.open(data)
