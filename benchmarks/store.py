"""The embedded Store against lmdb, sqlite and RocksDB: nanoseconds a call, on disk and on tmpfs.

All are measured in turns, A B C A B C; medians, ratios and their spread are printed. DiskFirst is
compared with those that sync each transaction (sqlite: synchronous=FULL), MemFirst with those that
do not; all put once per transaction. sqlite is measured with WAL, which syncs once as we do,
and with the rollback journal it comes with. lmdb reads twice: in a transaction for each get, which
sees the newest value as a Store does, and in one that stays open, which does not. The puts of 100
threads, and of 100 tasks of an Engine, are compared with those of one thread of lmdb, which takes
one writer. What limits it: a Python loop around each call (about 20 ns, in all of them); the
processor's caches, for keys are read in random order (more --keys: slower); the interpreter's lock,
which 100 threads hand to each other; and with DiskFirst the disk.
"""

import asyncio
import math
import os
import random
import sqlite3
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import lmdb
import uvloop
from rocksdict import Options as RocksOptions
from rocksdict import Rdict, WriteOptions

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
import dengine
from benchmarks.common import arguments, console, machine, report, scratch, table
from dengine.config import Strategy

MAP_BYTES = 4 << 30             # of lmdb's sparse file
AT_ONCE = 100                   # threads or tasks
EACH = 2                        # times that each of these puts all keys it is given
TMPFS = Path("/dev/shm")
PUT, GET, OPEN_GET = "put", "get", "get, open txn"
THREADS, TASKS = f"put, {AT_ONCE} threads", f"put, {AT_ONCE} tasks"
# times as fast as the peer, on the disk
GOALS = {
    ("DiskFirst", PUT): {"lmdb": 2.0, "sqlite": 2.0},
    ("DiskFirst", THREADS): {"lmdb": 25.0}, ("DiskFirst", TASKS): {"lmdb": 25.0},
    ("MemFirst", PUT): {"lmdb": 1.5}, ("MemFirst", GET): {"lmdb": 3.0},
}
Call = Callable[[Sequence[bytes]], int | None]      # once per key, or as often as it says
Calls = dict[str, Call]


def of_mapping(mapping: Any, value: bytes) -> Calls:
    def put(keys: Sequence[bytes]) -> None:
        for key in keys:
            mapping[key] = value

    def get(keys: Sequence[bytes]) -> None:
        for key in keys:
            mapping[key]

    return {PUT: put, GET: get}


@contextmanager
def dengine_calls(path: Path, strategy: Strategy, value: bytes) -> Iterator[Calls]:
    with dengine.open(path, strategy=strategy) as store:
        calls = of_mapping(store, value)

        def threads(keys: Sequence[bytes]) -> int:
            all_ = [threading.Thread(target=calls[PUT], args=([*keys] * EACH,))
                    for _ in range(AT_ONCE)]
            for thread in all_:
                thread.start()
            for thread in all_:
                thread.join()
            return AT_ONCE * EACH * len(keys)

        yield {**calls, THREADS: threads, OPEN_GET: calls[GET]}


@contextmanager
def engine_calls(path: Path, strategy: Strategy, value: bytes) -> Iterator[Calls]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        engine = dengine.Engine.open(path, overrides={"raft.persistence.strategy": strategy})
        runner.run(engine.start())

        async def put(keys: Sequence[bytes]) -> None:
            for _ in range(EACH):
                for key in keys:
                    await engine.put(key, value)

        async def all_(keys: Sequence[bytes]) -> None:
            await asyncio.gather(*(put(keys) for _ in range(AT_ONCE)))

        def tasks(keys: Sequence[bytes]) -> int:
            runner.run(all_(keys))
            return AT_ONCE * EACH * len(keys)

        try:
            yield {TASKS: tasks}
        finally:
            runner.run(engine.close())


@contextmanager
def lmdb_calls(path: Path, strategy: Strategy, value: bytes) -> Iterator[Calls]:
    sync = strategy == "DiskFirst"
    with lmdb.open(str(path), map_size=MAP_BYTES, sync=sync, metasync=sync) as environment:

        def put(keys: Sequence[bytes]) -> None:
            for key in keys:
                with environment.begin(write=True) as transaction:
                    transaction.put(key, value)

        def get(keys: Sequence[bytes]) -> None:
            for key in keys:
                with environment.begin() as transaction:
                    transaction.get(key)

        def get_open(keys: Sequence[bytes]) -> None:
            with environment.begin() as transaction:
                for key in keys:
                    transaction.get(key)

        yield {PUT: put, THREADS: put, TASKS: put, GET: get, OPEN_GET: get_open}


@contextmanager
def sqlite_calls(
    path: Path, strategy: Strategy, value: bytes, journal: str = "WAL"
) -> Iterator[Calls]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute(f"PRAGMA synchronous = {'FULL' if strategy == 'DiskFirst' else 'OFF'}")
        connection.execute("CREATE TABLE kv (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")

        def put(keys: Sequence[bytes]) -> None:
            for key in keys:
                connection.execute("INSERT OR REPLACE INTO kv VALUES (?, ?)", (key, value))

        def get(keys: Sequence[bytes]) -> None:
            for key in keys:
                connection.execute("SELECT value FROM kv WHERE key = ?", (key,)).fetchone()

        yield {PUT: put, GET: get}


@contextmanager
def rocksdb_calls(path: Path, strategy: Strategy, value: bytes) -> Iterator[Calls]:
    with closing(Rdict(str(path), RocksOptions(raw_mode=True))) as rocksdb:
        writes = WriteOptions()
        writes.sync = strategy == "DiskFirst"
        rocksdb.set_write_options(writes)
        yield of_mapping(rocksdb, value)


OURS = "dengine"
ROLLBACK = "sqlite, rollback"
CONTENDERS = [OURS, "lmdb", "sqlite", ROLLBACK, "rocksdb"]


@dataclass
class Row:
    """One operation: of each contender the nanoseconds a call of each round."""

    strategy: Strategy
    op: str
    place: str                          # "disk" or "tmpfs"
    ns: dict[str, list[float]]
    device: float                       # bytes that the device got a second, in our puts

    def ratios(self, peer: str) -> list[float]:
        return [b / a for a, b in zip(self.ns[OURS], self.ns[peer], strict=True)]

    def shown(self, peer: str) -> str:
        if peer not in self.ns:
            return ""
        r = self.ratios(peer)
        return f"{median(r):.3g} ({min(r):.3g}–{max(r):.3g})"

    @property
    def goal(self) -> str:
        goals = GOALS.get((self.strategy, self.op), {}) if self.place == "disk" else {}
        return ", ".join(f"{'met' if median(self.ratios(p)) >= g else 'MISSED'} {g:g}x"
                         for p, g in goals.items() if p in self.ns)


def ns_per_call(call: Call, keys: Sequence[bytes], seconds: float) -> float:
    """Over whole slices of the keys, for at least `seconds`. A call that makes more or less than
    one for each key says how many."""
    calls = made = 0
    size = max(1, len(keys) // 10)
    began = time.perf_counter_ns()
    while (spent := time.perf_counter_ns() - began) < seconds * 1e9:
        at = calls % len(keys)
        slice_ = keys[at : at + size]
        made += call(slice_) or len(slice_)
        calls += len(slice_)
    return spent / made


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
        calls[PUT](keys)
        memory, device = anonymous_bytes() - memory, device_bytes(directory) - device
    if strategy == "DiskFirst":
        return {"device bytes per sync": device / count}
    return {"resident bytes per key": memory / count, "device bytes per put": device / count}


def compare(options: Namespace, place: str, directory: Path, strategy: Strategy) -> list[Row]:
    keys = [f"k{i:07d}".encode() for i in range(options.keys)]
    value = bytes(options.value_bytes)
    names = [n for n in CONTENDERS if n.split(",")[0] in options.peers.split(",") or n == OURS]
    rows: dict[str, Row] = {}
    with (
        dengine_calls(directory / OURS, strategy, value) as ours,
        lmdb_calls(directory / "lmdb", strategy, value) as theirs,
        engine_calls(directory / "engine", strategy, value) as engine,
        sqlite_calls(directory / "sqlite", strategy, value) as others,
        sqlite_calls(directory / "rollback", strategy, value, "DELETE") as rollback,
        rocksdb_calls(directory / "rocksdb", strategy, value) as rocksdb,
    ):
        ours |= engine
        calls = {OURS: ours, "lmdb": theirs, "sqlite": others, ROLLBACK: rollback,
                 "rocksdb": rocksdb}
        for name in names:                      # each key exists before anything is measured
            calls[name][PUT](keys[:1000] if strategy == "DiskFirst" else keys)
        if strategy == "DiskFirst":
            keys = keys[:1000]
        random.Random(1).shuffle(keys)
        for turn in range(options.rounds):
            for op in ours:
                row = rows.setdefault(op, Row(strategy, op, place, {}, math.nan))
                for name in (n for n in names if op in calls[n]):
                    with console.status(f"{strategy}, {place}, {op}, {name}, round {turn + 1}"):
                        before, began = device_bytes(directory), time.perf_counter()
                        row.ns.setdefault(name, []).append(
                            ns_per_call(calls[name][op], keys, options.seconds))
                        if name == OURS and op in (PUT, THREADS, TASKS):
                            row.device = (device_bytes(directory) - before) / (
                                time.perf_counter() - began)
    return list(rows.values())


def opening(directory: Path) -> float:
    """Seconds to open a new Store; the median of some."""
    took = []
    for i in range(20):
        began = time.perf_counter()
        store = dengine.open(directory / f"new{i}")
        took.append(time.perf_counter() - began)
        store.close()
    return median(took)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken")
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--value-bytes", type=int, default=256)
    parser.add_argument("--peers", default="lmdb,sqlite,rocksdb")
    parser.add_argument("--strategy", choices=["MemFirst", "DiskFirst", "both"], default="both")
    options = parser.parse_args()
    both: list[Strategy] = ["MemFirst", "DiskFirst"]
    shown = table(
        f"Store, lmdb {lmdb.__version__} and sqlite {sqlite3.sqlite_version}, values of "
        f"{options.value_bytes} B, {options.keys} keys of 8 B",
        "-strategy", "-operation", "-on", "ns", "MB/s", "times lmdb", "times sqlite",
        "with rollback", "times rocksdb", "-goal",
    )
    notes = []
    rows: list[Row] = []
    with scratch(options) as directory, TemporaryDirectory(dir=TMPFS) as memory:
        for strategy in both if options.strategy == "both" else [options.strategy]:
            (directory / strategy).mkdir()
            used = resources(options, directory / strategy, strategy)
            notes.append(f"{strategy}: " + ", ".join(f"{v:,.0f} {k}" for k, v in used.items()))
            for place, at in (("disk", directory / strategy), ("tmpfs", Path(memory) / strategy)):
                at.mkdir(exist_ok=True)
                rows += compare(options, place, at, strategy)
        opened = opening(directory)
    verdict = "met" if opened <= 0.020 else "MISSED"
    notes.append(f"a new Store opens in {1000 * opened:.1f} ms ({verdict}: 20 ms)")
    for row in sorted(rows, key=lambda r: (r.strategy, r.op)):
        shown.add_row(
            row.strategy, row.op, row.place, f"{median(row.ns[OURS]):,.0f}",
            "" if math.isnan(row.device) else f"{row.device / 1e6:.1f}", row.shown("lmdb"),
            row.shown("sqlite"), row.shown(ROLLBACK), row.shown("rocksdb"), row.goal)
    console.print(shown, *notes, machine(), sep="\n")
    figures: list[dict[str, Any]] = [
        {"strategy": r.strategy, "op": r.op, "place": r.place, "ns": r.ns, "device": r.device}
        for r in rows]
    report(options, [*figures, {"opening_s": opened}])


if __name__ == "__main__":
    main()
