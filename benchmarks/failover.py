"""How long writes stop when the leader is killed: the distribution over many trials.

Each trial kills the leader of three healthy nodes with SIGKILL and puts through both others at once
until each acknowledged one. `any` is the first acknowledgement, `each` the second: what a client
sees that may try another node, and one that may not. What limits it: a reset connection shows the
death at once, so the promise (600 ms, less what had passed since the last heartbeat) and one
election decide; on one machine all nodes share its cores.
"""

import sys
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from benchmarks.common import arguments, console, machine, quantile, report, scratch
from tests.cluster import Cluster, eventually

GOAL_S = 2.0
LIMIT_S = 15.0          # a trial that takes longer ends the run
ATTEMPT_S = 0.25        # a write caught by the death waits for its deadline: ask again before
SETTLE_S = 1.0          # above the promise that a restarted node keeps before it votes
BAR = 50                # characters of the longest bar


def acknowledged(cluster: Cluster, i: int, key: str, began: float) -> float:
    """Seconds until node i acknowledged a put."""
    probe = lambda: cluster.put(i, key, "v", ATTEMPT_S).status == 200  # noqa: E731
    eventually(f"a write at node {i}", probe, LIMIT_S)
    return time.monotonic() - began


def trial(cluster: Cluster, number: int) -> tuple[float, float]:
    leader = cluster.wait_leader()
    others = [i for i in cluster.nodes if i != leader]
    time.sleep(SETTLE_S)
    with ThreadPoolExecutor() as pool:
        began = time.monotonic()
        cluster.kill(leader)
        waits = sorted(
            pool.map(lambda i: acknowledged(cluster, i, f"{number}-{i}", began), others)
        )
    cluster.restart(leader)
    cluster.wait_caught_up(leader)
    return waits[0], waits[-1]


def histogram(seconds: list[float]) -> str:
    """One line per 100 ms, from the first used to the last."""
    tenths = [int(s * 10) for s in seconds]
    most = max(tenths.count(t) for t in tenths)
    lines = []
    for tenth in range(min(tenths), max(tenths) + 1):
        count = tenths.count(tenth)
        lines.append(f"  {tenth * 100:5d} ms {'█' * (count * BAR // most):{BAR}s} {count}")
    return "\n".join(lines)


def summary(name: str, seconds: list[float]) -> str:
    ordered = sorted(seconds)
    numbers = (ordered[0], quantile(ordered, 0.5), quantile(ordered, 0.9), ordered[-1])
    least, p50, p90, most = (f"{s * 1000:.0f}" for s in numbers)
    return f"{name}: min {least}, p50 {p50}, p90 {p90}, max {most} ms"


def run(options: Namespace) -> list[tuple[float, float]]:
    trials: list[tuple[float, float]] = []
    with (
        scratch(options) as directory,
        Cluster(directory / "nodes", options.nodes, options.strategy) as cluster,
    ):
        for number in range(options.trials):
            trials.append(trial(cluster, number))
            first, last = trials[-1]
            console.print(f"[{number + 1}/{options.trials}] {first * 1e3:.0f} {last * 1e3:.0f} ms")
    return trials


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--strategy", choices=["MemFirst", "DiskFirst"], default="MemFirst")
    options = parser.parse_args()
    trials = run(options)
    first, last = ([t[i] for t in trials] for i in (0, 1))
    late = sum(s > GOAL_S for s in last)
    console.print(summary("any", first), histogram(first), summary("each", last), sep="\n")
    console.print(histogram(last))
    verdict = f"MISSED in {late}" if late else "met in each"
    console.print(f"goal {GOAL_S:g} s: {verdict} of {len(trials)} trials", machine(), sep="\n")
    report(options, [{"any_s": a, "each_s": b} for a, b in trials])


if __name__ == "__main__":
    main()
