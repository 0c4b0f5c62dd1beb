"""Three nodes against others' three nodes, and against the bare server: one row for each goal.

Both sides of a row are measured in turns, A B A B, with the same keys, values and connections; the
median of the rounds' ratios is judged, their spread is printed. Durability is equal where the row
says nothing else: etcd syncs each write as DiskFirst does. HTTP is driven by wrk, gRPC by grpc.py,
PySyncObj and embedded nodes by tasks inside the leader's process. What limits it: all nodes and the
load share this machine's cores and one disk; the side that is not measured is idle, but not gone.
d-engine's figures are those it published for a machine of this class: they were not measured here.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from benchmarks import client, etcd
from benchmarks.children import Children
from benchmarks.client import Load
from benchmarks.cluster import Embedded, bare_server
from benchmarks.common import Figure, arguments, comma, console, machine, report, scratch, table
from tests.cluster import Cluster, free_ports

Run = Callable[[Load], Figure]
# (operation, connections) -> times as fast as the other
ETCD = {("put", 1): 3.0, ("put", 64): 4.0, ("put", 256): 3.0, ("linearizable", 64): 4.0}
BARE = {("put", 64): 0.45, ("put", 256): 0.50}
BARE_GET = {("eventual", 64): 0.90}
# Operations a second: d-engine 0.2.5, embedded, acknowledged from the memory of processes.
PUBLISHED = {("put", 1): 1_830, ("put", 100): 25_700, ("linearizable", 100): 187_000}
D_ENGINE = {("put", 100): 150_000 / 25_700, ("linearizable", 100): 1.8, ("linearizable", 1000): 2.5}


@dataclass
class Row:
    """One kind of work on both sides, a figure of each for every round."""

    peer: str
    work: str
    clients: int
    goal: float | None = None
    ours: list[Figure] = field(default_factory=list)
    theirs: list[Figure] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        return [a.rate / b.rate for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def verdict(self) -> str:
        if errors := sum(f.errors for f in (*self.ours, *self.theirs)):
            return f"{errors} errors"
        if self.goal is None:
            return ""
        return f"{'met' if median(self.ratios) >= self.goal else 'MISSED'}: {self.goal:.3g}"

    def cells(self) -> list[str]:
        a, b = Figure.merged(self.ours), Figure.merged(self.theirs)
        r = self.ratios
        return [self.peer, self.work, str(self.clients), f"{a.rate:,.0f}", f"{b.rate:,.0f}",
                f"{median(r):.3g} ({min(r):.3g}–{max(r):.3g})", both_ms(a.p50_us, b.p50_us),
                self.verdict]


def both_ms(*us: float) -> str:
    return " / ".join("–" if math.isnan(n) else f"{n / 1000:.3g}" for n in us)


class Bench:
    """Measures rows and keeps them."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self.options = options
        self.directory = directory
        self.rows: list[Row] = []

    def place(self, name: str) -> Path:
        made = self.directory / name
        made.mkdir()
        return made

    def compare(self, peer: str, ours: Run, theirs: Run, op: str, clients: int,
                goal: float | None = None, their_op: str = "", work: str = "") -> None:
        o = self.options
        row = Row(peer, work or op, clients, goal)
        for turn in range(o.rounds):
            for run, which, figures in ((theirs, their_op or op, row.theirs),
                                        (ours, op, row.ours)):
                with console.status(f"{peer}, {op}, {clients}, round {turn + 1}"):
                    figures.append(run(Load(which, clients, o.seconds, o.keys, o.value_bytes)))
        self.rows.append(row)
        console.print(*row.cells()[:6], row.verdict, sep="  ")


def over_http(port: int) -> Run:
    return lambda load: client.measure(port, load)


def against_etcd(b: Bench) -> None:
    place = b.place("etcd")
    with Cluster(place / "dengine", 3, "DiskFirst") as cluster, etcd.etcd(place) as port:
        ours = over_http(cluster.nodes[cluster.wait_leader()].http)
        client.preload(cluster.nodes[cluster.wait_leader()].http,
                       Load("put", 64, 60, b.options.keys, b.options.value_bytes))
        etcd.native(port, Load("put", 64, 4 * b.options.keys / 4000, b.options.keys,
                               b.options.value_bytes))
        for clients in (1, 64, 256):
            b.compare("etcd, gRPC", ours, lambda load: etcd.native(port, load), "put", clients,
                      ETCD.get(("put", clients)))
        b.compare("etcd, gRPC", ours, lambda load: etcd.native(port, load), "linearizable", 64,
                  ETCD["linearizable", 64])
        b.compare("etcd, gRPC", ours, lambda load: etcd.native(port, load), "eventual", 64,
                  their_op="serializable")
        for op, clients in (("put", 64), ("put", 256), ("linearizable", 64)):
            b.compare("etcd, JSON", ours, lambda load: etcd.gateway(port, load), op, clients)


def against_bare(b: Bench) -> None:
    with Cluster(b.place("bare"), 3, "MemFirst") as cluster, bare_server() as port:
        leader = cluster.nodes[cluster.wait_leader()].http
        client.preload(leader, Load("put", 64, 60, b.options.keys, b.options.value_bytes))
        for (op, clients), goal in {**BARE, **BARE_GET}.items():
            b.compare("bare server", over_http(leader), over_http(port), op, clients, goal)


def against_pysyncobj(b: Bench) -> None:
    place = b.place("pysyncobj")
    script = str(Path(__file__).with_name("pysyncobj_node.py"))
    addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
    commands = {i: [sys.executable, script, str(i), *addresses] for i in range(3)}
    options = argparse.Namespace(nodes=3, strategy="MemFirst", loop="own")
    with Embedded(place, options) as ours, Children(commands, place) as theirs:
        for clients in (1, 1000):
            b.compare("PySyncObj", ours.measure, theirs.measure, "put", clients,
                      work="put")


def against_d_engine(b: Bench) -> None:
    options = argparse.Namespace(nodes=3, strategy="MemFirst", loop="own")

    def published(load: Load) -> Figure:
        rate = PUBLISHED[load.op, min(load.clients, 100)]
        return Figure(rate, 0, 1.0, 1e6 * load.clients / rate, float("nan"), float("nan"))

    with Embedded(b.place("embedded"), options) as ours:
        for op, clients in (("put", 1), ("put", 100), ("linearizable", 100),
                            ("linearizable", 1000)):
            b.compare("d-engine", ours.measure, published, op, clients,
                      D_ENGINE.get((op, clients)))


SECTIONS = {"etcd": against_etcd, "bare": against_bare, "pysyncobj": against_pysyncobj,
            "d-engine": against_d_engine}


def versions() -> Iterator[str]:
    yield f"etcd {etcd.version() or 'is not installed: its rows are left out'}"
    try:
        yield f"pysyncobj {metadata.version('pysyncobj')}"
    except metadata.PackageNotFoundError:
        yield "pysyncobj is not installed: its rows are left out"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", type=comma(str), default=list(SECTIONS))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--value-bytes", type=int, default=256)
    options = parser.parse_args()
    if unknown := set(options.only) - set(SECTIONS):
        parser.error(f"--only {','.join(unknown)}: choose from {','.join(SECTIONS)}")
    found = list(versions())
    absent = {said.split()[0] for said in found if "not installed" in said}
    with ExitStack() as stack:
        bench = Bench(options, stack.enter_context(scratch(options)))
        for name in options.only:
            if name not in absent:
                SECTIONS[name](bench)
    shown = table(f"Three nodes, values of {options.value_bytes} B, keys of 8 B", "-peer", "-work",
                  "clients", "ours/s", "theirs/s", "ratio (spread)", "p50 ms", "-goal")
    for row in bench.rows:
        shown.add_row(*row.cells())
    console.print(shown, machine(), ", ".join(found), sep="\n")
    report(options, [asdict(row) for row in bench.rows])


if __name__ == "__main__":
    main()
