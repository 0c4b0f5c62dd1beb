"""The embedded Store against lmdb, one call at a time on one thread: nanoseconds per call.

Both are measured in turns, A B A B, in one run; medians, their ratio and its spread are printed.
MemFirst is compared with lmdb that does not sync, DiskFirst with lmdb that does; lmdb puts once per
transaction. lmdb reads twice: in a transaction for each get, which sees the newest value as a Store
does, and in one that stays open, which does not. What limits it: a Python loop around each call
(about 20 ns, in all of them); the processor's caches, for keys are read in random order (more
--keys: slower); and with DiskFirst the disk.
"""

import math
import os
import random
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import lmdb

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
import dengine
from benchmarks.common import arguments, console, machine, report, scratch, table
from dengine.config import Strategy

MAP_BYTES = 4 << 30             # of lmdb's sparse file
GOAL_NS = {("MemFirst", "put"): 2500.0, ("MemFirst", "get"): 250.0}
Calls = dict[str, Callable[[list[bytes]], object]]     # each calls once per key


@contextmanager
def dengine_calls(path: Path, strategy: Strategy, value: bytes) -> Iterator[Calls]:
    with dengine.open(path, strategy=strategy) as store:

        def put(keys: list[bytes]) -> None:
            for key in keys:
                store[key] = value

        def get(keys: list[bytes]) -> None:
            for key in keys:
                store[key]

        yield {"put": put, "get": get, "get, open transaction": get}


@contextmanager
def lmdb_calls(path: Path, strategy: Strategy, value: bytes) -> Iterator[Calls]:
    sync = strategy == "DiskFirst"
    with lmdb.open(str(path), map_size=MAP_BYTES, sync=sync, metasync=sync) as environment:

        def put(keys: list[bytes]) -> None:
            for key in keys:
                with environment.begin(write=True) as transaction:
                    transaction.put(key, value)

        def get(keys: list[bytes]) -> None:
            for key in keys:
                with environment.begin() as transaction:
                    transaction.get(key)

        def get_open(keys: list[bytes]) -> None:
            with environment.begin() as transaction:
                for key in keys:
                    transaction.get(key)

        yield {"put": put, "get": get, "get, open transaction": get_open}


def ns_per_call(call: Callable[[list[bytes]], object], keys: list[bytes], seconds: float) -> float:
    """Over whole slices of the keys, for at least `seconds`."""
    calls = 0
    size = max(1, len(keys) // 100)
    began = time.perf_counter_ns()
    while (spent := time.perf_counter_ns() - began) < seconds * 1e9:
        at = calls % len(keys)
        slice_ = keys[at : at + size]
        call(slice_)
        calls += len(slice_)
    return spent / calls


def anonymous_bytes() -> int:
    """Resident memory of this process but for mapped files."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def device_bytes(path: Path) -> float:
    """What the device below `path` was given, by anyone; NaN where there is none (tmpfs). The
    kernel's count per process is no use: it charges a whole large folio for each dirty block."""
    number = path.stat().st_dev
    try:
        stat = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat").read_text()
    except OSError:
        return math.nan
    return 512.0 * int(stat.split()[6])


def resources(options: Namespace, directory: Path, strategy: Strategy) -> dict[str, float]:
    """Memory per key, and what the device is given per put: with DiskFirst, per sync."""
    count = 100_000 if strategy == "MemFirst" else 1000
    keys = [f"r{i:07d}".encode() for i in range(count)]
    value = bytes(options.value_bytes)
    with dengine_calls(directory / "resources", strategy, value) as calls:
        memory, device = anonymous_bytes(), device_bytes(directory)
        calls["put"](keys)
        memory, device = anonymous_bytes() - memory, device_bytes(directory) - device
    if strategy == "DiskFirst":
        return {"device bytes per sync": device / count}
    return {"resident bytes per key": memory / count, "device bytes per put": device / count}


def compare(options: Namespace, directory: Path, strategy: Strategy) -> list[dict[str, Any]]:
    keys = [f"k{i:07d}".encode() for i in range(options.keys)]
    if strategy == "DiskFirst":
        keys = keys[:1000]
    value = bytes(options.value_bytes)
    samples: dict[str, list[tuple[float, float]]] = {}
    with (
        dengine_calls(directory / "dengine", strategy, value) as ours,
        lmdb_calls(directory / "lmdb", strategy, value) as theirs,
    ):
        for calls in (ours, theirs):
            calls["put"](keys)                  # each key exists before anything is measured
        random.Random(1).shuffle(keys)
        for turn in range(options.rounds):
            for op in ours:
                with console.status(f"{strategy}, {op}, round {turn + 1}"):
                    a, b = (ns_per_call(c[op], keys, options.seconds) for c in (ours, theirs))
                samples.setdefault(op, []).append((a, b))
    return [_row(strategy, op, pairs) for op, pairs in samples.items()]


def _row(strategy: Strategy, op: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    ratios = [b / a for a, b in pairs]
    mine, other = median(a for a, _ in pairs), median(b for _, b in pairs)
    goal = GOAL_NS.get((strategy, op))
    verdict = ""
    if goal:
        met = mine <= goal and other >= mine
        verdict = f"{'met' if met else 'MISSED'}: {goal:,.0f} ns, 1x"
    return {
        "strategy": strategy, "op": op, "dengine_ns": mine, "lmdb_ns": other,
        "ratio": median(ratios), "lowest": min(ratios), "highest": max(ratios), "goal": verdict,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken")
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--value-bytes", type=int, default=256)
    parser.add_argument("--strategy", choices=["MemFirst", "DiskFirst", "both"], default="both")
    options = parser.parse_args()
    both: list[Strategy] = ["MemFirst", "DiskFirst"]
    shown = table(
        f"Store and lmdb {lmdb.__version__}, values of {options.value_bytes} B, "
        f"{options.keys} keys of 8 B",
        "-strategy", "-operation", "dengine ns", "lmdb ns", "times as fast", "-goal",
    )
    figures: list[dict[str, Any]] = []
    notes = []
    for strategy in both if options.strategy == "both" else [options.strategy]:
        with scratch(options) as directory:
            used = resources(options, directory, strategy)
            rows = compare(options, directory, strategy)
        notes.append(f"{strategy}: " + ", ".join(f"{v:,.0f} {k}" for k, v in used.items()))
        figures += [*rows, {"strategy": strategy} | used]
        for r in rows:
            spread = f"{r['ratio']:.2f} ({r['lowest']:.2f}–{r['highest']:.2f})"
            shown.add_row(
                strategy, r["op"], f"{r['dengine_ns']:,.0f}", f"{r['lmdb_ns']:,.0f}", spread,
                r["goal"],
            )
            console.print(f"{strategy} {r['op']}: {r['dengine_ns']:,.0f} ns, {spread}")
    console.print(shown, *notes, machine(), sep="\n")
    report(options, figures)


if __name__ == "__main__":
    main()
