"""When an entry counts as written, synced and durable, by the durability table."""
import errno

import pytest

from dengine.errors import StorageError
from tests.core.histories import DISK_FIRST, MEM_FIRST, NOOP, newest_mark
from tests.core.small_logs import FIRST_CRC, KB, MB, add, opened, write_all
from tests.sim.bench_log import SYNC, WRITE, LogBench
from tests.sim.disk import Disk
from tests.sim.views import encode_record

INLINE = 256 * KB


# ------------------------------------------------------------------------------- DiskFirst
def test_disk_first_counts_after_the_sync() -> None:
    disk, log = opened()
    add(log, 10, 10)
    assert (log.written, log.synced, log.durable()) == (0, 0, 0)
    log.write()
    assert log.next_job[0] == WRITE             # the header page
    log.run(1)
    assert log.next_job == (WRITE | SYNC, False, 2, 1)
    log.run(1)
    assert log.durable() == 0
    log.reap()
    assert (log.written, log.synced, log.durable()) == (2, 2, 2)
    disk.power_cut()
    assert LogBench(disk).last == 2


def test_disk_first_gathers_while_a_batch_is_under_way() -> None:
    disk, log = opened()
    add(log, 10)
    log.write()
    jobs = log.jobs
    for _ in range(5):
        add(log, 10)
        log.write()
    assert log.jobs == jobs
    log.run()
    log.reap()
    syncs = disk.calls("sync")
    write_all(log)
    assert log.durable() == 6
    assert disk.calls("sync") == syncs + 1


def test_a_roll_syncs_each_segment_before_the_next_one_counts() -> None:
    disk, log = opened()
    add(log, 2000, 2000, 2000, 2000)
    log.write()
    while log.run(1):
        log.reap()
        floor = log.durable()
        copy = Disk(log.jobs, 128 * KB)
        for path in disk.files():
            copy.put(path, disk.durable(path))
        assert LogBench(copy, segment_bytes=16 * KB).last >= floor
    assert log.durable() == 4


def test_a_failed_sync_is_final() -> None:
    disk, log = opened()
    add(log, 2000, 2000, 2000)                  # over a roll: more jobs are queued behind
    log.write()
    disk.fail("sync", 1, errno.EIO)
    syncs = disk.calls("sync")
    log.run()
    with pytest.raises(StorageError, match="could not be synced: Input/output error"):
        log.reap()
    assert log.durable() == 0
    assert disk.calls("sync") == syncs + 1      # never tried again
    assert log.refresh() == 0
    assert newest_mark(disk) is None


# ------------------------------------------------------------------------------- MemFirst
def test_mem_first_counts_after_the_write() -> None:
    disk, log = opened(MEM_FIRST)
    add(log, 10, 10)
    log.write()
    assert (log.written, log.synced, log.durable()) == (2, 0, 2)
    disk.kill()
    assert LogBench(disk).last == 2


def test_mem_first_syncs_late_and_covers_what_is_written_by_then() -> None:
    _, log = opened(MEM_FIRST)
    add(log, 10)
    log.write()
    assert log.next_job == (SYNC, True, 1, 1)
    for _ in range(9):
        add(log, 10)
        log.write()
    assert log.jobs == 1
    log.run()
    log.reap()
    assert log.synced == 10
    log.write()
    assert log.jobs == 0


def test_while_something_is_not_synced_a_sync_is_queued() -> None:
    _, log = opened(MEM_FIRST)
    add(log, 10)
    log.write()
    log.run()                                   # begun: what comes now needs another
    add(log, 10)
    log.write()
    assert log.jobs == 1
    log.reap()
    assert log.synced == 1
    log.run()
    log.reap()
    assert log.synced == 2


def test_a_sync_of_one_segment_is_none_of_the_next() -> None:
    _, log = opened(MEM_FIRST)
    add(log, 10)
    log.write()                                 # a late sync is queued, of the first segment
    add(log, 15 * KB)
    log.write()
    log.run(1)
    log.reap()
    assert log.synced == 1, "the second record lies in another segment"
    log.run()
    log.reap()
    assert log.synced == 2, "that has a sync of its own"


def test_mem_first_writes_large_batches_through_the_flusher() -> None:
    _, log = opened(MEM_FIRST, segment=8 * MB, capacity=8 * MB)
    add(log, INLINE, 10)
    log.write()
    assert (log.written, log.durable()) == (0, 0)
    log.run()
    log.reap()
    assert log.durable() == 2
    write_all(log)
    assert log.synced == 2


@pytest.mark.parametrize("seed", range(30))
def test_a_large_batch_over_a_roll_leaves_no_hole(seed: int) -> None:
    """The segment before is synced before the next one's sync can prove anything."""
    disk = Disk(seed, 2 * MB)
    log = LogBench(disk, strategy=MEM_FIRST, segment_bytes=MB)
    add(log, 10)
    log.settle()
    add(log, *[100 * KB] * 12)
    log.write()
    log.run()
    log.reap()
    assert len(log.segments) == 2
    log.write()
    log.run()                                   # the late sync, of the second segment only
    log.reap()
    assert log.synced == 13
    disk.power_cut()
    assert LogBench(disk, segment_bytes=MB).last == 13


@pytest.mark.parametrize("strategy", [DISK_FIRST, MEM_FIRST])
def test_the_no_op_of_a_term_counts_once_it_is_synced(strategy: int) -> None:
    _, log = opened(strategy)
    add(log, 10)
    add(log, 0, kind=NOOP)
    add(log, 10)
    log.write()
    assert log.durable() == (1 if strategy == MEM_FIRST else 0)
    log.run()
    log.reap()
    assert log.durable() == 3


def test_each_unsynced_no_op_holds_back() -> None:
    """Also the older of two, also after a cut, also one that follows a cut."""
    _, log = opened(MEM_FIRST)
    add(log, 10)
    add(log, 0, kind=NOOP)
    add(log, 10)
    add(log, 0, kind=NOOP, term=2)
    log.write()
    assert log.durable() == 1
    log.cut(3)
    assert log.durable() == 1
    add(log, 10, term=3)
    log.write()
    assert log.durable() == 1

    _, log = opened(MEM_FIRST)
    add(log, *[10] * 7)
    add(log, 0, kind=NOOP)
    log.write()
    log.cut(6)
    add(log, 0, kind=NOOP, term=2)
    log.write()
    assert log.durable() == 6
    write_all(log)
    assert log.durable() == 7


def test_a_no_op_from_the_leader_counts_once_it_is_synced() -> None:
    _, log = opened(MEM_FIRST)
    log.append_record(encode_record(1, 1, NOOP, b"", FIRST_CRC))
    log.write()
    assert log.durable() == 0
    log.run()
    log.reap()
    assert log.durable() == 1


def test_too_old_an_unsynced_write_stops_the_counting() -> None:
    """At most max_unflushed_ms of what is acknowledged can be lost with the power."""
    disk, log = opened(MEM_FIRST, max_unflushed_us=200_000)
    add(log, 10)
    log.write()
    disk.advance(200_000)
    assert log.durable() == 1
    disk.advance(1)
    assert log.durable() == 0
    log.run()
    log.reap()
    assert log.durable() == 1
    assert log.unsynced_us == 0


def test_a_late_sync_that_covers_less_makes_nothing_younger() -> None:
    """Of a segment that is full it does not cover what was written to the next one since."""
    disk, log = opened(MEM_FIRST, max_unflushed_us=200_000)
    add(log, 10)
    log.write()                                 # a late sync is queued, of the first segment
    add(log, 15 * KB)
    log.write()
    disk.advance(150_000)
    log.run(1)
    log.reap()
    assert (log.synced, log.durable()) == (1, 2)
    disk.advance(60_000)
    assert log.durable() == 1


def test_a_cut_of_all_that_was_unsynced_leaves_nothing_overdue() -> None:
    disk, log = opened(MEM_FIRST)
    add(log, 10)
    log.settle()
    add(log, 10)
    log.write()
    log.cut(1)
    disk.advance(1_000_000)
    assert log.unsynced_us == 0
    add(log, 10, term=2)
    log.write()
    assert log.durable() == 2


def test_a_short_write_goes_on() -> None:
    for keep in (1, 511, 4096):
        for nth in (1, 2):
            disk, log = opened(MEM_FIRST)
            add(log, 10)                        # the first roll writes zeros
            disk.shorten(nth, keep)
            add(log, 2000)
            log.write()
            assert log.durable() == 2
            disk.kill()
            assert LogBench(disk).last == 2


def test_a_failed_write_stops_the_node() -> None:
    disk, log = opened(MEM_FIRST)
    add(log, 10)
    disk.fail("write", 2, errno.ENOSPC)
    with pytest.raises(StorageError, match="could not be written: No space left"):
        log.write()
    assert log.durable() == 0
