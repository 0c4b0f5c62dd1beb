"""The way to the next version of the files and, where it must be, back: with real processes.

There is no next version yet. A process of the build "faults" plays it: it gives every file that it
writes the next number, and reads this version's as a real one will have to.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dengine
from dengine import config
from dengine.errors import FormatError
from dengine.storage import Directory
from dengine.store import Store
from tests.processes import WAIT_S
from tests.test_failpoints import TREE, why_not
from tests.torture.directories import contents

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

SMALL = {"raft.snapshot.entries": 1 << 40, "log.segment_bytes": 1 << 20}
PROGRAM = """
import sys
from dengine import config
from dengine.storage import Directory
from dengine.store import Store
directory, first, count, snapshot = sys.argv[1], *map(int, sys.argv[2:])
settings = config.single(directory, strategy="DiskFirst",
                         overrides={"raft.snapshot.entries": 1 << 40, "log.segment_bytes": 1 << 20})
with Store(Directory(directory), settings) as store:
    assert all(store[b"%d" % i] == b"%d" % i * 100 for i in range(first))
    for i in range(first, first + count):
        store[b"%d" % i] = b"%d" % i * 100
    if snapshot:
        store.snapshot()
"""


def run(*words: str | int | Path, following: bool = True, failpoint: str = "") -> str:
    """Status and output of a process of the next version, or of this one in the same build."""
    env = {**os.environ, "PYTHONPATH": str(TREE)} | (
        {"DENGINE_NEXT_FORMAT": "1"} if following else {}) | (
        {"DENGINE_FAILPOINT": failpoint} if failpoint else {})
    done = subprocess.run([sys.executable, *map(str, words)], env=env, cwd=TREE, text=True,
                          capture_output=True, timeout=WAIT_S)
    return f"{done.returncode} {done.stdout}{done.stderr}"


def formats(directory: Path) -> dict[str, int]:
    """Of each file that has one: the number stands at the same place in all."""
    files = [directory / "meta", *(directory / "log").glob("*.seg"),
             *(directory / "snapshot").glob("*.snap")]
    heads = {f.name: f.read_bytes()[:12] for f in files}
    return {name: int.from_bytes(head[8:], "little") for name, head in heads.items() if any(head)}


def of_this_version(directory: Path) -> None:
    with Store(Directory(str(directory)), config.single(
            directory, strategy="DiskFirst", overrides=SMALL)) as store:
        for i in range(101):
            store[b"%d" % i] = b"%d" % i * 100
        store.snapshot()


def test_up_and_not_down(tmp_path: Path) -> None:
    directory = tmp_path / "db"
    of_this_version(directory)
    assert run("-m", "dengine", "backup", directory, tmp_path / "old", following=False)[0] == "0"
    before = formats(directory)
    assert set(before.values()) == {1}

    assert run("-c", PROGRAM, directory, 101, 0, 0)[0] == "0"       # opened, nothing written
    assert formats(directory)["meta"] == 2
    assert run("-c", PROGRAM, directory, 101, 50, 0)[0] == "0"
    after = formats(directory)
    assert {name: n for name, n in after.items() if name in before and name != "meta"} == {
        name: n for name, n in before.items() if name != "meta"}    # what is old stays as it is
    assert {n for name, n in after.items() if name not in before} == {2}
    assert run("-c", PROGRAM, directory, 151, 0, 1)[0] == "0"
    assert 2 in {n for name, n in formats(directory).items() if name.endswith(".snap")}
    assert "whole" in run("-m", "dengine", "check", directory)
    assert run("-c", PROGRAM, directory, 151, 0, 0)[0] == "0"

    files = contents(directory)
    with pytest.raises(FormatError, match="of a newer format: nothing was changed"):
        dengine.open(directory)
    assert contents(directory) == files

    # Back: the backup that was made before. Up from it: any version that reads it.
    for name, following in (("this", False), ("next", True)):
        made = tmp_path / name
        assert run("-m", "dengine", "restore", tmp_path / "old", made,
                   following=following)[0] == "0"
        assert run("-c", PROGRAM, made, 101, 1, 0, following=following)[0] == "0"


@pytest.mark.parametrize("point", ["meta.slot", "flush.write", "flush.sync", "flush.synced",
                                   "prepare.write", "prepare.renamed", "turn.apply"])
def test_every_crash_on_the_way(tmp_path: Path, point: str) -> None:
    """`meta` first, then the log: whatever is new of it, the next version goes on."""
    directory = tmp_path / "db"
    of_this_version(directory)
    killed = run("-c", PROGRAM, directory, 101, 5, 0, failpoint=f"{point}:1:kill")
    assert killed.startswith(f"{-signal.SIGKILL} "), killed
    assert formats(directory)["meta"] == 2
    assert run("-c", PROGRAM, directory, 101, 5, 0)[0] == "0"
