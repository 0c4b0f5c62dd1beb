"""Latency of embedded puts at half the highest rate, with snapshots running: an open loop.

Puts are due at fixed times, those of a millisecond at once, and a latency counts from when its put
was due: a stall is felt by all that it delays, not by one. The highest rate is that of 1,000 tasks
in a closed loop. Goals: p99.9 at most 10 times p50, no turn above 20 ms, snapshots taken meanwhile.
What limits it: three nodes and the load share this machine's cores, the load and the leader one
interpreter, and a burst of a millisecond is answered as a whole.
"""

import sys
from dataclasses import asdict
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from benchmarks.client import Load
from benchmarks.cluster import Embedded
from benchmarks.common import Figure, arguments, console, machine, report, scratch

TASKS = 1000
TIMES = 10
TURN_US = 20_000


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--part", type=float, default=0.5, help="of the highest rate")
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--value-bytes", type=int, default=256)
    parser.add_argument("--snapshots", type=int, default=300_000, help="entries between two")
    parser.add_argument("--strategy", default="MemFirst", choices=["MemFirst", "DiskFirst"])
    parser.add_argument("--loop", default="own", choices=["own", "current"])
    options = parser.parse_args()
    options.nodes = 3
    with (
        scratch(options) as directory,
        Embedded(directory, options, {"raft.snapshot.entries": options.snapshots}) as nodes,
    ):
        with console.status("the highest rate"):
            most = nodes.measure(Load("put", TASKS, 5.0, options.keys, options.value_bytes))
        load = Load("put", 0, options.seconds, options.keys, options.value_bytes,
                    most.rate * options.part)
        with console.status(f"{load.rate:,.0f} puts a second"):
            said = nodes.ask(load)
    figure, turn_us = Figure(**said["figure"]), said["longest_turn_us"]
    ratio = figure.p999_us / figure.p50_us
    met = (ratio <= TIMES and turn_us <= TURN_US and said["snapshots"] > 0
           and not figure.errors)
    console.print(
        f"{options.strategy}, {load.rate:,.0f} puts a second, {options.part:g} of "
        f"{most.rate:,.0f}, for {options.seconds:g} s; {said['snapshots']} snapshots meanwhile, "
        f"{figure.errors} errors",
        f"p50 {figure.p50_us / 1000:.2f} ms, p99 {figure.p99_us / 1000:.2f}, p99.9 "
        f"{figure.p999_us / 1000:.2f}, max {figure.max_us / 1000:.2f}; the leader's longest turn "
        f"{turn_us / 1000:.1f} ms",
        f"p99.9 is {ratio:.1f} times p50  {'met' if met else 'MISSED'}: {TIMES}, no turn above "
        f"{TURN_US / 1000:g} ms", machine(), sep="\n")
    report(options, [{"most": asdict(most), "rate": load.rate, **said}])


if __name__ == "__main__":
    main()
