"""How the cost grows: with clients, size of a value, nodes, and keys.

Clients, values and nodes: embedded puts and linearizable reads in MemFirst, a closed loop of tasks
in the leader's process; 100 tasks, 256 B and three nodes but for what is varied. Keys: one thread
on a Store, in random order. Goals: five nodes cost at most 1.5 times three, 10,000,000 keys at most
2.5 times 10,000. What limits it: all nodes and the load share this machine's cores, so more nodes
are also fewer cores for each; large values are bound by copies and the disk; with many keys each
step of the tree is a miss of the processor's caches.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
import dengine
from benchmarks.client import Load
from benchmarks.cluster import Embedded
from benchmarks.common import arguments, comma, console, machine, report, scratch, table

CLIENTS = [1, 4, 16, 64, 256, 1024]
VALUES = [16, 256, 4096, 65_536, 1_048_576]
NODES = [1, 3, 5]
KEYS = [1000, 10_000, 100_000, 1_000_000, 10_000_000]
TASKS, VALUE_BYTES = 100, 256
CALLS = 200_000                     # on a Store, for each number of keys
GOALS = {"nodes": (3, 5, 1.5), "keys": (10_000, 10_000_000, 2.5)}   # from, to, times as dear


def nodes(directory: Path, count: int) -> Embedded:
    return Embedded(directory, argparse.Namespace(nodes=count, strategy="MemFirst", loop="own"))


def loads(options: argparse.Namespace, varied: str, at: int) -> Iterator[Load]:
    clients = at if varied == "clients" else TASKS
    value = at if varied == "value bytes" else VALUE_BYTES
    keys = min(10_000, (64 << 20) // value)
    for op in ("put", "linearizable"):
        yield Load(op, clients, options.seconds, keys, value)


def of_cluster(options: argparse.Namespace, directory: Path, varied: str,
               values: list[int]) -> list[dict[str, Any]]:
    """A point for each operation at each value."""
    points = []
    for at in values if varied == "nodes" else [3]:
        with nodes(directory / f"{varied}{at}", at) as cluster:
            for value in [at] if varied == "nodes" else values:
                for load in loads(options, varied, value):
                    with console.status(f"{load.op}, {varied}: {value:,}"):
                        rate = median(cluster.measure(load).rate for _ in range(options.rounds))
                    points.append({"varied": varied, "at": value, "op": load.op,
                                   "ns": 1e9 / rate})
    return points


def of_store(directory: Path, values: list[int]) -> list[dict[str, Any]]:
    """One Store that grows."""
    points, value, draw = [], bytes(VALUE_BYTES // 4), random.Random(1)
    with dengine.open(directory / "keys", strategy="MemFirst") as store:
        there = 0
        for count in values:
            with console.status(f"{count:,} keys"):
                for i in range(there, count):
                    store[b"k%015d" % i] = value
                there = count
                keys = [b"k%015d" % draw.randrange(count) for _ in range(CALLS)]
                for op in ("put", "get"):
                    began = time.perf_counter_ns()
                    if op == "put":
                        for key in keys:
                            store[key] = value
                    else:
                        for key in keys:
                            store[key]
                    points.append({"varied": "keys", "at": count, "op": f"Store, {op}",
                                   "ns": (time.perf_counter_ns() - began) / CALLS})
    return points


def verdicts(points: list[dict[str, Any]]) -> Iterator[str]:
    ns = {(p["varied"], p["op"], p["at"]): p["ns"] for p in points}
    for varied, (few, many, most) in GOALS.items():
        for op in dict.fromkeys(p["op"] for p in points if p["varied"] == varied):
            if (varied, op, few) in ns and (varied, op, many) in ns:
                times = ns[varied, op, many] / ns[varied, op, few]
                yield (f"{op}: {many:,} {varied} cost {times:.2f} times {few:,}  "
                       f"{'met' if times <= most else 'MISSED'}: {most:g}")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clients", type=comma(int), default=CLIENTS)
    parser.add_argument("--value-bytes", type=comma(int), default=VALUES)
    parser.add_argument("--nodes", type=comma(int), default=NODES)
    parser.add_argument("--keys", type=comma(int), default=KEYS)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken")
    options = parser.parse_args()
    with scratch(options) as directory:
        points = [point for varied, values in (("clients", options.clients),
                                               ("value bytes", options.value_bytes),
                                               ("nodes", options.nodes))
                  for point in of_cluster(options, directory, varied, values)]
        points += of_store(directory, options.keys)
    shown = table("Growth of cost", "-varied", "-operation", "at", "per second", "ns")
    for p in points:
        shown.add_row(p["varied"], p["op"], f"{p['at']:,}", f"{1e9 / p['ns']:,.0f}",
                      f"{p['ns']:,.0f}")
    console.print(shown, *verdicts(points), machine(), sep="\n")
    report(options, points)


if __name__ == "__main__":
    main()
