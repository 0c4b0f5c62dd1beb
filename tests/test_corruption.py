"""Damaged directories: nothing is silently lost, and `check` agrees with the start.

The short form of `python -m tests.torture.corrupt`, which takes every bit and every length.
"""
import errno
import re
from pathlib import Path

import pytest

import dengine
from dengine.errors import FormatError, StorageError
from dengine.examine import examine
from dengine.findings import Severity
from dengine.judge import Examination
from tests.sim.disk import Disk
from tests.torture.corrupt import PUTS, Bench, Damage, Table, torture, victims
from tests.torture.directories import CAPACITY, Victim, fill, loaded, small_store, victim
from tests.torture.start import PATH, names_of, reader_of, start

STEP = 1009             # a prime: all bits of a byte, and all parts of a page, have their turn


@pytest.fixture(scope="module")
def all_victims(tmp_path_factory: pytest.TempPathFactory) -> list[Victim]:
    return victims(tmp_path_factory.mktemp("victims"))


def test_check_of_what_is_not_damaged(all_victims: list[Victim]) -> None:
    for v in all_victims:
        disk = Disk(1, CAPACITY)
        loaded(v.files, disk)
        found = Examination(reader_of(disk), PATH.encode()).judge(*names_of(disk))
        expected = Severity.REPAIRABLE if v.name.endswith("killed") else Severity.FINE
        assert found.verdict == expected, (v.name, list(found.ordered()))
        assert (found.last, found.mark["index"]) == (len(v.records), v.proven)


def test_no_damage_is_silent(all_victims: list[Victim]) -> None:
    table = Table()
    for v in all_victims:
        torture(v, table, STEP)
    assert not table.trouble
    assert all(table.totals()[outcome] for outcome in ("right", "refused", "cut", "unproven"))


def test_a_block_that_cannot_be_read(all_victims: list[Victim]) -> None:
    """Each read fails once: `check` names file and offset, and the start refuses as well."""
    v = all_victims[0]
    for nth in range(1, 8):
        disk = Disk(1, CAPACITY)
        loaded(v.files, disk)
        disk.fail("read", nth, errno.EIO)
        found = Examination(reader_of(disk), PATH.encode()).judge(*names_of(disk))
        assert found.verdict == Severity.UNREADABLE
        assert re.fullmatch(r"could not be read: Input/output error, at offset \d+",
                            found.findings[-1].means)
        assert f"{PATH}/{found.findings[-1].file}" in v.files
        assert disk.open_files == 0
        disk.fail("read", nth, errno.EIO)
        with pytest.raises(StorageError, match="Input/output error"):
            start(disk, v.setup, v.records)


@pytest.mark.parametrize("kind", ["removed", "emptied", "truncated"])
def test_a_lost_newest_segment_is_refused(tmp_path: Path, kind: str) -> None:
    v = victim(tmp_path, "DiskFirst", "closed", PUTS)
    path = next(p for p in v.files if v.kinds[p] == "newest segment")
    left = {"removed": None, "emptied": b"", "truncated": v.files[path][:1000]}[kind]
    assert Bench(v).run(Damage(kind, path, 0, left))[0] == "refused"


def test_a_name_with_the_last_epoch(tmp_path: Path) -> None:
    """A file of rubbish with such a name is refused, and costs no later write."""
    with small_store(tmp_path, "DiskFirst") as store:
        fill(store, 0, 1)
    (tmp_path / "log" / "ffffffffffffffff.seg").touch()
    with pytest.raises(FormatError, match=r"ffffffffffffffff\.seg is none of"):
        dengine.open(tmp_path)
    assert examine(str(tmp_path)).verdict == Severity.CORRUPT
    (tmp_path / "log" / "ffffffffffffffff.seg").unlink()
    with small_store(tmp_path, "DiskFirst") as store:
        assert len(store) == 1


def test_the_bench_notices(tmp_path: Path) -> None:
    """A start that finds other content is silent, one that raises something else a crash."""
    v = victim(tmp_path, "DiskFirst", "closed", PUTS)
    path = f"{PATH}/meta"
    nothing = Damage("bit", path, 0, v.files[path])
    assert Bench(v).run(nothing)[0] == "right"
    v.digests[-1] ^= 1
    assert Bench(v).run(nothing)[0] == "silent"
    v.digests[-1] ^= 1
    v.records[3] = v.records[3][:-1] + b"?"
    assert Bench(v).run(nothing)[0] == "silent"
    v.setup.promise_ms = 0
    v.setup.from_directory = False
    assert Bench(v).run(nothing)[0] == "crash"
