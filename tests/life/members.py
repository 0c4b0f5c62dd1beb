"""A cluster's life: one node grows to three and to five, every node is replaced, five become three.

    python -m tests.life.members [--strategy DiskFirst] [--pause SECONDS]

All the time clients write through all nodes that are members, each write under a key of its own and
an Idempotency-Key; none may fail, be lost or be applied twice: at the end the revision of the store
is the number of writes. Exit status 1: something else.
"""
from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dengine.cli.member import change, members, wait_for_voter
from tests import proofs
from tests.cluster import Cluster
from tests.life.load import Clients
from tests.life.once import violations

CLIENTS = 16
WITHIN_S = 60.0             # one change
PAUSE_S = 1.0               # between two


class Life:
    """The changes, one after the other; `ports` are where clients may ask now."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.ports = [node.http for node in cluster.nodes.values()]
        self.changes = 0

    @property
    def health(self) -> str:
        return ",".join(f"http://127.0.0.1:{n.health}" for n in self.cluster.nodes.values()
                        if n.alive)

    def change(self, what: str, node: int, **more: object) -> None:
        change(what, self.health, WITHIN_S, id=node, **more)
        self.changes += 1
        print(f"{what} {node}", end="  ", file=sys.stderr, flush=True)

    def add(self, node: int) -> None:
        joining = self.cluster.join(node)
        joining.process = self.cluster.spawn(node)      # it waits for a cluster to join
        self.change("add", node, address=f"127.0.0.1:{joining.raft}", promote=1)
        wait_for_voter(node, self.health, WITHIN_S)
        self.ports.append(joining.http)

    def replace(self, node: int) -> None:
        """Its directory is lost; it comes back with an empty one."""
        self.ports.remove(self.cluster.nodes[node].http)
        code = self.cluster.terminate(node)
        assert code == 0, f"node {node} ended with {code}"
        shutil.rmtree(self.cluster.nodes[node].data)
        self.cluster.join(node)                         # its file may say to form one alone
        self.cluster.start(node)
        self.change("replace", node)
        wait_for_voter(node, self.health, WITHIN_S)
        self.ports.append(self.cluster.nodes[node].http)

    def remove(self, node: int) -> None:
        self.ports.remove(self.cluster.nodes[node].http)
        self.change("remove", node)
        process = self.cluster.nodes[node].process
        assert process is not None
        code = process.wait(WITHIN_S)
        assert code == 0, f"node {node} was removed and ended with {code}"


async def campaign(root: Path, strategy: str, pause_s: float) -> dict[str, Any]:
    with Cluster(root / "nodes", n=1, strategy=strategy,
                 settings={"raft.snapshot.entries": 20_000,
                           "raft.snapshot.keep_bytes": 1 << 20}) as cluster:
        life = Life(cluster)
        clients = Clients(CLIENTS, lambda: life.ports, keyed=True)
        begun = time.monotonic()
        clients.start()
        try:
            for what, node in [*[(life.add, n) for n in (2, 3, 4, 5)],
                               *[(life.replace, n) for n in (1, 2, 3, 4, 5)],
                               *[(life.remove, n) for n in (5, 4)]]:
                await asyncio.sleep(pause_s)
                await asyncio.to_thread(what, node)
            await asyncio.sleep(pause_s)
        finally:
            told = await clients.stop()
            print(file=sys.stderr)
        wrong, _ = await asyncio.to_thread(violations, cluster, told, nginx=False)
        leader = await asyncio.to_thread(cluster.wait_leader)
        rows = members(life.health, WITHIN_S)
        if [(row["id"], row["role"]) for row in rows] != [(n, "voter") for n in (1, 2, 3)]:
            wrong.append(f"the members are {rows}")
        return {"strategy": strategy, "changes": life.changes, "leader": leader,
                "acknowledged": len(told.revisions), "repeated": told.repeated,
                "seconds": round(time.monotonic() - begun), "violations": wrong}


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.life.members",
                                     description=__doc__.split("\n")[0])
    parser.add_argument("--strategy", choices=["MemFirst", "DiskFirst"], default="MemFirst")
    parser.add_argument("--pause", type=float, default=PAUSE_S, help="seconds between two changes")
    parser.add_argument("--evidence", type=Path, help="a file that the result is added to")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dengine-members-") as root:
        result = asyncio.run(campaign(Path(root), a.strategy, a.pause))
    proofs.note(a.evidence, result)
    return 1 if result["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
