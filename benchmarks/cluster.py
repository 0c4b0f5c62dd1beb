"""Throughput and latency of three nodes, as separate processes on loopback: a closed loop.

`--mode http`: before each figure a bare uvloop+httptools server (bare.py) is measured with the same
generator and connections, in turns A B A B; medians and their ratio are printed. Load goes to the
leader. `--mode embedded`: the clients are tasks in the leader's process (embedded.py); the median
of a lone put is taken over several process starts, for it differs from start to start.

What limits it: three nodes and the load share this machine's cores and one disk, so ratios within
a run mean more than figures. Values are --value-bytes long, keys 8 bytes.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from benchmarks import client
from benchmarks.children import Children
from benchmarks.client import Load
from benchmarks.common import Figure, arguments, comma, console, machine, report, scratch, table
from tests.cluster import Cluster, eventually, free_ports, request

OPS = ("put", "linearizable", "lease", "eventual")
CLIENTS = {"http": [1, 64, 256], "embedded": [1, 100]}
START_S = 20.0
STOP_S = 10.0
# What a run is judged by: of HTTP the ratio to the bare server, embedded operations per second.
GOALS = {
    ("http", "put", 64): 0.25,
    ("http", "eventual", 64): 0.75,
    ("embedded", "put", 100): 60_000.0,
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    mode: str
    op: str
    clients: int
    figure: Figure
    bare_rate: float = 0.0
    ratios: tuple[float, ...] = ()

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def verdict(self) -> str:
        goal = GOALS.get((self.mode, self.op, self.clients))
        if goal is None:
            return ""
        got = self.ratio if self.mode == "http" else self.figure.rate
        return f"{'met' if got >= goal else 'MISSED'}: {goal:,g}"

    def cells(self) -> list[str]:
        f = self.figure
        times = [f"{t:,.1f}" for t in (f.p50_us, f.p99_us, f.max_us)]
        cells = [self.op, str(self.clients), f"{f.rate:,.0f}", *times, str(f.errors)]
        if self.mode == "http":
            spread = f"{self.ratio:.2f} ({min(self.ratios):.2f}–{max(self.ratios):.2f})"
            return [*cells, f"{self.bare_rate:,.0f}", spread, self.verdict]
        return [*cells, f"{1e9 / f.rate:,.0f}", self.verdict]

    def __str__(self) -> str:
        f = self.figure
        ratio = f", {self.ratio:.2f} of bare" if self.mode == "http" else ""
        return (
            f"{self.op:12} {self.clients:4} clients {f.rate:10,.0f}/s{ratio}, "
            f"p50 {f.p50_us:,.1f} µs, p99 {f.p99_us:,.1f} µs {self.verdict}"
        )


def show(title: str, rows: list[Row], mode: str) -> None:
    extra = ["bare/s", "ratio (spread)"] if mode == "http" else ["ns/call"]
    shown = table(
        title, "-operation", "clients", "ops/s", "p50 µs", "p99 µs", "max µs", "errors", *extra,
        "-goal",
    )
    for row in rows:
        shown.add_row(*row.cells())
    console.print(shown, machine(), sep="\n")


# ---------------------------------------------------------------- http
@contextmanager
def bare_server() -> Iterator[int]:
    (port,) = free_ports(1)
    script = Path(__file__).with_name("bare.py")
    command = [sys.executable, str(script), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        eventually("the bare server", lambda: request(port, "GET", "/").status, START_S)
        yield port
    finally:
        process.kill()
        process.wait()


def over_http(options: argparse.Namespace, directory: Path) -> list[Row]:
    rows = []
    with (
        Cluster(directory, options.nodes, options.strategy) as cluster,
        bare_server() as bare,
    ):
        leader = cluster.nodes[cluster.wait_leader()]
        load = Load("put", 64, options.seconds, options.keys, options.value_bytes)
        with console.status(f"{options.keys} keys are put once"):
            client.preload(leader.http, load)
        for op in options.op:
            for clients in options.clients:
                load = Load(op, clients, options.seconds, options.keys, options.value_bytes)
                pairs = []
                for turn in range(options.rounds):
                    with console.status(f"{op}, {clients} clients, round {turn + 1}"):
                        leader = cluster.nodes[cluster.wait_leader()]
                        pairs.append(
                            (client.measure(bare, load), client.measure(leader.http, load))
                        )
                rows.append(_compared(op, clients, pairs))
                console.print(str(rows[-1]))
        console.print(longest(cluster.metrics(cluster.wait_leader())))
    return rows


def longest(leader: dict[str, float]) -> str:
    """What the leader itself counted over the whole run."""
    turn, sync = (leader[f"longest_{name}_us"] / 1000 for name in ("turn", "sync"))
    syncs = leader["syncs"]
    return (
        f"leader: longest turn {turn:,.1f} ms; {syncs:,.0f} syncs, the longest {sync:,.1f} ms, "
        f"{leader['log_bytes_written'] / max(1.0, syncs):,.0f} bytes of log per sync"
    )


def _compared(op: str, clients: int, pairs: list[tuple[Figure, Figure]]) -> Row:
    bare = median(a.rate for a, _ in pairs)
    ratios = tuple(b.rate / a.rate for a, b in pairs)
    return Row("http", op, clients, Figure.merged([b for _, b in pairs]), bare, ratios)


# ---------------------------------------------------------------- embedded
class Embedded(Children):
    """Processes that each hold one Engine (embedded.py)."""

    def __init__(self, directory: Path, options: argparse.Namespace,
                 settings: Mapping[str, object] | None = None) -> None:
        nodes = Cluster(directory, options.nodes, options.strategy, settings).nodes
        script = str(Path(__file__).with_name("embedded.py"))
        super().__init__({i: [sys.executable, script, str(node.config), options.loop]
                          for i, node in nodes.items()}, directory)


def embedded(options: argparse.Namespace, directory: Path) -> list[Row]:
    rows = []
    with Embedded(directory / "first", options) as processes:
        for op in options.op:
            for clients in options.clients if op != "eventual" else [1]:
                load = Load(op, clients, options.seconds, options.keys, options.value_bytes)
                with console.status(f"{op}, {clients} tasks"):
                    figures = [processes.measure(load) for _ in range(options.rounds)]
                rows.append(Row("embedded", op, clients, Figure.merged(figures)))
                console.print(str(rows[-1]))
    if "put" in options.op:
        lone_put(options, directory)
    return rows


def lone_put(options: argparse.Namespace, directory: Path) -> None:
    """The median of one task's puts, in each of several process starts."""
    medians = []
    for start in range(options.starts):
        with (
            console.status(f"start {start + 1} of {options.starts}"),
            Embedded(directory / f"start{start}", options) as processes,
        ):
            load = Load("put", 1, 1.0, options.keys, options.value_bytes)
            medians.append(processes.measure(load).p50_us)
    texts = ", ".join(f"{m:.1f}" for m in sorted(medians))
    console.print(f"p50 of a lone put in {options.starts} process starts: {texts} µs")


def main() -> None:
    parser = arguments(__doc__)
    add = parser.add_argument
    add("--mode", choices=["embedded", "http"], default="http")
    add("--nodes", type=int, default=3)
    add("--clients", type=comma(int), help="default: http 1,64,256, embedded 1,100")
    add("--op", type=comma(str), default=list(OPS), help="of " + ",".join(OPS))
    add("--seconds", type=float, default=3.0, help="of each measurement")
    add("--rounds", type=int, default=3, help="measurements of which the median is taken")
    add("--starts", type=int, default=5, help="process starts for the lone put, embedded")
    add("--loop", choices=["own", "current"], default="own", help="of the engine, embedded")
    add("--strategy", choices=["MemFirst", "DiskFirst"], default="MemFirst")
    add("--keys", type=int, default=10_000)
    add("--value-bytes", type=int, default=256)
    options = parser.parse_args()
    options.clients = options.clients or CLIENTS[options.mode]
    if unknown := set(options.op) - set(OPS):
        parser.error(f"--op {','.join(unknown)}: choose from {','.join(OPS)}")

    began = time.monotonic()
    with scratch(options) as directory:
        rows = (embedded if options.mode == "embedded" else over_http)(options, directory)
    by = f", by {client.name()}" if options.mode == "http" else ""
    show(
        f"{options.nodes} nodes, {options.mode}, {options.strategy}, values of "
        f"{options.value_bytes} B{by}; {time.monotonic() - began:.0f} s",
        rows, options.mode,
    )
    report(options, [asdict(row) | {"per_second": row.figure.rate} for row in rows])


if __name__ == "__main__":
    main()
