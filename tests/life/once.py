"""Exactly once: writes forwarded by followers while leaders are killed, and through Nginx.

    python -m tests.life.once [--writes 200000] [--kills 100] [--nginx]

Each write is a key of its own and takes a revision; so at the end the revision of the store is the
number of writes that were applied, and no two may have been told the same one. Without Nginx the
clients ask followers only: a leader's death must be invisible; a write whose own node died is
looked for at the end. Through Nginx every request must succeed. Exit status 1: something else.
"""
from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests import proofs
from tests.cluster import Cluster
from tests.life.load import Clients, Told
from tests.test_proxies import proxy

CLIENTS = 32
BETWEEN_S = 0.3             # from one leader's return to the death of the next


def violations(cluster: Cluster, told: Told, nginx: bool) -> tuple[list[str], int]:
    """What must not be; how many of the doubtful writes were applied."""
    wrong = [f"{n} writes ended with {what}" for what, n in told.failed.items()]
    leader = cluster.wait_leader()
    found = sum(cluster.get(leader, key).status == 200 for key in told.doubtful)
    if nginx and told.doubtful:
        wrong.append(f"{len(told.doubtful)} requests got no answer from Nginx")
    if len(set(told.revisions)) < len(told.revisions):
        wrong.append(f"{len(told.revisions) - len(set(told.revisions))} revisions were told twice")
    state = cluster.health(leader) or {}
    if state.get("revision") != len(told.revisions) + found:
        wrong.append(f"the store is at revision {state.get('revision')}, {len(told.revisions)} "
                     f"writes were acknowledged and {found} others applied")
    return wrong, found


async def kill_leaders(cluster: Cluster, followers: list[int], kills: int, writes: int,
                       told: Told) -> int:
    """Kills leaders until there were so many deaths and so many writes; how many died."""
    died = 0
    while died < kills or len(told.revisions) < writes:
        leader = await asyncio.to_thread(cluster.wait_leader)
        followers[:] = [n.http for i, n in cluster.nodes.items() if i != leader]
        await asyncio.sleep(BETWEEN_S)
        if await asyncio.to_thread(cluster.leader) != leader:
            continue
        await asyncio.to_thread(cluster.kill, leader)
        died += 1
        await asyncio.to_thread(cluster.wait_leader, 15.0, [leader])
        await asyncio.to_thread(cluster.start, leader)
        await asyncio.to_thread(cluster.wait_caught_up, leader)
        print(f"\r{died} leaders died, {len(told.revisions):,} writes, {told.repeated:,} repeated",
              end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return died


async def campaign(root: Path, strategy: str, writes: int, kills: int,
                   nginx: bool) -> dict[str, Any]:
    settings = {"raft.snapshot.entries": 20_000, "raft.snapshot.keep_bytes": 1 << 20}
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(root / "nodes", strategy=strategy,
                                              settings=settings))
        nodes = cluster.nodes.values()
        leader = cluster.wait_leader()
        ports = [n.http for i, n in cluster.nodes.items() if i != leader]
        if nginx:
            health = [n.health for n in nodes]
            front = stack.enter_context(proxy("nginx", [n.http for n in nodes] + health, root))
            ports = [front]
        clients = Clients(CLIENTS, lambda: ports)
        followers = [] if nginx else ports
        begun = time.monotonic()
        clients.start()
        try:
            died = await kill_leaders(cluster, followers, kills, writes, clients.told)
        finally:
            told = await clients.stop()
        wrong, found = await asyncio.to_thread(violations, cluster, told, nginx)
        return {"through": "nginx" if nginx else "followers", "strategy": strategy,
                "leaders killed": died, "acknowledged": len(told.revisions),
                "own node died": len(told.doubtful), "of these applied": found,
                "not proposed, repeated": told.repeated, "seconds": round(time.monotonic() - begun),
                "violations": wrong}


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.life.once",
                                     description=__doc__.split("\n")[0])
    parser.add_argument("--writes", type=int, default=200_000, help="at least so many")
    parser.add_argument("--kills", type=int, default=100, help="of leaders, at least so many")
    parser.add_argument("--strategy", choices=["MemFirst", "DiskFirst"], default="MemFirst")
    parser.add_argument("--nginx", action="store_true", help="through Nginx, with its keys")
    parser.add_argument("--evidence", type=Path, help="a file that the result is added to")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dengine-once-") as root:
        result = asyncio.run(campaign(Path(root), a.strategy, a.writes, a.kills, a.nginx))
    proofs.note(a.evidence, result)
    return 1 if result["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
