"""A put that a follower forwards, against one that the leader takes itself: a closed loop.

Both in turns, A B A B, over HTTP; each node and the load share this machine's cores. The ratio of
the medians of p50 is what a client pays that does not know who leads. Goal: at most 1.5.
"""

import argparse
import sys
from pathlib import Path
from statistics import median

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from benchmarks import client
from benchmarks.client import Load
from benchmarks.common import Figure, arguments, console, machine, report, scratch, table
from tests.cluster import Cluster

GOAL = 1.5


def measured(options: argparse.Namespace, directory: Path) -> dict[str, list[Figure]]:
    load = Load("put", options.clients, options.seconds)
    rounds: dict[str, list[Figure]] = {"leader": [], "follower": []}
    with Cluster(directory, 3, options.strategy) as cluster:
        for _ in range(options.rounds):
            leader = cluster.wait_leader()
            follower = next(i for i in cluster.nodes if i != leader)
            for role, node in (("leader", leader), ("follower", follower)):
                rounds[role].append(client.measure(cluster.nodes[node].http, load))
    return rounds


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clients", type=int, default=64, help="connections")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--strategy", default="MemFirst", choices=["MemFirst", "DiskFirst"])
    options = parser.parse_args()
    with scratch(options) as directory:
        rounds = measured(options, directory)
    title = f"put, {options.clients} connections, {options.strategy}"
    shown = table(title, "-at", "ops/s", "p50 µs", "p99 µs", "max µs", "errors")
    for role, figures in rounds.items():
        f = Figure.merged(figures)
        shown.add_row(role, f"{f.rate:,.0f}", f"{f.p50_us:,.0f}", f"{f.p99_us:,.0f}",
                      f"{f.max_us:,.0f}", str(f.errors))
    ratios = [b.p50_us / a.p50_us for a, b in zip(*rounds.values(), strict=True)]
    verdict = "met" if median(ratios) <= GOAL else "MISSED"
    console.print(shown, machine(), sep="\n")
    console.print(f"p50 at a follower: {median(ratios):.2f} of the leader's "
                  f"({min(ratios):.2f}–{max(ratios):.2f})  {verdict}: {GOAL:g}")
    report(options, [{"at": role, "figures": [vars(f) for f in figures]}
                     for role, figures in rounds.items()])


if __name__ == "__main__":
    main()
