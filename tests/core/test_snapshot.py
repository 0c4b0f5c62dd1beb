"""Snapshots: exact while the store goes on, and refused when anything in the file is damaged."""
import random
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import lz4.block
import pytest

from dengine._core.crc import checksum
from dengine._core.kv import KV
from dengine._core.snapshot import snapshot_name, sort_names
from dengine.errors import CorruptionError, FormatError, InvariantError, StorageError
from tests.core.small_snapshots import (
    FRAME_HEADER,
    NAME,
    NEW,
    PAGE,
    loaded,
    several,
    small,
    store_of,
)
from tests.sim.bench_snapshot import LIMITS, ReaderBench, WriterBench, entries, put
from tests.sim.disk import CALL_NAMES, Disk
from tests.sim.store import check, limit_allocations

ENGINE, MACHINE, FOOTER, ANSWERS, LZ4 = 1, 2, 3, 4, 1


@pytest.fixture(autouse=True)
def unlimited_memory() -> Iterator[None]:
    yield
    limit_allocations()


def refused(disk: Disk, *errors: type[StorageError], match: str | None = None) -> None:
    """Both by who verifies and who loads."""
    for into in (None, KV()):
        with pytest.raises(errors, match=match) as caught:
            ReaderBench(disk, NAME, into).run()
        assert NAME in str(caught.value)
        assert "nothing was changed" in str(caught.value)
    assert disk.open_files == 0


# -------------------------------------------------------------------------------------- round trip
@pytest.mark.parametrize("seed", range(6))
def test_what_is_loaded_is_what_was_written(seed: int, tmp_path: Path) -> None:
    kv, model = store_of(seed, 3000, 700)
    engine = random.Random(seed).randbytes([0, 1, LIMITS["frame"], LIMITS["frame"] + 1][seed % 4])
    disk = Disk(seed, 4 << 20)
    for where, directory in [(disk, "snapshot"), (None, str(tmp_path))]:
        WriterBench(where, directory, kv, engine).run()
        twin, found = loaded(where, f"{directory}/{snapshot_name(5)}")
        assert entries(twin) == model
        assert found == engine
        assert (twin.revision, twin.digest()) == (kv.revision, kv.digest())
    for n in range(500):                        # and it goes on as the other does
        for each in (kv, twin):
            each.store(b"%05d" % (n * 7), b"after")
            each.remove(b"%05d" % (n * 11))
    check(twin)
    assert twin.digest() == kv.digest()


def test_the_smallest_and_the_largest() -> None:
    disk, kv, chance = Disk(1, 8 << 20), KV(), random.Random(1)
    for key in (b"k" * LIMITS["key"], b"\0", b"\0\0", b"\xff" * LIMITS["key"]):
        kv.store(key, b"")
    for n in range(3):
        kv.store(b"large%d" % n, chance.randbytes(LIMITS["value"]))
        kv.store(b"larger%d" % n, bytes(LIMITS["value"]))
    WriterBench(disk, "snapshot", kv).run()
    twin, engine = loaded(disk)
    assert entries(twin) == entries(kv)
    assert engine == b""
    assert len(disk.read(NAME)) < 3 * LIMITS["value"] + (64 << 10)      # incompressible as it is


def test_an_empty_store() -> None:
    disk = Disk()
    assert WriterBench(disk, "snapshot", KV()).run() == 4   # created, the footer, verified, renamed
    twin, engine = loaded(disk)
    assert (len(twin), twin.revision, engine) == (0, 0, b"")


def test_the_header_says_what_is_in_it() -> None:
    disk, kv, _ = small()
    WriterBench(disk, "snapshot", kv, b"engine", index=2**64 - 1, term=11, crc=12, cluster=13,
                incarnation=14).run()
    reader = ReaderBench(disk, "snapshot/ffffffffffffffff.snap")
    assert reader.header == {"cluster": 13, "incarnation": 14, "index": 2**64 - 1, "term": 11,
                             "crc": 12, "revision": kv.revision, "keys": len(kv), "engine_bytes": 6}
    reader.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_snapshot_is_of_the_moment_when_it_began(seed: int) -> None:
    """Puts, also in place, and deletes between its steps."""
    kv, model = store_of(seed, 4000, 600)
    chance = random.Random(seed)
    disk = Disk(seed, 4 << 20)
    digest, revision = kv.digest(), kv.revision
    writer = WriterBench(disk, "snapshot", kv)
    while writer.step():
        for _ in range(400):
            key = b"%05d" % chance.randrange(8000)
            if chance.random() < 0.3:
                kv.remove(key)
            else:
                kv.store(key, chance.randbytes(chance.randrange(600)))
    twin, _ = loaded(disk)
    assert entries(twin) == model
    assert (twin.digest(), twin.revision) == (digest, revision)
    assert kv.digest() != digest
    check(kv)


def test_a_thread_writes_while_the_store_goes_on(tmp_path: Path) -> None:
    kv, model = store_of(9, 4000, 600)
    writer = WriterBench(None, str(tmp_path), kv)
    thread = threading.Thread(target=writer.run)
    thread.start()
    n = 0
    while thread.is_alive():
        kv.store(b"%05d" % (n % 8000), b"new")
        kv.remove(b"%05d" % (n * 7 % 8000))
        n += 1
    thread.join()
    assert entries(loaded(None, f"{tmp_path}/{snapshot_name(5)}")[0]) == model


def test_a_step_is_bounded_and_so_is_memory() -> None:
    kv, disk = KV(), Disk(1, 24 << 20)
    for n in range(160):
        kv.store(b"%d" % n, random.Random(n).randbytes(100 << 10))
    tracemalloc.start()
    WriterBench(disk, "snapshot", kv).run()
    ReaderBench(disk, NAME).run()
    assert tracemalloc.get_traced_memory()[1] < 4 * LIMITS["frame_max"]
    tracemalloc.stop()
    writer, writes, unsynced = WriterBench(disk, "snapshot", kv), disk.calls("write"), 0
    syncs = disk.calls("sync")
    while writer.step():
        assert disk.calls("write") - writes <= 1
        writes = disk.calls("write")
        unsynced = max(unsynced, len(disk.read(NEW)) - len(disk.durable(NEW)))
    assert unsynced < LIMITS["sync"] + LIMITS["frame_max"]
    assert disk.calls("sync") - syncs == 2


def test_the_turn_only_pins() -> None:
    disk, kv, _ = small()
    before = [disk.calls(call) for call in CALL_NAMES]
    writer = WriterBench(disk, "snapshot", kv, index=6)
    assert [disk.calls(call) for call in CALL_NAMES] == before
    writer.close()
    assert [disk.calls(call) for call in CALL_NAMES] == before


# ------------------------------------------------------------------------------------------ damage
def test_every_flipped_bit_is_noticed() -> None:
    disk, _, good = small()
    for bit in range(8 * len(good)):
        disk.flip(NAME, bit)
        with pytest.raises((CorruptionError, FormatError)):
            ReaderBench(disk, NAME).run()
        disk.flip(NAME, bit)
    assert disk.read(NAME) == good


def test_every_truncation_is_noticed() -> None:
    disk, _, good = small()
    for size in range(len(good)):
        disk.put(NAME, good[:size])
        refused(disk, CorruptionError)
    disk.put(NAME, good + b"\0")
    refused(disk, CorruptionError, match="behind its footer")


@pytest.mark.parametrize("make", [small, several])
def test_every_lost_sector_is_noticed(make: Callable[[], tuple[Disk, KV, bytes]]) -> None:
    disk, _, good = make()
    for at in range(0, len(good), 512):
        if any(good[at:at + 512]):
            disk.put(NAME, good[:at] + bytes(len(good[at:at + 512])) + good[at + 512:])
            refused(disk, CorruptionError, FormatError)


def frames_of(data: bytes) -> list[bytes]:
    at, found = PAGE, []
    while at < len(data):
        size = FRAME_HEADER + int.from_bytes(data[at + 4:at + 8], "little")
        found.append(data[at:at + size])
        at += size
    return found


def test_frames_out_of_place_are_noticed() -> None:
    disk, _, good = several()
    frames = frames_of(good)
    assert len(frames) > 6
    WriterBench(disk, "snapshot", store_of(2, 9, 30)[0], index=6).run()
    other = disk.read("snapshot/0000000000000006.snap")
    changed = [[*frames[:i], *frames[i + 1:]] for i in range(len(frames))]
    changed += [[*frames[:i], frames[i], *frames[i:]] for i in range(len(frames))]
    changed += [[*frames[:i], frames[i + 1], frames[i], *frames[i + 2:]]
                for i in range(len(frames) - 1)]
    changed += [frames_of(other), [*frames[:-1], frames_of(other)[-1]]]
    for each in changed:
        disk.put(NAME, good[:PAGE] + b"".join(each))
        refused(disk, CorruptionError)


def item(key: bytes, value: bytes = b"", create: int = 1, mod: int = 1, version: int = 1) -> bytes:
    return struct.pack("<IIQQQQ", len(key), len(value), create, mod, version, 0) + key + value


def forged(frames: list[tuple[int, bytes]] | None = None, *, keys: int = 1, engine: int = 0,
           footer: tuple[int, int, int] | None = None, flags: int = 0, zero: int = 0,
           raw: int | None = None, format: int = 1, page_end: bytes = b"\0",
           header_zero: int = 0) -> bytes:
    """A file whose checksums are good; the options are the lies in it."""
    frames = [(MACHINE, item(b"key"))] if frames is None else frames
    header = struct.pack("<QQQQIIQQQ", 7, 9, 5, 2, 3, header_zero, 10, keys, engine)
    page = (header + bytes(PAGE - 16 - len(header)))[:-1] + page_end
    crc = checksum(page, format)
    out = b"dgnesnap" + struct.pack("<II", format, crc) + page
    if footer is None:
        footer = (len(frames), sum(len(stored) for _, stored in frames), keys)
    for kind, stored in [*frames, (FOOTER, struct.pack("<QQQ", *footer))]:
        size = raw if raw is not None and kind != FOOTER else len(stored)
        head = struct.pack("<IIBBH", len(stored), size, kind, flags if kind != FOOTER else 0, zero)
        crc = checksum(head + stored, crc)
        out += crc.to_bytes(4, "little") + head + stored
    return out


LIES = {
    "frames": forged(footer=(2, 43, 1)),
    "bytes": forged(footer=(1, 44, 1)),
    "keys": forged(footer=(1, 43, 2)),
    "keys of the header": forged(keys=2, footer=(1, 43, 1)),
    "many keys": forged(keys=2**64 - 1, footer=(1, 43, 1)),
    "bytes of the engine": forged(engine=1),
    "many bytes of the engine": forged(engine=2**64 - 1),
    "two equal keys": forged([(MACHINE, item(b"a") * 2)], keys=2),
    "descending keys": forged([(MACHINE, item(b"ab") + item(b"a"))], keys=2),
    "descending frames": forged([(MACHINE, item(b"b")), (MACHINE, item(b"a"))], keys=2),
    "a long key": forged([(MACHINE, item(bytes(4097)))]),
    "a long value": forged([(MACHINE, item(b"a", bytes((1 << 20) + 1)))]),
    "an item that is cut": forged([(MACHINE, item(b"abc")[:-1])]),
    "half an item": forged([(MACHINE, item(b"abc") + bytes(20))]),
    "changed before it was made": forged([(MACHINE, item(b"a", create=2, mod=1))]),
    "changed after the store": forged([(MACHINE, item(b"a", mod=11))]),
    "made at 0": forged([(MACHINE, item(b"a", create=0))]),
    "version 0": forged([(MACHINE, item(b"a", version=0))]),
    "the engine behind the store": forged([(MACHINE, item(b"a")), (ENGINE, b"x")], engine=1),
    "results of another length": forged([(ANSWERS, bytes(49)), (MACHINE, item(b"a"))]),
    "results behind the store": forged([(MACHINE, item(b"a")), (ANSWERS, bytes(48))]),
    "an empty frame": forged([(ENGINE, b"")], keys=0),
    "two lengths": forged(raw=44),
    "a length above the limit": forged(raw=LIMITS["frame_max"] + 1),
    "a huge length": forged(raw=2**32 - 1, flags=LZ4),
    "a large length of little": forged([(MACHINE, lz4.block.compress(b"x" * 99, store_size=False))],
                                       raw=LIMITS["frame_max"], flags=LZ4),
    "no lz4": forged([(MACHINE, b"\xff" * 20)], raw=99, flags=LZ4),
    "a short footer": forged([(FOOTER, bytes(8))]),
    "format 0": forged(format=0),
    "a flipped bit of the format": forged()[:8] + b"\2" + forged()[9:],
}
NEWER = {
    "kind": forged([(MACHINE, item(b"key")), (5, b"x")]),
    "kind 0": forged([(0, b"x")]),
    "flag": forged(flags=2),
    "frame field": forged(zero=1),
    "format": forged(format=2),
    "header field": forged(header_zero=1),
    "header": forged(page_end=b"\1"),
}


def test_a_forged_file_is_as_good_as_any() -> None:
    disk = Disk()
    disk.put(NAME, forged())
    assert entries(loaded(disk)[0]) == [(b"key", b"", 1, 1, 1, 0)]


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused_and_allocate_nothing(lie: str) -> None:
    disk = Disk()
    disk.put(NAME, LIES[lie])
    tracemalloc.start()
    refused(disk, CorruptionError)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * LIMITS["frame_max"] + len(LIES[lie])


@pytest.mark.parametrize("what", NEWER)
def test_a_newer_format_is_refused_by_name(what: str) -> None:
    disk = Disk()
    disk.put(NAME, NEWER[what])
    refused(disk, FormatError, match="newer format")


# ---------------------------------------------------------------------------------- files, limits
def test_memory_that_runs_out_while_loading() -> None:
    disk, _, _ = several()
    for n in range(40):
        reader = ReaderBench(disk, NAME, KV())
        limit_allocations(n)
        with pytest.raises(MemoryError):
            reader.run()
        limit_allocations()
    loaded(disk)


def test_modes_and_symbolic_links(tmp_path: Path) -> None:
    directory, mine = tmp_path / "snapshot", tmp_path / "mine"
    directory.mkdir()
    mine.write_bytes(b"mine")
    for name in (NAME, NEW):
        (tmp_path / name).symlink_to(mine)
    with pytest.raises(StorageError, match="could not be opened"):
        ReaderBench(None, str(tmp_path / NAME))
    WriterBench(None, str(directory), store_of(1, 9, 30)[0]).run()
    assert mine.read_bytes() == b"mine"
    assert [p.name for p in directory.iterdir()] == [snapshot_name(5)]
    assert (tmp_path / NAME).lstat().st_mode == 0o100600


def test_a_missing_directory_or_file() -> None:
    with pytest.raises(StorageError, match=r"created: No such file or directory"):
        WriterBench(None, "/nowhere", KV()).run()
    with pytest.raises(StorageError, match=r"opened: No such file or directory"):
        ReaderBench(None, "/nowhere.snap")


def test_names() -> None:
    names = ["0000000000000010.snap", "000000000000000f.snap", "0000000000000100.snap",
             "0000000000000009.snap.new", "0000000000000001.snap", "notes", "1.snap", "x.new",
             "000000000000000F.snap", "0000000000000001.snap.old"]
    found, stale = sort_names(names)
    assert found == ["0000000000000100.snap", "0000000000000010.snap", "000000000000000f.snap",
                     "0000000000000001.snap"]
    assert stale == ["000000000000000f.snap", "0000000000000001.snap", "0000000000000009.snap.new"]
    assert sort_names([]) == ([], [])


def test_limits_of_our_own() -> None:
    disk, kv, _ = small()
    with pytest.raises(InvariantError, match="the limit is"):
        WriterBench(disk, "snapshot", KV(), bytes(LIMITS["engine"] + 1))
    with pytest.raises(InvariantError, match="not empty"):
        ReaderBench(disk, NAME, kv)
    put(kv, bytes(LIMITS["key"] + 1), bytes(LIMITS["value"]), 0)
    with pytest.raises(InvariantError, match="above its limit"):
        WriterBench(disk, "snapshot", kv, index=9).run()
    assert disk.names("snapshot") == ["0000000000000005.snap"]
    assert disk.open_files == 0
