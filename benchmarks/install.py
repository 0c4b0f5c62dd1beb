"""A follower that gets a snapshot of the leader: what it costs the leader's clients, and itself.

One of three nodes is away while 1 GiB is written, of which the log is compacted. Then puts at the
leader are measured, a slice at a time, first as they are, then while the follower fetches the
snapshot; no node takes one of its own then, for that is measured by benchmarks.snapshots. In a
second run it is killed three times on the way and goes on where it stopped. What limits it: three
nodes and the load share this machine's cores and one disk.
"""

import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from benchmarks.client import HOST, Load, drive, measure
from benchmarks.common import Figure, arguments, console, machine, report, scratch
from tests.cluster import Cluster, eventually, request

VALUE_BYTES = 4096
FILL_S = 600.0
INSTALL_S = 300.0
SLICE_S = 2.0
P99, SENT = 2.0, 1.1        # the goals: times the normal p99, times the snapshot's bytes
RECEIVED = "snapshot_bytes_received"


def big_puts(count: int) -> Iterator[bytes]:
    """Values that cannot be compressed."""
    for i in range(count):
        yield (f"PUT /kv/big{i:08d} HTTP/1.1\r\nHost: {HOST}\r\n"
               f"Content-Length: {VALUE_BYTES}\r\n\r\n").encode() + os.urandom(VALUE_BYTES)


def fill(cluster: Cluster, leader: int, options: Namespace) -> int:
    """Writes all of it; returns the bytes of the snapshot that the leader will send."""
    count = int(options.gib * (1 << 30) / VALUE_BYTES)
    with console.status(f"{count} values of {VALUE_BYTES} B"):
        figure = uvloop.run(drive(cluster.nodes[leader].http, 32, big_puts(count), FILL_S))
    if figure.errors or figure.requests < count:
        raise RuntimeError(f"{figure.requests} of {count} puts, {figure.errors} errors")
    for _ in range(2):                          # the two newest: no log is kept before them
        measure(cluster.nodes[leader].http, load(options))
        size = take_snapshot(cluster, leader)
    return size


def take_snapshot(cluster: Cluster, node: int) -> int:
    """Bytes of the file."""
    answer = request(cluster.nodes[node].health, "POST", "/admin/snapshot", timeout=FILL_S)
    if answer.status != 200:
        raise RuntimeError(f"no snapshot: {answer.status} {answer.body!r}")
    return max((cluster.nodes[node].data / "snapshot").glob("*.snap")).stat().st_size


def health(cluster: Cluster, node: int) -> dict[str, Any]:
    return dict(request(cluster.nodes[node].health, "GET", "/health").json)


def load(options: Namespace) -> Load:
    return Load("put", options.clients, SLICE_S, keys=2000)


def installing(cluster: Cluster, node: int) -> bool:
    return not cluster.metrics(node)["snapshots_installed"]


def undisturbed(cluster: Cluster, leader: int, away: int, options: Namespace) -> dict[str, Any]:
    port = cluster.nodes[leader].http
    normal = [measure(port, load(options)) for _ in range(options.slices)]
    cluster.start(away)
    began = time.monotonic()
    during: list[Figure] = []
    while installing(cluster, away):
        during.append(measure(port, load(options)))
    took = time.monotonic() - began
    if errors := sum(f.errors for f in [*normal, *during]):
        raise RuntimeError(f"{errors} puts failed")
    before, meanwhile = (median(f.p99_us for f in figures) for figures in (normal, during))
    rates = [median(f.rate for f in figures) for figures in (normal, during)]
    verdict = "met" if meanwhile <= P99 * before else "MISSED"
    console.print(f"install within {took:.0f} s: put p99 {before / 1000:.2f} ms, meanwhile "
                  f"{meanwhile / 1000:.2f} ms ({meanwhile / before:.2f}x, {verdict}: {P99:g}x); "
                  f"{rates[0]:,.0f} puts/s, meanwhile {rates[1]:,.0f}")
    return {"seconds": took, "p99_us": before, "p99_during_us": meanwhile, "rates": rates}


def interrupted(cluster: Cluster, away: int, size: int) -> dict[str, Any]:
    """Kills it at a quarter, half and three quarters of the way."""
    received, times = 0.0, 3
    cluster.start(away)
    for n in range(1, times + 1):
        def far(share: float = n / (times + 1), before: float = received) -> float:
            now = cluster.metrics(away)[RECEIVED]
            return now if before + now >= share * size else 0.0

        received += eventually("it gets on", far, INSTALL_S)
        cluster.kill(away)
        cluster.start(away)
    eventually("it is installed", lambda: not installing(cluster, away), INSTALL_S)
    received += cluster.metrics(away)[RECEIVED]
    verdict = "met" if received <= SENT * size else "MISSED"
    console.print(f"killed {times} times on the way: {received / 1e6:,.0f} MB received, a snapshot "
                  f"has {size / 1e6:,.0f} MB ({received / size:.3f}x, {verdict}: {SENT:g}x)")
    return {"received": received, "snapshot": size}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--slices", type=int, default=8, help="of 2 s, before the install")
    parser.add_argument("--strategy", choices=["MemFirst", "DiskFirst"], default="MemFirst")
    options = parser.parse_args()
    settings = {"raft.snapshot.keep_bytes": 0, "raft.snapshot.entries": 1 << 40}
    with (
        scratch(options) as directory,
        Cluster(directory / "nodes", strategy=options.strategy, settings=settings) as cluster,
    ):
        leader = cluster.wait_leader()
        first, second = (i for i in cluster.nodes if i != leader)
        cluster.kill(first)
        size = fill(cluster, leader, options)
        figures = [undisturbed(cluster, leader, first, options)]
        cluster.wait_caught_up(first, INSTALL_S)
        cluster.kill(second)
        away = health(cluster, leader)["last"]
        while health(cluster, leader)["first"] <= away:     # until no log reaches back so far
            measure(cluster.nodes[leader].http, load(options))
            size = take_snapshot(cluster, leader)
        figures.append(interrupted(cluster, second, size))
    console.print(machine())
    report(options, figures)


if __name__ == "__main__":
    main()
