"""Small data directories of one node alone, as a real Store leaves them.

*closed*: a clean stop, so that a mark proves all. *killed*: behind what the newest mark proves lie
an entry that was acknowledged and is not yet proven, one that was written and acknowledged by
nobody, and half of one. *started again*: a killed one that a Store opened, wrote to and closed, so
that the torn half is dead.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from dengine import config
from dengine._core import boot
from dengine._core.examine import PAGE, SEGMENT_DATA
from dengine.examine import examine
from dengine.storage import Directory, Setup, setup_of
from dengine.store import Store
from tests.cluster import eventually
from tests.sim.disk import Disk
from tests.torture.start import PATH, digests, records_of, start

SEGMENT = 16 << 10      # bytes: one page of records behind header and marks
VALUE = b"v" * 150
CAPACITY = 4 << 20      # bytes of a file on a simulated disk: as large as the reserve
WAIT_S = 30.0


@dataclass
class Victim:
    """A directory that will be damaged: its files by path, and what a start must find in it."""

    name: str
    files: dict[str, bytes]
    setup: Setup
    records: list[bytes]
    digests: list[int]  # of the store after each number of records
    hard_state: tuple[int, int]  # term, vote
    proven: int         # newest entry that a mark proves
    acknowledged: int   # newest entry that somebody was told of

    @cached_property
    def kinds(self) -> dict[str, str]:
        """What each file is."""
        used = sorted(p for p in self.files if p.endswith(".seg") and any(self.files[p]))
        kinds = dict.fromkeys(self.files, "prepared segment") | dict.fromkeys(used, "older segment")
        snapshots = sorted(p for p in self.files if p.endswith(".snap"))
        kinds |= dict.fromkeys(snapshots, "newest snapshot") | dict.fromkeys(
            snapshots[:-1], "older snapshot")
        return kinds | {used[-1]: "newest segment", f"{PATH}/meta": "meta"}


def small_store(path: Path, strategy: config.Strategy) -> Store:
    """A real Store whose segments are smaller than a configuration allows."""
    settings = config.single(path, strategy=strategy)
    log = msgspec.structs.replace(settings.log, segment_bytes=SEGMENT)
    return Store(Directory(path), msgspec.structs.replace(settings, log=log))


def fill(store: Store, first: int, count: int) -> None:
    for i in range(first, first + count):
        store[b"key %d" % (i % 20)] = b"%d " % i + VALUE


def contents(path: Path) -> dict[str, bytes]:
    """`meta`, segments and snapshots, as they lie now: what kill -9 would leave. The reserve holds
    nothing, and a start makes another."""
    files = [path / "meta", *sorted(f for f in (path / "log").iterdir() if f.name != "reserve"),
             *sorted((path / "snapshot").iterdir())]
    return {f"{PATH}/{file.relative_to(path)}": file.read_bytes() for file in files}


def closed(path: Path, strategy: config.Strategy, puts: int) -> dict[str, bytes]:
    with small_store(path, strategy) as store:
        fill(store, 0, puts)
    return contents(path)


def killed(path: Path, strategy: config.Strategy, puts: int) -> dict[str, bytes]:
    """Marks of the moment when all was proven, records of three puts later, half of the last."""
    with small_store(path, strategy) as store:
        fill(store, 0, puts)
        last = puts + 2     # behind the configuration and the first entry of the term
        eventually("a mark proves all", lambda: examine(str(path)).mark["index"] >= last, WAIT_S)
        before = contents(path)
        fill(store, puts, 3)
        after = contents(path)
        found = examine(str(path))
    newest = found.live[-1]
    *_, torn = [r for r in found.records(newest, 1, last + 3) if r["type"] == "record"]
    name = f"{PATH}/{newest.name}"
    if not any(before[name][:PAGE]):
        raise AssertionError("the last puts opened a segment: use another number of puts")
    half = torn["offset"] + torn["length"] // 2
    kept = before[name][:SEGMENT_DATA] + after[name][SEGMENT_DATA:half]
    return {**before, name: kept.ljust(len(after[name]), b"\0")}


def started_again(path: Path, strategy: config.Strategy, puts: int) -> dict[str, bytes]:
    for name, data in killed(path, strategy, puts).items():
        (path / name.removeprefix(PATH + "/")).write_bytes(data)
    with small_store(path, strategy) as store:
        fill(store, puts, 3)
    return contents(path)


def compacted(path: Path, strategy: config.Strategy, puts: int) -> dict[str, bytes]:
    """Two snapshots and the log from the older one on, which begins within a segment. The files of
    a time when the log was whole lie beside, in `whole`."""
    with small_store(path, strategy) as store:
        fill(store, 0, puts)
        whole = contents(path)
        store.snapshot()
        fill(store, puts, 2)
        store.snapshot()
        fill(store, puts + 2, 2)
        eventually("the log is compacted", lambda: (store.turn.run(), boot.status(
            store.turn)["first"] > 1)[1], WAIT_S)
    eventually("its files are gone", lambda: f"{PATH}/log/{1:016x}.seg" not in contents(path),
               WAIT_S)
    WHOLE[path] = whole
    return contents(path)


def loaded(files: dict[str, bytes], disk: Disk) -> None:
    """These files and no others."""
    for path in disk.files():
        if path not in files:
            disk.remove(path)
    for path, data in files.items():
        disk.put(path, data)


def victim(where: Path, strategy: config.Strategy, how: str, puts: int) -> Victim:
    path = where / f"{strategy}-{how}"
    files = HOW[how](path, strategy, puts)
    setup = setup_of(config.single(path, strategy=strategy), from_directory=True)
    setup.segment_bytes = SEGMENT
    disk = Disk(1, CAPACITY)
    loaded(files, disk)
    records = records_of(disk, setup)
    disk.kill()
    if path in WHOLE:       # the records that are compacted, as they were
        loaded(WHOLE.pop(path), disk)
        first = int(records[0][16:24][::-1].hex(), 16)
        records = records_of(disk, setup)[:first - 1] + records
        disk.kill()
        loaded(files, disk)
    last = len(records)
    proven = last - 2 if how == "killed" else last
    found = start(disk, setup, records)
    return Victim(f"{strategy}, {how}", files, setup, records, digests(records),
                  (found.term, found.vote), proven, min(proven + 1, last))


HOW = {"closed": closed, "killed": killed, "started again": started_again,
       "compacted": compacted}
WHOLE: dict[Path, dict[str, bytes]] = {}
