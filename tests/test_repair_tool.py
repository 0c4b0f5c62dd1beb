"""`dengine repair`: what is left of a damaged directory, what that costs, what is left alone."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import dengine
from dengine.cli import root
from dengine.errors import CorruptionError
from tests.torture.directories import contents, fill, small_store

PUTS = 120
JUMP = 1_000_000_000


def run(*words: str | Path, typed: str = "") -> Result:
    return CliRunner().invoke(root, [str(w) for w in words], input=typed)


def segments(directory: Path) -> list[Path]:
    """Those that hold records."""
    return [f for f in sorted((directory / "log").glob("*.seg")) if any(f.read_bytes())]


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def flip_record(directory: Path) -> None:
    flip(segments(directory)[1], 3 * 4096 + 500)


def flip_last_record(directory: Path) -> None:
    file = segments(directory)[-1]
    flip(file, len(file.read_bytes().rstrip(b"\0")) - 20)


def flip_header(directory: Path) -> None:
    flip(segments(directory)[2], 40)


def remove_newest(directory: Path) -> None:
    segments(directory)[-1].unlink()


def remove_middle(directory: Path) -> None:
    segments(directory)[1].unlink()


DAMAGE = [flip_record, flip_last_record, flip_header, remove_newest, remove_middle]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with small_store(tmp_path / "db", "DiskFirst") as store:
        fill(store, 0, PUTS)
    return tmp_path / "db"


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_what_is_left_goes_on(directory: Path, damage: Callable[[Path], None]) -> None:
    with dengine.open(directory) as store:
        whole, revision = dict(store.items()), store.revision
    damage(directory)
    with pytest.raises(CorruptionError, match="dengine repair"):
        dengine.open(directory)
    before = contents(directory)
    refused = run("repair", directory, typed="n\n")
    assert refused.exit_code == 1
    assert "are lost" in refused.output
    assert contents(directory) == before

    done = run("repair", directory, "--yes")
    assert done.exit_code == 0, done.output
    assert "is repaired" in done.output
    assert run("check", directory).exit_code < 2
    for again in range(2):
        with dengine.open(directory) as store:
            kept = dict(store.items())
            assert kept.keys() - {b"new"}
            assert kept.keys() <= whole.keys() | {b"new"}
            assert JUMP < store.revision < JUMP + revision + 5 * (again + 1)
            store[b"new"] = b"%d" % again
    assert run("check", directory).exit_code < 2


def test_a_prefix_is_left(directory: Path) -> None:
    """All that was written before the damage, and nothing of what came after."""
    damaged = segments(directory)[1]
    flip(damaged, len(damaged.read_bytes().rstrip(b"\0")) - 20)     # its last record
    assert run("repair", directory, "--yes").exit_code == 0
    with dengine.open(directory) as store:
        newest = max(int(value.split()[0]) for _, value in store.items())
        for key, value in store.items():
            n = int(value.split()[0])
            assert newest - 20 < n <= newest
            assert key == b"key %d" % (n % 20)
    assert list((directory / "log").glob("*.seg.corrupt"))


def test_an_older_meta(directory: Path, tmp_path: Path) -> None:
    old = (directory / "meta").read_bytes()
    with small_store(directory, "DiskFirst") as store:      # another term
        fill(store, PUTS, 1)
        whole = dict(store.items())
    (directory / "meta").write_bytes(old)
    with pytest.raises(CorruptionError, match="vote is lost"):
        dengine.open(directory)
    done = run("repair", directory, "--yes")
    assert done.exit_code == 0, done.output
    assert "the node's vote is not" in done.output
    with dengine.open(directory) as store:
        assert dict(store.items()) == whole


def test_a_snapshot_that_is_damaged_with_the_log_gone(directory: Path) -> None:
    with dengine.open(directory) as store:
        store.snapshot()
        before = dict(store.items())
        store["later"] = "1"
        store.snapshot()
    for file in (directory / "log").glob("*.seg"):
        file.unlink()
    newest = max((directory / "snapshot").glob("*.snap"))
    flip(newest, 4096 + 100)
    assert run("check", directory).exit_code == 2
    done = run("repair", directory, "--yes")
    assert done.exit_code == 0, done.output
    with dengine.open(directory) as store:
        assert dict(store.items()) == before


def test_what_needs_none_is_left_alone(directory: Path) -> None:
    before = contents(directory)
    done = run("repair", directory, "--yes")
    assert (done.exit_code, "needs no repair" in done.output) == (0, True)
    assert contents(directory) == before


def test_one_that_is_open_is_left_alone(directory: Path) -> None:
    with dengine.open(directory):
        done = run("repair", directory, "--yes")
    assert done.exit_code == 1
    assert "is open in process" in done.output


def test_without_meta_or_without_anything(directory: Path) -> None:
    kept = directory.with_name("kept")
    shutil.copytree(directory, kept)
    (directory / "meta").unlink()
    done = run("repair", directory, "--yes")
    assert done.exit_code == 1
    assert "cannot be said whose it is" in done.output
    flip(segments(kept)[0], 40)
    before = contents(kept)
    done = run("repair", kept, "--yes")
    assert done.exit_code == 1
    assert "nothing is left" in done.output
    assert contents(kept) == before
