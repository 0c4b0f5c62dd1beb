"""Where records lie, how segments follow each other and what a cut leaves: against a list."""
import errno
import random

import pytest

from dengine.errors import InvariantError, StorageError
from tests.core.histories import (
    COMMAND,
    DATA,
    DISK_FIRST,
    MEM_FIRST,
    NOOP,
    PAGE,
    crc_of,
)
from tests.core.small_logs import FIRST_CRC, KB, MB, add, opened, write_all
from tests.sim.bench_log import LogBench
from tests.sim.disk import Disk
from tests.sim.views import encode_record


# ------------------------------------------------------------------------------- records
def test_records_are_chained_from_the_cluster_id() -> None:
    _, log = opened()
    assert log.append(1, NOOP, b"") == 1
    assert log.append(2, COMMAND, b"payload") == 2
    first = encode_record(1, 1, NOOP, b"", FIRST_CRC)
    second = encode_record(2, 2, COMMAND, b"payload", crc_of(first))
    assert log.records() == [first, second]
    assert (log.last, log.last_term, log.last_crc) == (2, 2, crc_of(second))
    assert [log.crc_at(i) for i in range(3)] == [FIRST_CRC, crc_of(first), crc_of(second)]


def test_a_record_of_the_leader_is_kept_byte_for_byte() -> None:
    _, log = opened()
    record = encode_record(4, 1, COMMAND, b"from the leader", FIRST_CRC)
    log.append_record(record)
    assert log.record(1) == record
    with pytest.raises(InvariantError, match="record 3 appended after 1"):
        log.append_record(encode_record(4, 3, COMMAND, b"", 0))


def test_what_is_not_in_the_log_cannot_be_read() -> None:
    _, log = opened()
    add(log, 10)
    for index in (0, 2, 99):
        with pytest.raises(InvariantError, match="not in the log"):
            log.record(index)
        assert log.span(index, index, 100) is None
        assert log.place(index, index, 100) is None


@pytest.mark.parametrize("strategy", [DISK_FIRST, MEM_FIRST])
@pytest.mark.parametrize("seed", range(15))
def test_every_read_agrees_with_a_list(strategy: int, seed: int) -> None:
    """From the tail, the map and the file, in any piece, across rolls and cuts."""
    r = random.Random(seed)
    disk, log = opened(strategy)
    model: list[bytes] = []
    term = 1
    for _ in range(120):
        if r.random() < 0.1:
            to = r.randrange(max(0, len(model) - 8), len(model) + 1)
            log.cut(to)
            del model[to:]
            term += 1
        if r.random() < 0.05:
            disk.fail("map", 1, errno.ENOMEM)   # then that segment is read with pread
        add(log, r.randrange(900), term=term)
        model.append(log.record(len(model) + 1))
        if r.random() < 0.5:
            log.write()
        log.run(r.randrange(3))
        log.reap()
        first = r.randrange(1, len(model) + 1)
        last = r.randrange(first, len(model) + 1)
        size = r.choice([1, 500, 3000, MB])
        for piece in (log.span(first, last, size), from_file(disk, log, first, last, size)):
            if piece is not None:
                data, n = piece
                assert data == b"".join(model[first - 1:first - 1 + n])
                assert n == 1 or (len(data) <= size and first + n - 1 <= last)
        assert log.record(first) == model[first - 1]
        assert log.crc_at(first) == crc_of(model[first - 1])
    assert log.records() == model


def from_file(disk: Disk, log: LogBench, first: int, last: int, size: int):
    """The piece as a peer's catch-up reads it: only what is written."""
    if last > log.written:
        return None
    epoch, offset, n, count = log.place(first, last, size)
    name = f"{epoch:016x}.seg"
    path = f"log/{name}"
    return disk.read(path)[offset:offset + n], count


def test_what_is_not_written_is_not_read_from_the_file() -> None:
    _, log = opened()
    add(log, 10, 10)
    write_all(log)
    add(log, 10)
    assert log.place(1, 3, MB)[3] == 2


def test_a_span_gives_as_many_records_as_fit() -> None:
    _, log = opened()
    add(log, 8, 8, 8)                           # 40 bytes each
    assert [log.span(1, 3, n)[1] for n in (1, 79, 80, 119, 120, 1000)] == [1, 1, 2, 2, 3, 3]
    assert log.span(1, 2, 1000)[1] == 2


# ------------------------------------------------------------------------------- segments
def test_segments_double_up_to_the_limit() -> None:
    _, log = opened(segment=8 * MB, capacity=16 * MB)
    while len(log.segments) < 6:
        add(log, 900 * KB)
        write_all(log)
        log.run_preparer()
        log.reap()
    assert [s[1] for s in log.segments] == [MB, 2 * MB, 4 * MB, 8 * MB, 8 * MB, 8 * MB]
    assert log.stalls == 0


def test_a_large_record_gets_a_segment_of_its_own_size() -> None:
    _, log = opened(segment=16 * KB, capacity=4 * MB)
    add(log, 10, MB, 10)
    write_all(log)
    sizes = [s[1] for s in log.segments]
    assert sizes[1] >= DATA + MB
    assert sizes[1] % PAGE == 0
    assert [len(r) for r in log.records()] == [48, MB + 32, 48]


def test_a_prepared_segment_that_is_too_small_is_passed_over() -> None:
    disk, log = opened(segment=16 * KB, capacity=4 * MB)
    add(log, 3000)
    write_all(log)
    log.run_preparer()
    log.reap()
    add(log, 100 * KB)
    log.settle()
    assert [s[0] for s in log.segments] == [1, 3]
    records = log.records()
    disk.power_cut()
    assert LogBench(disk, segment_bytes=16 * KB).records() == records


def test_the_next_segment_is_prepared_when_the_active_one_is_half_full() -> None:
    disk, log = opened(segment=64 * KB)
    add(log, 15 * KB)
    write_all(log)
    assert log.run_preparer() == 0
    add(log, 15 * KB)
    write_all(log)
    assert log.run_preparer() == 1
    assert disk.names("log") == [f"{1:016x}.seg", f"{2:016x}.seg"]
    assert disk.durable(f"log/{2:016x}.seg") == bytes(64 * KB)
    log.reap()
    add(log, 30 * KB)
    assert (len(log.segments), log.stalls) == (2, 0)


def test_a_roll_that_outruns_the_preparer_waits_and_is_counted() -> None:
    _, log = opened()
    add(log, 3000)
    write_all(log)                              # planned, not run
    add(log, 3000)
    assert (len(log.segments), log.stalls) == (2, 1)
    log.reap()                                  # the job that the roll waited for changes nothing
    add(log, 3000)
    log.settle()
    assert len(log.records()) == 3


def test_an_old_job_never_passes_off_a_new_segment_as_prepared() -> None:
    """Even where the memory of the old one was given to the new one."""
    for _ in range(50):
        _, log = opened(segment=16 * KB, capacity=4 * MB)
        add(log, 3000)
        write_all(log)
        add(log, 100 * KB)                      # waits for the prepared one, which is too small
        log.write()                             # plans another
        log.reap()                              # takes back the old job
        add(log, 90 * KB)
        log.settle()
        log.run_preparer()
        log.reap()
        assert len(log.records()) == 3


def test_a_full_disk_is_an_error_that_says_so() -> None:
    for call in ("open", "write", "sync", "rename", "sync_dir"):
        disk, log = opened()
        disk.fail(call, 1, errno.ENOSPC)
        with pytest.raises(StorageError, match="No space left on device"):
            add(log, 10)


def test_records_of_one_segment_never_reach_into_the_next() -> None:
    _, log = opened()
    for _ in range(40):
        add(log, 700)
    for _, size, _, _, end in log.segments:
        assert end <= size
    assert len(log.segments) > 3


# ------------------------------------------------------------------------------- cuts
def test_a_cut_opens_a_segment_anchored_at_the_last_entry() -> None:
    _, log = opened()
    add(log, 10, 10, 10)
    write_all(log)
    log.cut(2)
    add(log, 20, term=2)
    write_all(log)
    assert [(epoch, first, count) for epoch, _, first, count, _ in log.segments] == [
        (1, 1, 2), (2, 3, 1)]
    assert (log.last, log.last_term, log.durable()) == (3, 2, 3)


def test_what_was_cut_before_its_write_is_never_written() -> None:
    disk, log = opened()
    add(log, 10)
    write_all(log)
    add(log, 100)
    log.cut(1)
    write_all(log)
    assert b"x" * 100 not in disk.read(f"log/{1:016x}.seg")


def test_a_job_from_before_a_cut_counts_up_to_the_cut() -> None:
    _, log = opened()
    add(log, 10, 10, 10)
    log.write()
    log.cut(1)
    add(log, 10, 10, term=2)
    log.run()
    log.reap()
    assert (log.written, log.synced) == (1, 1)
    write_all(log)
    assert log.synced == 3


def test_a_job_from_before_two_cuts_counts_up_to_the_lower() -> None:
    _, log = opened()
    add(log, *[10] * 9)
    log.write()
    log.cut(4)
    add(log, 10, 10, 10, term=2)                # 5 to 7: not even written
    log.cut(6)
    add(log, 10, term=3)
    log.run()
    log.reap()
    assert (log.written, log.synced) == (4, 4)
    write_all(log)
    assert log.durable() == 7


def test_a_late_sync_from_before_a_cut_counts_up_to_the_cut() -> None:
    _, log = opened(MEM_FIRST)
    add(log, *[10] * 5)
    log.write()
    log.cut(2)
    add(log, 10, 10, term=2)
    log.run()
    log.reap()
    assert log.synced == 2
    log.write()
    write_all(log)
    assert log.synced == 4


def test_cut_off_segments_stay_until_the_next_start() -> None:
    disk, log = opened()
    for _ in range(4):
        add(log, 2000)
        write_all(log)
    log.cut(1)
    add(log, 10, term=2)
    log.settle()
    before = disk.names("log")
    records = log.records()
    log.close()
    disk.kill()
    log = LogBench(disk)
    assert log.records() == records
    assert len(disk.names("log")) < len(before)


def test_a_cut_below_the_log_is_refused() -> None:
    _, log = opened()
    add(log, 10)
    with pytest.raises(InvariantError):
        log.cut(2)


def test_closing_closes_every_file() -> None:
    disk, log = opened()
    for _ in range(6):
        add(log, 2000)
        write_all(log)
    log.cut(2)
    add(log, 10, term=2)
    log.settle()
    log.close()
    assert disk.open_files == 0


def test_one_batch_of_many_segments_meets_a_disk_that_stands_still() -> None:
    """Each roll asks for a sync of the segment before: the ring of jobs must not run over."""
    _, log = opened(MEM_FIRST, segment=8 * KB, capacity=1 * MB, threshold=1)
    add(log, 100, kind=NOOP)
    write_all(log)
    add(log, *[2500] * 80)                      # 80 segments, below what is written in one go
    for _ in range(5):
        log.write()                             # the flusher does nothing
    add(log, *[2500] * 80)
    write_all(log)
    assert log.written == log.last == 161
    log.hurry()
    write_all(log)
    assert log.synced == 161
