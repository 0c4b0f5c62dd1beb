"""The hard state through every crash point of a save, bit rot and newer formats."""
import errno
import struct

import pytest

from dengine._core.crc import checksum
from dengine.errors import CorruptionError, FormatError, StorageError
from tests.sim.bench_log import MetaBench
from tests.sim.disk import Disk

PAGE = 4096
SLOT = 96                   # bytes of a slot that mean something
FORMAT_AT, CRC_AT, CRC_FROM, SEQUENCE_AT, DIRTY_AT = 8, 12, 16, 16, 64
CRASHES = pytest.mark.parametrize("crash", ["kill", "power_cut"])
SEEDS = range(40)


def made(seed: int = 0) -> tuple[Disk, MetaBench]:
    disk = Disk(seed, 2 * PAGE)
    return disk, MetaBench(disk, create=True)


def vote_of(disk: Disk) -> tuple[int, int]:
    disk.kill()
    state = MetaBench(disk).state
    return state["term"], state["vote"]


def test_a_new_file_names_this_node() -> None:
    disk, meta = made()
    meta.close()
    assert disk.names("node") == ["meta"]
    state = MetaBench(disk, cluster=0, node=0, incarnation=0).state
    assert state == {"cluster": 7, "node": 1, "incarnation": 9, "term": 0, "vote": 0, "sequence": 1,
                     "dirty": 0, "doubt": 0, "known": 0}


@pytest.mark.parametrize("seed", SEEDS)
def test_an_interrupted_creation_leaves_all_or_nothing(seed: int) -> None:
    for nth, call in [(n, c) for c in ("write", "sync", "rename", "sync_dir") for n in (1, 2)]:
        disk = Disk(seed, 2 * PAGE)
        disk.fail(call, nth, errno.EIO)
        try:
            MetaBench(disk, create=True)
        except StorageError:
            disk.power_cut()
        if "meta" in disk.names("node"):
            assert MetaBench(disk).state["incarnation"] == 9
        else:
            MetaBench(disk, create=True)


def test_a_save_may_be_relied_on_after_its_first_slot() -> None:
    _, meta = made()
    version = meta.save(3, 2)
    assert meta.saved < version
    assert meta.run() == 0
    assert meta.saved == version
    assert meta.run() == 0


@CRASHES
@pytest.mark.parametrize("seed", SEEDS)
def test_each_crash_point_keeps_the_old_vote_or_the_new(seed: int, crash: str) -> None:
    for jobs in range(3):
        disk, meta = made(seed)
        meta.save(3, 2)
        meta.run(), meta.run()
        meta.save(4, 1)
        for _ in range(jobs):
            assert meta.run() == 0
        getattr(disk, crash)()
        found = vote_of(disk)
        assert found in ([(3, 2), (4, 1)] if jobs == 0 else [(4, 1)])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_crash_inside_a_slot_keeps_the_old_vote_or_the_new(seed: int, call: str) -> None:
    for nth in (1, 2):
        disk, meta = made(seed)
        meta.save(3, 2)
        meta.run(), meta.run()
        meta.save(4, 1)
        disk.fail(call, nth, errno.EIO)
        errors = [meta.run(), meta.run()]
        assert errors[nth - 1] == errno.EIO
        disk.power_cut()
        assert vote_of(disk) in ([(3, 2), (4, 1)] if nth == 1 else [(4, 1)])


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_start_found_never_goes_back(seed: int) -> None:
    """Kill between the two slots, start, and lose the power in the next save or before it."""
    for jobs in (0, 1):
        for rot in (False, True):
            disk, meta = made(seed)
            meta.save(3, 2)
            meta.run()
            disk.kill()
            meta = MetaBench(disk)
            assert meta.state["term"] == 3
            meta.save(4, 1)
            for _ in range(jobs):
                meta.run()
            disk.power_cut()
            if rot:
                disk.flip("node/meta", 8 * 80)          # slot 0, which was written last
            assert vote_of(disk) in [(3, 2), (4, 1)]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_start_read_is_on_the_platter(seed: int) -> None:
    """A save that a kill left in the page cache is synced before anything relies on it."""
    disk, meta = made(seed)
    meta.save(3, 2)
    disk.fail("sync", 1, errno.EIO)                     # written, not synced
    meta.run()
    disk.kill()
    found = vote_of(disk)
    disk.power_cut()
    assert vote_of(disk) == found


def test_a_failed_sync_refuses_the_start() -> None:
    """The kernel tells it once: what it kept in the cache is not believed."""
    disk, _ = made()
    disk.fail("sync", 1, errno.EIO)
    with pytest.raises(StorageError, match="could not be synced"):
        MetaBench(disk)


def test_a_failed_save_is_reported() -> None:
    for call, error in [("write", errno.ENOSPC), ("sync", errno.EIO)]:
        disk, meta = made()
        meta.save(3, 2)
        disk.fail(call, 1, error)
        assert meta.run() == error
        assert meta.saved == 0


def test_a_short_write_goes_on() -> None:
    disk, meta = made()
    for keep in (1, 100, 512):
        disk.shorten(1, keep)
        meta.save(keep, 1)
        assert meta.run() == meta.run() == 0
    disk.shorten(1, 10)
    meta.save_now()
    assert vote_of(disk) == (512, 1)


@pytest.mark.parametrize("slot", [0, 1])
def test_one_bad_slot_is_covered_and_mended(slot: int) -> None:
    disk, meta = made()
    meta.save(3, 2)
    meta.run(), meta.run()
    good = disk.read("node/meta")
    for bit in range(slot * 8 * PAGE, slot * 8 * PAGE + 8 * SLOT):
        disk.put("node/meta", good)
        disk.flip("node/meta", bit)
        try:
            assert vote_of(disk) == (3, 2)
        except FormatError:                             # a sequence of the future in a newer format
            pytest.fail(f"bit {bit} was taken for a newer format")
        assert disk.durable("node/meta")[:SLOT] == disk.durable("node/meta")[PAGE:][:SLOT]
    for block in range(slot * PAGE, (slot + 1) * PAGE, 512):
        disk.put("node/meta", good[:block] + bytes(512) + good[block + 512:])
        assert vote_of(disk) == (3, 2)


def test_every_truncation_is_covered_or_refused() -> None:
    disk, meta = made()
    meta.save(3, 2)
    meta.run(), meta.run()
    good = disk.read("node/meta")
    for size in range(0, len(good), 8):
        disk.put("node/meta", good[:size])
        if size < SLOT - 8:                             # the last field is 0
            with pytest.raises(CorruptionError, match="both copies"):
                MetaBench(disk)
        else:
            assert vote_of(disk) == (3, 2)


def test_two_bad_slots_are_refused_and_left_alone() -> None:
    disk, _ = made()
    disk.flip("node/meta", 8 * 40)
    disk.flip("node/meta", 8 * (PAGE + 41))
    before = disk.read("node/meta")
    with pytest.raises(CorruptionError, match="vote is lost"):
        MetaBench(disk)
    assert disk.read("node/meta") == before


def newer(page: bytes, offset: int, value: int, sequence: int) -> bytes:
    page = bytearray(page)
    page[offset] = value
    struct.pack_into("<Q", page, SEQUENCE_AT, sequence)
    struct.pack_into("<I", page, CRC_AT, checksum(page[CRC_FROM:SLOT]))
    return bytes(page)


@pytest.mark.parametrize(("offset", "value"), [(FORMAT_AT, 2), (DIRTY_AT, 2), (DIRTY_AT + 1, 2)])
def test_a_newer_format_is_refused(offset: int, value: int) -> None:
    disk, _ = made()
    good = disk.read("node/meta")
    for slots in ((0,), (0, 1)):                        # also in the middle of its first save
        pages = [good[:PAGE], good[PAGE:]]
        for slot in slots:
            pages[slot] = newer(pages[slot], offset, value, 2)
        disk.put("node/meta", b"".join(pages))
        with pytest.raises(FormatError, match="newer format"):
            MetaBench(disk)
        assert disk.read("node/meta") == b"".join(pages)


def test_a_missing_file_is_an_error() -> None:
    with pytest.raises(StorageError, match="could not be opened"):
        MetaBench(Disk())


# ---------------------------------------------------------------------------------------- doubt
HERE, THERE = bytes(16), bytes(15) + b"\1"          # boot ids


@pytest.mark.parametrize(("mem_first", "boot", "now", "doubt"), [
    (True, THERE, True, 1), (True, THERE, False, 1),    # the strategy of the run before decides
    (False, THERE, True, 0), (False, THERE, False, 0),
    (True, HERE, True, 0)])                             # killed: the page cache is still there
def test_a_page_cache_that_acknowledged_and_is_lost_is_doubt(
        mem_first: bool, boot: bytes, now: bool, doubt: int) -> None:
    disk = Disk(0, 2 * PAGE)
    MetaBench(disk, create=True, mem_first=mem_first)
    disk.kill()
    MetaBench(disk).begin(boot, now)
    for _ in range(2):                                  # it stays until it is ended
        disk.kill()
        meta = MetaBench(disk)
        meta.begin(boot, now)
        assert meta.state["doubt"] == doubt
        assert meta.state["dirty"] == now


def test_a_clean_stop_leaves_nothing_to_lose() -> None:
    disk = Disk(0, 2 * PAGE)
    MetaBench(disk, create=True, mem_first=True).end()
    disk.power_cut()
    meta = MetaBench(disk)
    meta.begin(THERE, True)
    assert not meta.state["doubt"]
    meta.doubt()
    meta.end()
    disk.power_cut()
    meta = MetaBench(disk)
    meta.begin(HERE, True)
    assert meta.state["doubt"], "a clean stop does not end it"


def test_the_first_save_of_a_start_is_whole_at_every_crash() -> None:
    """Doubt, boot id and strategy are one save: no crash leaves the new boot id without doubt."""
    for seed in SEEDS:
        for nth, call in [(n, c) for c in ("write", "sync") for n in (1, 2)]:
            disk = Disk(seed, 2 * PAGE)
            MetaBench(disk, create=True, mem_first=True)
            disk.power_cut()
            meta = MetaBench(disk)
            disk.fail(call, nth, errno.EIO)
            with pytest.raises(StorageError):
                meta.begin(THERE, False)
            disk.power_cut()
            meta = MetaBench(disk)
            meta.begin(THERE, False)
            assert meta.state["doubt"]


def test_a_failed_sync_is_known_at_the_next_start() -> None:
    disk, meta = made()
    meta.save(3, 2)
    meta.run(), meta.run()
    meta.lie()
    assert vote_of(disk) == (3, 2)
    meta = MetaBench(disk)
    meta.begin(HERE, False)
    assert meta.state["doubt"]


@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_failed_sync_that_cannot_be_saved_is_noted_elsewhere(call: str) -> None:
    disk, meta = made()
    disk.fail(call, 1, errno.EIO)
    meta.lie()
    disk.kill()
    for _ in range(2):
        meta = MetaBench(disk)
        meta.begin(HERE, False)
        assert meta.state["doubt"]
        assert disk.names("/dev/shm") == [], "saved now"
        disk.kill()
