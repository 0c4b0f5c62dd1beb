"""The lead is handed over between real nodes: by hand, by SIGTERM, by an engine that closes."""
from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import dengine
from dengine.cli import root
from dengine.errors import RequestError, UnavailableError
from tests.cluster import Cluster, request
from tests.engines import Loop, leader_of, others, run, three, until

STEP_S = 0.5            # to wait for what takes some milliseconds


class Writer(threading.Thread):
    """Writes through one node, one after another, until it is stopped."""

    def __init__(self, cluster: Cluster, node: int) -> None:
        super().__init__()
        self.cluster, self.node = cluster, node
        self.statuses: list[int] = []
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            key = f"{self.node}/{len(self.statuses)}"
            self.statuses.append(self.cluster.put(self.node, key, "v").status)

    def stop(self) -> list[int]:
        self.enough.set()
        self.join()
        return self.statuses


def healths(cluster: Cluster) -> str:
    return ",".join(f"127.0.0.1:{node.health}" for node in cluster.nodes.values())


def transfer(cluster: Cluster, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(root, ["transfer", "--health", healths(cluster), *arguments])
    return done.exit_code, done.output


def test_the_lead_goes_round(tmp_path: Path) -> None:
    """By command, under load at every node: no write fails, and each has its own revision."""
    with Cluster(tmp_path) as cluster:
        writers = [Writer(cluster, i) for i in cluster.nodes]
        for writer in writers:
            writer.start()
        for _ in range(2):
            for node in cluster.nodes:
                if node != cluster.wait_leader():
                    assert transfer(cluster, "--to", str(node)) == (0, f"node {node} leads\n")
                    assert cluster.wait_leader(STEP_S) == node
        before = cluster.wait_leader()
        code, said = transfer(cluster)
        assert (code, said) == (0, f"node {cluster.wait_leader(STEP_S, [before])} leads\n")
        statuses = [status for writer in writers for status in writer.stop()]
        assert set(statuses) == {200}
        state = cluster.health(cluster.wait_leader())
        assert state is not None
        assert state["revision"] == len(statuses)


def test_what_cannot_be_handed_over_is_refused(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        leader = cluster.wait_leader()
        code, said = transfer(cluster, "--to", "9")
        assert (code, "node 9 is no voter" in said) == (1, True)
        follower = next(i for i in cluster.nodes if i != leader)
        answer = request(cluster.nodes[follower].health, "POST", "/admin/transfer")
        assert (answer.status, answer.json["code"]) == (503, "not_transferred")
        assert f"ask node {leader}" in answer.json["detail"]
        for i in cluster.nodes:
            if i != leader:
                cluster.kill(i)
        code, said = transfer(cluster)
        assert code == 3, said
        code, said = transfer(cluster, "--health", "127.0.0.1:1")
        assert (code, "none of the nodes" in said) == (3, True)


def test_a_leader_that_is_stopped_hands_over(tmp_path: Path) -> None:
    """SIGTERM: another leads before the process has ended, and no write elsewhere fails."""
    with Cluster(tmp_path) as cluster:
        leader = cluster.wait_leader()
        term = cluster.health(leader)["term"]       # type: ignore[index]
        writers = [Writer(cluster, i) for i in cluster.nodes if i != leader]
        for writer in writers:
            writer.start()
        begun = time.monotonic()
        assert cluster.terminate(leader) == 0
        took = time.monotonic() - begun
        successor = cluster.leader()
        assert successor is not None, "it leads already"
        assert cluster.health(successor)["term"] == term + 1    # type: ignore[index]
        assert {status for writer in writers for status in writer.stop()} == {200}
        assert took < 5


@pytest.mark.parametrize("loop", ["own", "current"])
def test_an_engine_hands_over(tmp_path: Path, loop: Loop) -> None:
    async def main() -> None:
        async with three(tmp_path, loop) as engines:
            leader, (a, b) = others(engines)
            assert await leader.transfer(a.config.cluster.node_id) == a.config.cluster.node_id
            assert await until("a leads", lambda: leader_of(engines)) is a
            with pytest.raises(UnavailableError, match="does not lead"):
                await b.transfer()
            with pytest.raises(RequestError, match="no voter"):
                await a.transfer(7)
            put = asyncio.ensure_future(b.put("k", "v"))
            await a.close()
            assert await put == 1
            await until("another leads", lambda: leader_of([b, leader]))
            assert b.status()["term"] >= 3

    run(main())


def test_one_node_has_nobody_to_hand_over_to(tmp_path: Path) -> None:
    async def main() -> None:
        async with dengine.Engine.open(tmp_path / "n") as engine:
            await engine.wait_leader()
            with pytest.raises(UnavailableError, match="no other voter"):
                await engine.transfer()
            assert await engine.put("k", "v") == 1

    run(main())
