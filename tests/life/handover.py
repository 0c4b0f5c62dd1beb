"""How long nobody's write is acknowledged when a leader is stopped, or dies.

    python -m tests.life.handover [--stops 200] [--kills 100]

Clients write through the two other nodes without a pause; the gap is the longest time between two
acknowledgements from just before the blow on. SIGTERM must end with status 0, and no write may
fail. Exit status 1: one did. The figures are the machine's, so they are reported, not judged.
"""
from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.common import quantile
from tests import proofs
from tests.cluster import Cluster
from tests.life.load import Clients, Told

CLIENTS = 16
KEYS = 1000                 # of each: a node that is started again has no growing store to load
BEFORE_S = 0.3              # of steady writes before each blow
AFTER_S = 0.7               # beyond the next leader's first second


def gap_ms(told: Told, since: float) -> float:
    times = [t for t in told.times if t >= since - BEFORE_S]
    return max(b - a for a, b in pairwise(times)) * 1000


async def blow(cluster: Cluster, clients: Clients, ports: list[int], how: str) -> float:
    """One leader less, and back again; the gap in ms."""
    leader = await asyncio.to_thread(cluster.wait_leader)
    ports[:] = [n.http for i, n in cluster.nodes.items() if i != leader]
    await asyncio.sleep(2 * BEFORE_S)
    clients.told.times.clear()
    await asyncio.sleep(BEFORE_S)
    begun = time.monotonic()
    if how == "SIGTERM":
        if status := await asyncio.to_thread(cluster.terminate, leader):
            clients.told.failed[f"exit status {status} after SIGTERM"] += 1
    else:
        await asyncio.to_thread(cluster.kill, leader)
    await asyncio.to_thread(cluster.wait_leader, 15.0, [leader])
    await asyncio.sleep(AFTER_S)
    gap = gap_ms(clients.told, begun)
    await asyncio.to_thread(cluster.start, leader)
    await asyncio.to_thread(cluster.wait_caught_up, leader)
    return gap


async def campaign(root: Path, strategy: str, how: str, blows: int) -> dict[str, Any]:
    gaps: list[float] = []
    with Cluster(root / "nodes", strategy=strategy) as cluster:
        ports = [n.http for n in cluster.nodes.values()]
        clients = Clients(CLIENTS, lambda: ports, keys=KEYS)
        clients.start()
        try:
            for n in range(blows):
                gaps.append(await blow(cluster, clients, ports, how))
                print(f"\r{how} {n + 1} of {blows}: {gaps[-1]:.0f} ms ", end="", file=sys.stderr)
        finally:
            told = await clients.stop()
    print(file=sys.stderr)
    ordered = sorted(gaps)
    return {"how": how, "strategy": strategy, "blows": blows, "writes": len(told.revisions),
            "gap ms": {name: round(quantile(ordered, q), 1) for name, q in (
                ("min", 0), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1))},
            "repeated": told.repeated, "own node died": len(told.doubtful),
            "violations": [f"{n} writes ended with {what}" for what, n in told.failed.items()]}


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.life.handover",
                                     description=__doc__.split("\n")[0])
    parser.add_argument("--stops", type=int, default=200, help="of leaders, by SIGTERM")
    parser.add_argument("--kills", type=int, default=100, help="of leaders, by kill -9")
    parser.add_argument("--strategy", choices=["MemFirst", "DiskFirst"], default="MemFirst")
    parser.add_argument("--evidence", type=Path, help="a file that the results are added to")
    a = parser.parse_args()
    wrong = False
    for how, blows in (("SIGTERM", a.stops), ("kill -9", a.kills)):
        if blows == 0:
            continue
        with tempfile.TemporaryDirectory(prefix="dengine-handover-") as root:
            result = asyncio.run(campaign(Path(root), a.strategy, how, blows))
        wrong |= bool(result["violations"])
        proofs.note(a.evidence, result)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
