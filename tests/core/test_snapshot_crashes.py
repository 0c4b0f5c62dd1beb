"""Snapshots through every crash and every failed call: afterwards all of it or nothing."""
import errno
import os
import random

import pytest

from dengine._core.kv import KV
from dengine._core.snapshot import sort_names
from dengine.errors import CorruptionError, InvariantError, StorageError
from tests.core.small_snapshots import FRAME_HEADER, NAME, NEW, PAGE, loaded, store_of
from tests.sim.bench_snapshot import WriterBench, remove_names
from tests.sim.disk import Disk

CALLS = ("open", "write", "sync", "drop", "size", "read", "rename", "sync_dir")


def taken(disk: Disk) -> tuple[WriterBench, KV]:
    """A writer of several frames beside an older snapshot."""
    kv = store_of(4, 1000, 1200)[0]
    if "0000000000000003.snap" not in disk.names("snapshot"):
        WriterBench(disk, "snapshot", kv, b"older", index=3).run()
    return WriterBench(disk, "snapshot", kv, b"newer"), kv


def moments() -> list[tuple[str, int]]:
    """Every call of a whole writing: what it is, and its number."""
    disk = Disk(0, 2 << 20)
    taken(disk)[0].close()
    before = {call: disk.calls(call) for call in CALLS}
    taken(disk)[0].run()
    return [(call, n + 1) for call in CALLS for n in range(disk.calls(call) - before[call])]


MOMENTS = moments()


def after_a_crash(disk: Disk, digest: int, complete: bool | None = None) -> None:
    names, stale = sort_names(disk.names("snapshot"))
    assert complete is None or (len(names) == 2) == complete
    expected = {"0000000000000005.snap": b"newer", "0000000000000003.snap": b"older"}
    for name in names:
        kv, engine = loaded(disk, f"snapshot/{name}")
        assert (kv.digest(), engine) == (digest, expected[name])
    remove_names(disk, "snapshot", stale)
    assert disk.names("snapshot") == sorted(names)
    assert "0000000000000003.snap" in names


@pytest.mark.parametrize("seed", range(5))
def test_a_power_cut_after_each_step(seed: int) -> None:
    steps = 0
    while True:
        disk = Disk(seed, 2 << 20)
        writer, kv = taken(disk)
        more = True
        for _ in range(steps):
            more = writer.step()
        disk.power_cut()
        after_a_crash(disk, kv.digest(), complete=not more)
        writer.close()
        if not more:
            break
        steps += 1
    assert steps > 8


@pytest.mark.parametrize("seed", range(5))
def test_a_power_cut_at_each_call(seed: int) -> None:
    for call, nth in MOMENTS:
        for keep in (None, 0, 8, 20):
            disk = Disk(seed, 2 << 20)
            taken(disk)[0].close()
            if keep is None or call != "write":
                disk.fail(call, nth, errno.EIO)
            else:                               # some of it was written
                disk.shorten(nth, keep)
                disk.fail("write", nth + 1, errno.EIO)
            disk.fail("unlink", 2, errno.EIO)   # what comes after does not happen
            with pytest.raises(StorageError):
                taken(disk)[0].run()
            disk.power_cut()
            after_a_crash(disk, store_of(4, 1000, 1200)[0].digest())


def finished(disk: Disk, begun: list[WriterBench]) -> None:
    begun.append(taken(disk)[0])
    begun[0].run()


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_failed_call_leaves_nothing_behind(error: int) -> None:
    for call, nth in MOMENTS:
        disk = Disk(nth, 2 << 20)
        taken(disk)[0].close()
        disk.fail(call, nth, error)
        begun: list[WriterBench] = []
        with pytest.raises(StorageError, match=os.strerror(error)):
            finished(disk, begun)
        assert disk.open_files == 0
        after = ["0000000000000003.snap"]
        if call == "sync_dir":                  # it has its name, until a power cut at least
            after.append("0000000000000005.snap")
        assert disk.names("snapshot") == after
        for writer in begun:
            writer.close()
            with pytest.raises(InvariantError):
                writer.step()
        writer, kv = taken(disk)                # the next one is not harmed by it
        writer.run()
        after_a_crash(disk, kv.digest(), complete=True)


def test_calls_that_only_tidy_up_may_fail() -> None:
    for call, nth in [("close", 1), ("close", 2), ("unlink", 1)]:
        disk = Disk(1, 2 << 20)
        taken(disk)[0].close()
        disk.fail(call, nth, errno.EIO)
        writer, kv = taken(disk)
        writer.run()
        after_a_crash(disk, kv.digest(), complete=True)


def test_a_full_disk_at_any_size() -> None:
    disk = Disk(1, 2 << 20)
    taken(disk)[0].run()
    size = len(disk.read(NAME))
    for left in (0, 1, PAGE, PAGE + 8, PAGE + FRAME_HEADER, size // 2, size - 1):
        disk = Disk(1, 2 << 20)
        taken(disk)[0].close()
        disk.fill(left)
        with pytest.raises(StorageError, match="No space left on device"):
            finished(disk, [])
        assert disk.names("snapshot") == ["0000000000000003.snap"]
        disk.free()
        writer, kv = taken(disk)
        writer.run()
        after_a_crash(disk, kv.digest(), complete=True)


@pytest.mark.parametrize("seed", range(20))
def test_what_the_disk_did_not_keep_gets_no_name(seed: int) -> None:
    """A bit changes after the sync; whatever is damaged then is found when it is read back."""
    disk = Disk(seed, 2 << 20)
    writer, _ = taken(disk)
    before = disk.calls("sync")
    while disk.calls("sync") == before:
        writer.step()
    disk.flip(NEW, random.Random(seed).randrange(8 * PAGE, 8 * len(disk.read(NEW))))
    with pytest.raises(CorruptionError, match=r"snap\.new, offset"):
        writer.run()
    assert disk.names("snapshot") == ["0000000000000003.snap"]
    assert disk.open_files == 0


def test_closing_at_any_step_leaves_nothing_behind() -> None:
    steps, more = 0, True
    while more:
        disk = Disk(1, 2 << 20)
        writer, _ = taken(disk)
        for _ in range(steps):
            more = writer.step()
        writer.close()
        writer.close()
        assert len(disk.names("snapshot")) == (1 if more else 2)
        assert disk.open_files == 0
        steps += 1
