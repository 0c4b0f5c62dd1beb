"""Idempotency-Key over HTTP, through real nodes."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster import Answer, Cluster, request


def put(cluster: Cluster, node: int, key: str, value: str, **headers: str) -> Answer:
    own = {name.replace("_", "-"): text for name, text in headers.items()}
    return request(cluster.nodes[node].http, "PUT", f"/kv/{key}", value.encode(), own)


def test_one_request_changes_once(tmp_path: Path) -> None:
    """Through every node, at once and later, after the leader's death, after a restart of all."""
    small = {"raft.snapshot.entries": 50, "raft.snapshot.keep_bytes": 0}
    with Cluster(tmp_path, settings=small) as cluster:
        with ThreadPoolExecutor(9) as pool:
            answers = list(pool.map(
                lambda i: put(cluster, i % 3 + 1, "k", "v", Idempotency_Key="a"), range(9)))
        assert {a.status for a in answers} == {200}
        assert {a.json["revision"] for a in answers} == {1}
        created = {"Idempotency_Key": "b", "If_None_Match": "*"}
        assert put(cluster, 1, "new", "v", **created).json == {"revision": 2}
        assert put(cluster, 2, "new", "v", **created).json == {"revision": 2}, "no 412"
        assert put(cluster, 3, "new", "v", Idempotency_Key="c", If_None_Match="*").status == 412
        other = put(cluster, 3, "k", "another", Idempotency_Key="a")
        assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")
        leader = cluster.wait_leader()
        cluster.kill(leader)
        node = next(i for i in cluster.nodes if i != leader)
        assert put(cluster, node, "k", "v", Idempotency_Key="a").json == {"revision": 1}
        for i in range(120):
            assert cluster.put(node, f"more{i}", "v").status == 200
        cluster.start(leader)
        cluster.wait_caught_up(leader)
        for i in cluster.nodes:
            assert cluster.terminate(i) == 0
        cluster.start(*cluster.nodes)
        cluster.wait_leader()
        for i in cluster.nodes:
            assert put(cluster, i, "k", "v", Idempotency_Key="a").json == {"revision": 1}
            deleted = request(cluster.nodes[i].http, "DELETE", "/kv/k", None,
                              {"Idempotency-Key": "d"})
            assert deleted.json["deleted"] == 1
        assert cluster.get(1, "k").status == 404
