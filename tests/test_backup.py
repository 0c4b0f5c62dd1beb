"""Backup and restore, as a user does them."""
from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import dengine
from dengine import storage
from dengine._core.types import Work
from dengine.cli import root
from dengine.errors import CorruptionError, StorageError
from tests.cluster import Cluster

JUMP = 10**9


def run(*words: object) -> Result:
    return CliRunner().invoke(root, [str(w) for w in words])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with dengine.open(tmp_path / "data") as store:
        for n in range(500):
            store[f"k{n}"] = f"v{n}"
        del store["k0"]
    return tmp_path / "data"


def test_a_store_comes_back_as_it_was(directory: Path, tmp_path: Path) -> None:
    assert "499 keys, revision 501" in run("backup", directory, tmp_path / "file").output
    done = run("restore", tmp_path / "file", tmp_path / "new")
    assert done.exit_code == 0, done.output
    for revision in (JUMP + 501, JUMP + 502):  # also at the second start
        with dengine.open(tmp_path / "new") as store:
            assert store.revision == revision
            assert len(store) == 499
            assert store["k499"] == b"v499"
            store["k1"] = "more"
    with dengine.open(directory) as store:
        assert (store.revision, store["k1"]) == (501, b"v1")


def test_a_store_that_is_open_gives_a_snapshot(directory: Path, tmp_path: Path) -> None:
    with dengine.open(directory) as store:
        first = store.snapshot()
        assert store.snapshot() == first
        store["k1"] = "more"
        assert store.snapshot() != first
        assert run("restore", store.snapshot(), tmp_path / "new").exit_code == 0
        refused = run("backup", directory, tmp_path / "file")
        assert refused.exit_code == 1
        assert "name the node's health port" in refused.output
    with dengine.open(tmp_path / "new") as store:
        assert store["k1"] == b"more"


def test_a_running_cluster(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        leader = cluster.wait_leader()
        for n in range(200):
            assert cluster.put(leader, f"k{n}", f"v{n}" * 50).status == 200
        health = f"127.0.0.1:{cluster.nodes[leader].health}"
        said = run("snapshot", "--health", health)
        assert said.exit_code == 0, said.output
        done = run("backup", health, tmp_path / "file")
        assert done.exit_code == 0, done.output
        assert cluster.put(leader, "k0", "later").status == 200
    assert run("restore", tmp_path / "file", tmp_path / "new").exit_code == 0
    with dengine.open(tmp_path / "new") as store:
        assert len(store) == 200
        assert store["k0"] == b"v0" * 50


def test_what_is_not_a_backup_is_refused(directory: Path, tmp_path: Path) -> None:
    assert run("backup", directory, tmp_path / "file").exit_code == 0
    data = bytearray((tmp_path / "file").read_bytes())
    data[5000] ^= 1
    (tmp_path / "bad").write_bytes(data)
    refused = run("restore", tmp_path / "bad", tmp_path / "new")
    assert refused.exit_code == 1
    assert "checksum" in refused.output
    assert not (tmp_path / "new" / "meta").exists()
    assert run("restore", tmp_path / "file", tmp_path / "new").exit_code == 0
    for words in (("backup", directory, tmp_path / "file"), ("backup", tmp_path / "no", "x"),
                  ("backup", tmp_path, tmp_path / "y"),
                  ("restore", tmp_path / "no", tmp_path / "z"),
                  ("restore", tmp_path / "file", directory), ("snapshot", "--health", ":1")):
        refused = run(*words)
        assert refused.exit_code in (1, 3), words
        assert "nothing was changed" in refused.output, words
    assert not (tmp_path / "y").exists()


def test_a_restored_directory_that_lost_its_snapshot_is_refused(
        directory: Path, tmp_path: Path) -> None:
    assert run("backup", directory, tmp_path / "file").exit_code == 0
    assert run("restore", tmp_path / "file", tmp_path / "new").exit_code == 0
    for file in (tmp_path / "new" / "snapshot").iterdir():
        file.unlink()
    with pytest.raises(CorruptionError, match="nothing was changed"):
        dengine.open(tmp_path / "new")


def test_a_snapshot_does_not_take_the_room_of_the_log(
        directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store goes on; what has arrived already is loaded all the same."""
    class Arrived(Work):
        def step(self) -> bool:
            stepped.append(self)
            return False

        def close(self) -> None: ...

    stepped: list[Arrived] = []
    statvfs = os.statvfs(directory)
    full = os.statvfs_result((*statvfs[:4], 0, *statvfs[5:]))
    with dengine.open(directory) as store:
        monkeypatch.setattr(storage.os, "statvfs", lambda _: full)
        store["k1"] = "more"
        with pytest.raises(StorageError, match="make room"):
            store.snapshot()
        store["k2"] = "more"
        store._directory._do(store.turn, Arrived())
        assert len(stepped) == 1
        monkeypatch.undo()
        assert store.snapshot()
