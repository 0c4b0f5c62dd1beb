"""A Store that writes for long: does a put cost more after many GiB of log than at the beginning?

One thread puts values of 256 B on 20,000 keys in MemFirst, while snapshots are taken and the log
behind them goes. The cost of the first 5 % is compared with the rest, a line for each 5 %. What
limits it: the disk, which must take all of the log. Then recovery: a log without snapshots is
opened again with nothing of it in the page cache, and compared with `cat` of the same files.
"""

import os
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
import dengine
from benchmarks.common import arguments, console, machine, report, scratch
from benchmarks.store import device_bytes
from dengine import config
from dengine.storage import Directory
from dengine.store import Store

KEYS = 20_000
VALUE = b"v" * 256
ENTRY = 328                 # bytes of such an entry in the log
SLICES = 20
CALLS = 1000                # between two looks at the clock
COST, TURN_MS, BEHIND_S = 1.5, 20.0, 3.0        # the goals


def write(store: dengine.Store, keys: list[bytes], count: int) -> tuple[float, float]:
    """(ns per put, longest ms of one)."""
    longest, clock = 0, time.perf_counter_ns
    began = last = clock()
    for n in range(count):
        store[keys[n % KEYS]] = VALUE
        now = clock()
        if now - last > longest:
            longest = now - last
        last = now
    return (last - began) / count, longest / 1e6


def sustained(options: Namespace, directory: Path) -> dict[str, Any]:
    keys = [b"k%07d" % i for i in range(KEYS)]
    count = int(options.gib * (1 << 30) / ENTRY / SLICES)
    costs, longest = [], 0.0
    device, began = device_bytes(directory), time.perf_counter()
    with dengine.open(directory / "long", strategy="MemFirst") as store:
        write(store, keys, KEYS)
        for n in range(SLICES):
            ns, worst = write(store, keys, count)
            costs.append(ns)
            longest = max(longest, worst)
            left = sum(f.stat().st_size for f in (directory / "long").rglob("*") if f.is_file())
            console.print(f"{(n + 1) * options.gib / SLICES:6.1f} GiB: {ns:7,.0f} ns a put, longest"
                          f" {worst:6.2f} ms, {left >> 20} MiB on disk")
    rate = (device_bytes(directory) - device) / (time.perf_counter() - began) / 1e6
    later = sum(costs[1:]) / len(costs[1:]) / costs[0]
    ok = later <= COST and longest <= TURN_MS
    console.print(f"{options.gib:g} GiB of log: {later:.2f} of the first cost, longest put "
                  f"{longest:.1f} ms, {rate:.0f} MB/s to the device: "
                  f"{'met' if ok else 'MISSED'} ({COST:g}, {TURN_MS:g} ms)")
    return {"gib": options.gib, "ns": costs, "ratio": later, "longest_ms": longest, "mb_s": rate}


def forget(directory: Path) -> None:
    """Nothing of its files stays in the page cache."""
    for file in directory.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def recovery(options: Namespace, directory: Path) -> dict[str, Any]:
    path = directory / "log"
    settings = config.single(str(path), strategy="MemFirst", overrides={
        "raft.snapshot.entries": 1 << 40, "raft.snapshot.bytes": 1 << 40})
    keys = [b"k%07d" % i for i in range(KEYS)]
    with console.status("writing the log"), Store(Directory(path), settings) as store:
        write(store, keys, int(options.recover_gib * (1 << 30) / ENTRY))
    reads, opens = [], []
    files = sorted(str(f) for f in (path / "log").iterdir())
    for _ in range(3):
        forget(path)
        began = time.perf_counter()
        subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, check=True)
        reads.append(time.perf_counter() - began)
        forget(path)
        began = time.perf_counter()
        Store(Directory(path), settings).close()
        opens.append(time.perf_counter() - began)
    cat, opened = sorted(reads)[1], sorted(opens)[1]
    verdict = "met" if opened - cat <= BEHIND_S else "MISSED"
    console.print(f"{options.recover_gib:g} GiB of log: cat {cat:.2f} s, open {opened:.2f} s: "
                  f"{verdict} (+{BEHIND_S:g} s)")
    return {"cat_s": cat, "open_s": opened}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--gib", type=float, default=10.0, help="of log to write")
    parser.add_argument("--recover-gib", type=float, default=1.0, help="of log to recover")
    options = parser.parse_args()
    with scratch(options) as directory:
        figures = [sustained(options, directory), recovery(options, directory)]
    console.print(machine())
    report(options, figures)


if __name__ == "__main__":
    main()
