"""How long turns last while a Store writes snapshots: a plot, and how much memory it takes.

One thread puts 20,000 times a second on keys in random order, and a snapshot begins after a quarter
of the time. A put of a Store is a turn in the thread that calls, so its duration is the turn's. The
plot has the longest one of each slice of time. What limits it: pages that are copied because the
snapshot still needs the old ones, and the interpreter, which the snapshot's thread takes for some
microseconds for each frame that it writes.
"""

import random
import sys
import threading
import time
from argparse import Namespace
from array import array
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
import dengine
from benchmarks.common import arguments, comma, console, machine, quantile, report, scratch
from benchmarks.store import anonymous_bytes

SLICES = 100                # of the plot, in columns
ROWS = 10
WORST_MS, MEMORY = 5.0, 0.25        # the goals
VALUE = b"v" * 64


def plot(starts: "array[float]", lasts: "array[float]", seconds: float,
         spans: list[tuple[float, float]]) -> str:
    """The longest turn of each slice of time, in rows of doubling length; `=`: a snapshot."""
    worst = [0.0] * SLICES
    for start, last in zip(starts, lasts, strict=True):
        i = min(SLICES - 1, int(start / seconds * SLICES))
        worst[i] = max(worst[i], last)
    lines = []
    for row in range(ROWS, -1, -1):
        least = 0.01 * 2**row               # ms
        lines.append(f"{least:9.2f} ms |" + "".join("#" if w >= least else " " for w in worst))
    under = "".join("=" if any(a <= (i + 0.5) * seconds / SLICES <= b for a, b in spans) else "-"
                    for i in range(SLICES))
    return "\n".join([*lines, f"{'':12} +{under}", f"{'':14}0 s{'':{SLICES - 12}}{seconds:6.1f} s"])


def one(options: Namespace, directory: Path, count: int) -> dict[str, Any]:
    rng = random.Random(1)
    base = anonymous_bytes()
    with dengine.open(directory / str(count), strategy="MemFirst") as store:
        with console.status(f"{count:,} keys"):
            for i in range(count):
                store[b"k%015d" % i] = VALUE
        before = anonymous_bytes()
        spans: list[tuple[float, float]] = []
        starts, lasts = array("d"), array("d")
        most = before
        began = time.perf_counter()

        def snapshot() -> None:
            begin = time.perf_counter() - began
            store.snapshot()
            spans.append((begin, time.perf_counter() - began))

        thread = threading.Thread(target=snapshot)
        n = 0
        while (now := time.perf_counter() - began) < options.seconds:
            if n == int(options.rate * options.seconds / 4):
                thread.start()
            if n / options.rate > now:
                time.sleep(n / options.rate - now)
            start = time.perf_counter()
            store[b"k%015d" % rng.randrange(count)] = VALUE
            lasts.append(1000 * (time.perf_counter() - start))
            starts.append(start - began)
            n += 1
            if n % 2000 == 0:
                most = max(most, anonymous_bytes())
        thread.join()
    took = spans[0][1] - spans[0][0]
    inside = sorted(ms for s, ms in zip(starts, lasts, strict=True) if spans[0][0] <= s)
    extra = (most - before) / (before - base)
    console.print(plot(starts, lasts, options.seconds, spans))
    ok = inside[-1] <= WORST_MS and extra <= MEMORY
    console.print(
        f"{count:,} keys: a snapshot took {took:.1f} s; {len(lasts) / options.seconds:,.0f} puts/s;"
        f" from its begin on p50 {1000 * quantile(inside, 0.5):.1f} µs, p99.9 "
        f"{quantile(inside, 0.999):.2f} ms, longest {inside[-1]:.2f} ms; memory +{100 * extra:.1f} "
        f"%: {'met' if ok else 'MISSED'} ({WORST_MS:g} ms, {100 * MEMORY:g} %)\n")
    return {"keys": count, "snapshot_s": took, "longest_ms": inside[-1], "memory": extra}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--keys", type=comma(int), default=[1_000_000, 5_000_000])
    parser.add_argument("--rate", type=float, default=20_000.0, help="puts a second")
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    figures = []
    with scratch(options) as directory:
        for count in options.keys:
            figures.append(one(options, directory, count))
    console.print(machine())
    report(options, figures)


if __name__ == "__main__":
    main()
