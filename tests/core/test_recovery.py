"""Recovery of the log: random histories through crashes, every small damage to a small log."""
import errno
import struct
from itertools import pairwise

import pytest

from dengine._core.crc import checksum
from dengine.errors import CorruptionError, FormatError, StorageError
from tests.core.histories import (
    COMMAND,
    DATA,
    DISK_FIRST,
    HEADER,
    MEM_FIRST,
    NOOP,
    PAGE,
    History,
    crc_of,
    marks,
)
from tests.sim.bench_log import LogBench
from tests.sim.disk import Disk
from tests.sim.views import encode_record

SEGMENT = 16 << 10
SEEDS = 2000
BATCHES = 20


@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_history_loses_or_invents_an_entry(batch: int) -> None:
    for seed in range(batch * SEEDS // BATCHES, (batch + 1) * SEEDS // BATCHES):
        history = History(seed)
        for _ in range(6):
            try:
                history.live(history.random.choice([5, 20, 60]))
            except Exception as error:
                raise AssertionError(f"seed {seed}") from error


def test_a_seed_is_a_history() -> None:
    def run() -> list[object]:
        history = History(11)
        for _ in range(4):
            history.live(40)
        return [history.disk.files(), history.model, history.disk.now_us]
    assert run() == run()


# ------------------------------------------------------------------------ a small directory
def small(segments: int = 2) -> tuple[dict[str, bytes], list[bytes]]:
    """The files and records of a log that was closed cleanly, so that a mark proves all of it."""
    disk = Disk(5, 2 * SEGMENT)
    log = LogBench(disk, segment_bytes=SEGMENT)
    log.append(1, NOOP, b"")
    log.append(1, COMMAND, b"x" * 30)
    log.settle(1)
    while len(log.segments) < segments:
        log.append(1, COMMAND, b"y" * 1500)
        log.settle(1)
    log.append(2, COMMAND, b"last")
    log.settle(2)
    records = log.records()
    log.close()
    return {path: data for path, data in disk.files().items() if path.endswith(".seg")}, records


def loaded(files: dict[str, bytes]) -> Disk:
    disk = Disk(1, 2 * SEGMENT)
    for path, data in files.items():
        disk.put(path, data)
    return disk


def recovered(disk: Disk) -> list[bytes] | None:
    """What a start finds; None: it refused, and changed nothing."""
    before = disk.files()
    try:
        log = LogBench(disk, segment_bytes=SEGMENT)
    except (CorruptionError, FormatError):
        assert disk.files() == before
        return None
    finally:
        disk.kill()
    return log.records()


def name(epoch: int) -> str:
    return f"log/{epoch:016x}.seg"


def test_a_small_directory_is_found_as_it_was_left() -> None:
    files, records = small()
    assert sorted(files) == [name(1), name(2)]
    assert recovered(loaded(files)) == records


def test_every_flipped_bit_is_refused_or_changes_nothing() -> None:
    """Of headers, marks, records and what is behind them. A record's padding is in no checksum."""
    files, records = small()
    for path, data in files.items():
        used = len(data.rstrip(b"\0"))
        ranges = [(0, 128), (PAGE, PAGE + 128), (2 * PAGE, 2 * PAGE + 128),
                  (DATA, min(used + 64, len(data)))]
        for start, end in ranges:
            for bit in range(8 * start, 8 * end):
                disk = loaded(files)
                disk.flip(path, bit)
                found = recovered(disk)
                if found is not None and found != records:
                    assert same_but_padding(found, records), f"{path}, bit {bit}"


def same_but_padding(found: list[bytes], records: list[bytes]) -> bool:
    lengths = [struct.unpack_from("<I", r)[0] for r in records]
    return [r[:n] for r, n in zip(found, lengths, strict=True)] == [
        r[:n] for r, n in zip(records, lengths, strict=True)]


def test_every_zeroed_block_is_refused_or_changes_nothing() -> None:
    files, records = small()
    for path, data in files.items():
        for block in range(0, len(data), 512):
            disk = loaded(files)
            disk.write(path, block, bytes(512))
            assert recovered(disk) in (None, records), f"{path}, block {block}"


def test_every_truncation_is_refused_or_changes_nothing() -> None:
    """But of the newest file below its marks: then nothing is left that proves it (see below)."""
    files, records = small()
    for path, data in files.items():
        for size in range(len(data)):
            if path == name(2) and size < 2 * PAGE + 80:
                continue
            disk = loaded(files)
            disk.truncate(path, size)
            assert recovered(disk) in (None, records), f"{path}, {size} bytes"


@pytest.mark.parametrize("segments", [2, 3])
def test_a_missing_segment_is_refused(segments: int) -> None:
    files, _ = small(segments)
    for path in sorted(files)[:-1]:
        disk = loaded(files)
        disk.remove(path)
        assert recovered(disk) is None


def synced_once(segments: int) -> Disk:
    """Killed after the first sync of the newest of so many segments."""
    disk = Disk(5, 2 * SEGMENT)
    log = LogBench(disk, segment_bytes=SEGMENT)
    while len(log.segments) < segments:
        log.append(1, COMMAND, b"y" * 1500)
        log.write()
        log.run()
        log.reap()
    disk.kill()
    return disk


def test_a_missing_segment_that_only_a_mark_names_is_refused() -> None:
    disk = synced_once(3)
    assert marks(disk.read(name(3)))[0][1] == 2
    disk.remove(name(2))
    with pytest.raises(CorruptionError, match=r"0002\.seg is missing"):
        LogBench(disk, segment_bytes=SEGMENT)


def test_a_new_segment_that_was_synced_once_is_named_by_the_one_before() -> None:
    disk = synced_once(2)
    disk.remove(name(2))
    with pytest.raises(CorruptionError, match=r"0002\.seg is missing"):
        LogBench(disk, segment_bytes=SEGMENT)
    log = LogBench(disk, segment_bytes=SEGMENT, alone=False)
    while len(log.segments) < 2:
        log.append(1, COMMAND, b"z" * 1500)
        log.settle()
    assert log.segments[-1][0] == 3             # no name is used twice


def test_without_its_marks_a_log_is_what_the_disk_returns() -> None:
    """Both marks damaged: nothing is proven, all that continues the chain is taken."""
    files, records = small()
    disk = loaded(files)
    for path in files:
        for page in (1, 2):
            disk.write(path, page * PAGE, b"\xff" * 64)
    assert recovered(disk) == records


def test_a_segment_of_another_node_is_refused() -> None:
    files, _ = small()
    for wrong in ({"cluster": 8}, {"incarnation": 8}):
        with pytest.raises(FormatError, match="another node, cluster or place"):
            LogBench(loaded(files), segment_bytes=SEGMENT, **wrong)
    disk = loaded(files)
    disk.put(name(3), files[name(2)])           # a copy under another name
    assert recovered(disk) is None


def test_a_newer_format_is_refused() -> None:
    files, _ = small()
    data = bytearray(files[name(2)])
    struct.pack_into("<I", data, 8, 2)
    with pytest.raises(FormatError, match="newer format"):
        LogBench(loaded({**files, name(2): bytes(data)}), segment_bytes=SEGMENT)


def test_an_unknown_kind_is_refused_never_skipped() -> None:
    files, records = small()
    record = encode_record(2, len(records) + 1, 5, b"from the future", crc_of(records[-1]))
    used = LogBench(loaded(files), segment_bytes=SEGMENT).segments[-1][4]
    disk = loaded(files)
    disk.write(name(2), used, record)
    with pytest.raises(FormatError, match="a kind that this version does not know"):
        LogBench(disk, segment_bytes=SEGMENT)


def test_leftovers_of_a_preparation_are_removed() -> None:
    files, records = small()
    disk = loaded({**files, "log/0000000000000003.seg.new": b"half"})
    log = LogBench(disk, segment_bytes=SEGMENT)
    assert log.records() == records
    assert disk.names("log") == ["0000000000000001.seg", "0000000000000002.seg"]


# --------------------------------------------------------------------------------- torn tails
def test_a_torn_tail_is_cut_by_a_new_segment() -> None:
    """What is readable behind the first bad record is dead, and is not overwritten."""
    files, records = small(1)
    end = DATA + sum(map(len, records))
    good = encode_record(2, len(records) + 1, COMMAND, b"lost", crc_of(records[-1]))
    bad = bytearray(encode_record(2, len(records) + 2, COMMAND, b"torn" * 200, crc_of(good)))
    bad[300] ^= 1
    after = encode_record(2, len(records) + 3, COMMAND, b"readable", crc_of(bytes(bad)))
    disk = loaded(files)
    disk.write(name(1), end, good + bad + after)
    log = LogBench(disk, segment_bytes=SEGMENT)
    assert log.records() == [*records, good]
    assert "torn tail" in log.found.notes[0]
    log.append(3, COMMAND, b"new")
    log.settle()
    now = log.records()
    assert disk.read(name(1))[end:].startswith(good + bad + after)
    log.close()
    assert recovered(disk) == now == [*records, good, now[-1]]


def test_a_lost_block_before_readable_ones_is_a_torn_tail() -> None:
    files, records = small(1)
    end = DATA + sum(map(len, records))
    disk = loaded(files)
    disk.write(name(1), end + 512, b"readable, but behind a block of zeros")
    log = LogBench(disk, segment_bytes=SEGMENT)
    log.append(3, COMMAND, b"z" * 900)
    log.settle()
    assert len(log.segments) == 2
    assert disk.read(name(1))[end:end + 512] == bytes(512)


def test_a_clean_tail_goes_on_in_place() -> None:
    files, records = small(1)
    disk = loaded(files)
    log = LogBench(disk, segment_bytes=SEGMENT)
    log.append(3, COMMAND, b"new")
    log.settle()
    assert len(log.segments) == 1
    assert log.records()[:-1] == records


def test_a_lost_header_does_not_bring_old_records_back() -> None:
    """The power cut kept the records of a new segment, but not its header: it is not used again."""
    files, records = small(1)
    new = encode_record(2, len(records) + 1, COMMAND, b"a" * 100, crc_of(records[-1]))
    behind = encode_record(2, len(records) + 2, COMMAND, b"b", crc_of(new))
    disk = loaded(files)
    disk.put(name(2), (bytes(DATA) + new + behind).ljust(SEGMENT, b"\0"))
    log = LogBench(disk, segment_bytes=SEGMENT)
    assert log.records() == records
    log.cut(log.last)                           # the next record opens a segment
    log.append_record(new)
    log.settle()
    log.close()
    assert recovered(disk) == [*records, new]


def test_records_in_a_proven_segment_must_be_there() -> None:
    """A bad record below the mark is corruption and names file, offset and entry."""
    files, records = small(1)
    disk = loaded(files)
    disk.flip(name(1), 8 * (DATA + len(records[0]) + 40))
    with pytest.raises(CorruptionError, match=r"0001\.seg, offset 12320: entry 2 does not match"):
        LogBench(disk, segment_bytes=SEGMENT)


# --------------------------------------------------------------------------- cuts and anchors
def conflict(disk: Disk, strategy: int = DISK_FIRST) -> LogBench:
    """A log whose entries 4 to 6 were cut and replaced."""
    log = LogBench(disk, strategy=strategy, segment_bytes=SEGMENT)
    for i in range(6):
        log.append(1, COMMAND, b"old %d" % i)
    log.settle()
    log.cut(3)
    log.append(2, COMMAND, b"new")
    return log


def test_a_cut_suffix_stays_dead() -> None:
    disk = Disk(1, 2 * SEGMENT)
    log = conflict(disk)
    log.settle()
    records = log.records()
    assert len(records) == 4
    disk.power_cut()
    for _ in range(3):
        log = LogBench(disk, segment_bytes=SEGMENT)
        assert log.records() == records
        disk.power_cut()


def test_an_anchor_must_be_the_chains_entry() -> None:
    """Index and term are not enough: the crc must agree too."""
    disk = Disk(1, 2 * SEGMENT)
    conflict(disk).settle()
    disk.kill()
    files = disk.files()
    for offset, size in ((48, 8), (56, 8), (64, 4)):        # anchor's index, term, crc
        data = bytearray(files[name(2)])
        data[offset] ^= 1
        struct.pack_into("<I", data, 12, checksum(bytes(data[16:HEADER.size])))
        assert size
        assert recovered(loaded({**files, name(2): bytes(data)})) is None


def test_an_anchor_of_another_log_cuts_nothing() -> None:
    """Equal index and term, other crc: the segment was never synced, so it is left out."""
    files, records = small(1)
    used = HEADER.unpack_from(files[name(1)])
    for crc, expected in [(crc_of(records[0]), 1), (crc_of(records[0]) ^ 1, len(records))]:
        record = encode_record(2, 2, COMMAND, b"of another log", crc)
        header = bytearray(HEADER.pack(*used[:6], 2, 1, 1, crc, 0))
        struct.pack_into("<I", header, 12, checksum(bytes(header[16:])))
        disk = loaded(files)
        disk.put(name(2), (bytes(header).ljust(DATA, b"\0") + record).ljust(used[3], b"\0"))
        log = LogBench(disk, segment_bytes=SEGMENT)
        assert log.records()[:expected] == records[:expected]
        assert (log.records()[1] == record) == (expected == 1)


def test_a_cut_of_the_first_configuration_is_no_corruption() -> None:
    disk = Disk(1, 2 * SEGMENT)
    log = LogBench(disk, segment_bytes=SEGMENT)
    log.append(1, 3, b"first configuration")
    log.append(1, NOOP, b"")
    log.settle()
    log.cut(0)
    log.append(2, 3, b"of the next leader")
    log.settle()
    disk.kill()
    log = LogBench(disk, segment_bytes=SEGMENT)
    assert (log.last, log.found.configs) == (1, [1])
    disk.kill()
    log = LogBench(disk, segment_bytes=SEGMENT)
    log.cut(0)
    log.append(3, NOOP, b"")
    log.settle()
    disk.kill()
    assert LogBench(disk, segment_bytes=SEGMENT).found.configs == []


def test_a_second_start_finds_what_the_first_one_left_of_a_cut() -> None:
    """The newest mark names a segment that is dead: removing it must not look like a loss."""
    disk = Disk(1, 2 * SEGMENT)
    log = LogBench(disk, segment_bytes=SEGMENT)
    for i in range(3):
        log.append(1, COMMAND, b"%d" % i * 1500)
        log.settle()                            # entry 3 lies in the second segment
    assert len(log.segments) == 2
    log.cut(1)
    log.append(2, COMMAND, b"new")
    log.write()
    log.run()                                   # its sync puts the mark of the dead one beside it
    disk.kill()
    for _ in range(2):
        log = LogBench(disk, segment_bytes=SEGMENT)
        assert log.last == 2
        disk.kill()


def test_each_crash_of_a_start_that_removes_dead_segments() -> None:
    for seed in range(200):
        disk = Disk(seed, 2 * SEGMENT)
        log = LogBench(disk, segment_bytes=SEGMENT)
        for i in range(9):
            log.append(1, COMMAND, b"%d" % i * 1500)
            log.settle()
        log.cut(1)
        log.append(2, COMMAND, b"new")
        log.settle()
        records = log.records()
        disk.kill()
        for call in ("write", "sync_dir"):
            disk.fail(call, 1, errno.EIO)
            with pytest.raises(StorageError):
                LogBench(disk, segment_bytes=SEGMENT)
            disk.power_cut()
        assert LogBench(disk, segment_bytes=SEGMENT).records() == records


# --------------------------------------------------------------------------- what counts as synced
def test_what_is_accepted_is_what_the_disk_returns() -> None:
    """After a kill the page cache is synced first: a power cut takes nothing that was found."""
    for seed in range(100):
        disk = Disk(seed, 2 * SEGMENT)
        log = LogBench(disk, strategy=MEM_FIRST, segment_bytes=SEGMENT)
        for i in range(5):
            log.append(1, COMMAND, b"%d" % i * 300)
        log.write()
        disk.kill()
        records = LogBench(disk, strategy=MEM_FIRST, segment_bytes=SEGMENT).records()
        assert len(records) == 5
        disk.power_cut()
        assert LogBench(disk, segment_bytes=SEGMENT).records() == records


def test_a_page_cache_that_lies_is_not_believed() -> None:
    """A sync failed, the kernel calls the pages clean: the start reads them from the disk."""
    for seed in range(100):
        disk = Disk(seed, 2 * SEGMENT)
        log = LogBench(disk, segment_bytes=SEGMENT)
        log.append(1, COMMAND, b"safe")
        log.settle()
        log.append(1, COMMAND, b"lie" * 1000)
        log.write()
        disk.fail("sync", 1, errno.EIO)
        log.run()
        with pytest.raises(StorageError):
            log.reap()
        disk.kill()
        records = LogBench(disk, segment_bytes=SEGMENT).records()
        disk.power_cut()
        assert LogBench(disk, segment_bytes=SEGMENT).records() == records


def test_a_failed_sync_refuses_the_start() -> None:
    files, _ = small()
    disk = loaded(files)
    disk.fail("sync", 1, errno.EIO)
    with pytest.raises(StorageError, match="could not be synced"):
        LogBench(disk, segment_bytes=SEGMENT)
    assert disk.files() == files


def test_a_name_that_was_not_synced_is_synced_at_the_start() -> None:
    """A run was killed between the rename of a prepared segment and the sync of its directory."""
    for seed in range(50):
        disk = Disk(seed, 2 * SEGMENT)
        log = LogBench(disk, segment_bytes=SEGMENT)
        log.append(1, COMMAND, b"x" * 1200)
        log.settle()
        log.append(1, COMMAND, b"x" * 1200)
        log.write()
        disk.fail("sync_dir", 1, errno.EIO)
        log.run_preparer()
        disk.kill()
        log = LogBench(disk, segment_bytes=SEGMENT)
        while len(log.segments) < 2:
            log.append(1, COMMAND, b"x" * 1200)
            log.settle()
        records = log.records()
        disk.power_cut()
        assert LogBench(disk, segment_bytes=SEGMENT).records() == records


def test_marks_go_on_counting_after_a_start() -> None:
    files, _ = small(1)
    disk = loaded(files)
    sequences = []
    for _ in range(4):
        log = LogBench(disk, segment_bytes=SEGMENT)
        log.append(3, COMMAND, b"more")
        log.settle(1)
        log.close()
        sequences.append(max(m[0] for m in marks(disk.durable(name(1)))))
        assert LogBench(disk, segment_bytes=SEGMENT).found.commit == 1
        disk.kill()
    assert all(b > a for a, b in pairwise(sequences))
