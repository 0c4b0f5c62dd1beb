"""What three idle nodes cost: processor time and resident memory of each, from /proc.

Idle means no client: heartbeats, ticks and the health port's listener remain. What limits it: the
kernel counts processor time in ticks of 10 ms, so ten seconds resolve 0.1 %.
"""

import os
import sys
import time
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from benchmarks.common import arguments, console, machine, report, scratch, table
from tests.cluster import Cluster

SETTLE_S = 2.0          # after the start: imports, the election and the first syncs are over
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Processor time, user and system, of all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--strategy", choices=["MemFirst", "DiskFirst"], default="MemFirst")
    options = parser.parse_args()
    shown = table(f"{options.nodes} idle nodes", "node", "-role", "CPU %", "resident MiB")
    figures = []
    with (
        scratch(options) as directory,
        Cluster(directory / "nodes", options.nodes, options.strategy) as cluster,
    ):
        time.sleep(SETTLE_S)
        leader = cluster.wait_leader()
        pids = {i: node.process.pid for i, node in cluster.nodes.items() if node.process}
        before, began = {i: cpu_s(pid) for i, pid in pids.items()}, time.monotonic()
        with console.status(f"{options.seconds:g} s without a client"):
            time.sleep(options.seconds)
        spent = time.monotonic() - began
        for i, pid in pids.items():
            role = "leader" if i == leader else "follower"
            percent, resident = 100 * (cpu_s(pid) - before[i]) / spent, resident_mib(pid)
            figures.append({"role": role, "cpu_percent": percent, "resident_mib": resident})
            shown.add_row(str(i), role, f"{percent:.2f}", f"{resident:.1f}")
    console.print(shown, machine(), sep="\n")
    report(options, figures)


if __name__ == "__main__":
    main()
