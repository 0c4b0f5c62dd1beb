"""What the flusher runs: marks that are always true, and a thread that loses no job."""
import errno
import os
import select
import time
from pathlib import Path

import pytest

from dengine.errors import StorageError
from tests.core.histories import COMMAND, DISK_FIRST, MEM_FIRST, History, marks, newest_mark
from tests.sim.bench_log import LogBench
from tests.sim.disk import Disk

SEGMENT = 64 << 10
FAR_US = 600_000_000            # a late job that no test waits for
PATIENCE_S = 20


def on_disk(**options: int) -> tuple[Disk, LogBench]:
    disk = Disk(1, 2 * SEGMENT)
    return disk, LogBench(disk, segment_bytes=SEGMENT, **options)


def in_files(directory: Path, **options: int) -> LogBench:
    return LogBench(None, str(directory), segment_bytes=SEGMENT, **options)


def batch(log: LogBench, n: int = 1, commit: int = 0) -> None:
    for _ in range(n):
        log.append(1, COMMAND, b"entry")
    log.write(commit)


# ------------------------------------------------------------------------------------- marks
@pytest.mark.parametrize("seed", range(100))
def test_marks_are_true_at_every_moment(seed: int) -> None:
    history = History(seed)
    sequence = 0
    for _ in range(120):
        history.step()
        history.marks_are_true()
        mark = newest_mark(history.disk)
        assert (mark[0] if mark else 0) >= sequence
        sequence = mark[0] if mark else 0


def test_each_sync_carries_the_mark_of_the_one_before() -> None:
    disk, log = on_disk()
    for i in range(1, 6):
        batch(log, commit=i - 1)
        log.run()
        log.reap()
        mark = newest_mark(disk)
        if i == 1:
            assert mark is None
        else:
            sequence, epoch, _, index, term, commit, _ = mark
            assert (sequence, epoch, index, term, commit) == (i - 1, 1, i - 1, 1, i - 2)


def test_a_mark_never_overwrites_the_newest_one() -> None:
    disk, log = on_disk()
    for i in range(1, 8):
        batch(log)
        log.run()
        log.reap()
        found = sorted(m[0] for m in marks(disk.durable(f"log/{1:016x}.seg")))
        assert found == [n for n in (i - 2, i - 1) if n > 0]


def test_idleness_brings_the_mark_up_to_date_once() -> None:
    disk, log = on_disk()
    batch(log, 3)
    log.run()
    log.reap()
    assert log.refresh() == 0
    assert newest_mark(disk)[3] == 3
    syncs = disk.calls("sync")
    assert log.refresh() == 0
    assert disk.calls("sync") == syncs


def test_a_mark_does_not_name_what_is_only_written() -> None:
    disk, log = on_disk(strategy=MEM_FIRST)
    batch(log, 3)
    assert log.refresh() == 0
    assert newest_mark(disk, "read") is None
    log.run()
    batch(log, 3)
    assert log.refresh() == 0
    assert newest_mark(disk)[3] == 3


def test_no_commit_beyond_the_entries_is_marked() -> None:
    disk, log = on_disk()
    batch(log, 2, commit=99)
    log.run()
    log.refresh()
    assert newest_mark(disk)[5] == 2


@pytest.mark.parametrize("call", ["write", "sync"])
def test_after_a_failure_no_mark_is_written(call: str) -> None:
    """Jobs that were queued behind the failed one neither run nor prove anything."""
    disk, log = on_disk()
    batch(log)
    log.settle()
    before = newest_mark(disk)
    log.append(1, COMMAND, b"x" * 40_000)
    log.append(1, COMMAND, b"x" * 40_000)       # in the next segment
    log.write()
    disk.fail(call, 1, errno.EIO)
    log.run()
    assert log.refresh() == 0
    with pytest.raises(StorageError):
        log.reap()
    assert newest_mark(disk) == before
    disk.power_cut()
    assert LogBench(disk, segment_bytes=SEGMENT).last >= 1


def test_a_failed_sync_is_never_tried_again() -> None:
    disk, log = on_disk()
    batch(log)
    log.run()
    log.reap()
    batch(log)
    disk.fail("write", 1, errno.EIO)
    log.run()
    syncs, writes = disk.calls("sync"), disk.calls("write")
    assert log.refresh() == 0                   # though the first sync stands in no mark yet
    assert (disk.calls("sync"), disk.calls("write")) == (syncs, writes)


# ------------------------------------------------------------------------------- the thread
def test_the_thread_syncs_what_is_written(tmp_path: Path) -> None:
    log = in_files(tmp_path)
    log.start()
    for i in range(1, 50):
        batch(log, i % 5 + 1)
        log.finish_jobs()
        assert log.durable() == log.last
    records = log.records()
    log.close()
    log = in_files(tmp_path)
    assert log.records() == records
    assert log.found.notes == []
    log.close()


def test_a_late_job_waits_until_it_is_hurried(tmp_path: Path) -> None:
    log = in_files(tmp_path, strategy=MEM_FIRST, interval_us=FAR_US)
    log.start()
    batch(log, 3)
    assert (log.durable(), log.synced, log.jobs) == (3, 0, 1)
    batch(log, 3)
    log.hurry()
    log.finish_jobs()
    assert log.synced == 6
    log.close()


def test_the_threshold_hurries_the_late_job(tmp_path: Path) -> None:
    log = in_files(tmp_path, strategy=MEM_FIRST, interval_us=FAR_US, threshold=10)
    log.start()
    batch(log, 9)
    assert log.jobs == 1
    batch(log, 1)
    log.finish_jobs()
    assert log.synced == 10
    log.close()


def test_a_late_job_runs_when_its_time_has_come(tmp_path: Path) -> None:
    log = in_files(tmp_path, strategy=MEM_FIRST, interval_us=1000)
    log.start()
    batch(log)
    log.finish_jobs()
    assert log.synced == 1
    log.close()


def test_a_job_behind_a_late_one_lets_it_go(tmp_path: Path) -> None:
    """One order for all: nothing waits behind a timer."""
    log = in_files(tmp_path, strategy=MEM_FIRST, interval_us=FAR_US)
    log.start()
    batch(log)
    for _ in range(6):
        log.append(1, COMMAND, b"x" * 50_000)   # a large batch: it goes to the flusher
    log.write()
    log.finish_jobs()
    assert log.written == 7
    assert log.synced >= 1
    log.close()


def test_stop_finishes_everything_and_marks_it(tmp_path: Path) -> None:
    for strategy in (DISK_FIRST, MEM_FIRST):
        directory = tmp_path / str(strategy)
        directory.mkdir()
        log = in_files(directory, strategy=strategy, interval_us=FAR_US)
        log.start()
        batch(log, 5)
        log.stop()
        assert log.jobs == 0
        log.reap()
        assert log.synced == 5
        data = (directory / f"{1:016x}.seg").read_bytes()
        assert max(marks(data))[3] == 5
        log.close()


def test_an_idle_thread_refreshes_the_mark(tmp_path: Path) -> None:
    log = in_files(tmp_path)
    log.start()
    batch(log, 4)
    log.finish_jobs()
    path = tmp_path / f"{1:016x}.seg"
    deadline = time.monotonic() + PATIENCE_S
    while not marks(path.read_bytes()):
        assert time.monotonic() < deadline
    assert max(marks(path.read_bytes()))[3] == 4
    log.close()


def test_each_job_tells_the_event_file(tmp_path: Path) -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        log = in_files(tmp_path)
        log.start(event)
        batch(log)
        jobs = 2                                # the header page, then the record
        while jobs:
            assert select.select([event], [], [], PATIENCE_S)[0]
            jobs -= os.eventfd_read(event)
        log.reap()
        assert log.synced == 1
        log.close()
    finally:
        os.close(event)


def test_the_thread_reports_a_failed_sync_and_syncs_no_more() -> None:
    disk, log = on_disk()
    batch(log)
    log.settle()
    log.start()
    batch(log)
    syncs = disk.calls("sync")
    log.stop()
    log.reap()
    assert log.synced == 2

    disk, log = on_disk()
    batch(log)
    disk.fail("sync", 1, errno.EIO)
    syncs = disk.calls("sync")
    log.start()
    with pytest.raises(StorageError, match="Input/output error"):
        log.finish_jobs()
    log.stop()
    assert disk.calls("sync") == syncs + 1


def test_a_failed_sync_of_an_idle_mark_is_reported() -> None:
    disk, log = on_disk()
    batch(log)
    disk.fail("sync", 2, errno.EIO)             # the first is the batch's own
    log.start()
    log.stop()
    with pytest.raises(StorageError, match="Input/output error"):
        log.reap()


def test_a_thread_can_be_started_and_stopped_with_nothing_to_do(tmp_path: Path) -> None:
    for _ in range(20):
        log = in_files(tmp_path)
        log.start()
        log.stop()
        log.stop()
        log.close()
    assert os.listdir(tmp_path) == []
