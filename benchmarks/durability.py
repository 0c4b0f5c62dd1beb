"""What durability costs three nodes: DiskFirst against MemFirst, and syncs per write of each.

Two clusters of embedded nodes, one of each strategy, are measured in turns, A B A B, while the
other one is idle; tasks in the leader's process put one after the other. Syncs are the leader's.
What limits it: all nodes share this machine's cores and one disk, which syncs for three.
"""

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from benchmarks.client import Load
from benchmarks.cluster import Embedded
from benchmarks.common import arguments, comma, console, machine, report, scratch, table

STRATEGIES = ("MemFirst", "DiskFirst")
GOALS = {100: 0.6}          # of MemFirst's rate, by tasks


def cluster(directory: Path, strategy: str) -> Embedded:
    return Embedded(directory / strategy, argparse.Namespace(
        nodes=3, strategy=strategy, loop="own"))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clients", type=comma(int), default=[1, 64, 100, 1000])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken")
    options = parser.parse_args()
    shown = table("Three embedded nodes, values of 256 B", "tasks", "MemFirst/s", "DiskFirst/s",
                  "ratio (spread)", "syncs per write, MemFirst", "DiskFirst", "-goal")
    figures: list[dict[str, Any]] = []
    with (
        scratch(options) as directory,
        cluster(directory, "MemFirst") as one,
        cluster(directory, "DiskFirst") as other,
    ):
        for clients in options.clients:
            load = Load("put", clients, options.seconds)
            rounds = []
            for turn in range(options.rounds):
                with console.status(f"{clients} tasks, round {turn + 1}"):
                    rounds.append([nodes.ask(load) for nodes in (one, other)])
            rates = [[r["figure"]["requests"] / r["figure"]["seconds"] for r in pair]
                     for pair in rounds]
            syncs = [median(pair[i]["syncs"] / pair[i]["commits"] for pair in rounds)
                     for i in range(2)]
            ratios = [b / a for a, b in rates]
            goal = GOALS.get(clients)
            verdict = "" if goal is None else (
                f"{'met' if median(ratios) >= goal else 'MISSED'} {goal:g}")
            shown.add_row(
                str(clients), *(f"{median(r[i] for r in rates):,.0f}" for i in range(2)),
                f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
                *(f"{s:.4f}" for s in syncs), verdict)
            figures.append({"clients": clients, "rates": rates, "syncs": syncs})
    console.print(shown, machine(), sep="\n")
    report(options, figures)


if __name__ == "__main__":
    main()
