"""The directory of a Store: whose it is, who may open it, and what is refused by name.

Each error names the file or process, says what it means, and leaves everything as it was.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dengine
from dengine import Store, config
from dengine._core import boot
from dengine.errors import CorruptionError, Error, FormatError, LockedError, StorageError
from dengine.storage import Directory, setup_of
from tests.cluster import Cluster, eventually
from tests.processes import WAIT_S, child, finish

PAGE = 4096


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture(params=("DiskFirst", "MemFirst"))
def store(directory: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    with dengine.open(directory, strategy=request.param) as opened:
        yield opened


def segments(directory: Path) -> list[Path]:
    return sorted((directory / "log").glob("*.seg"))


def filled(directory: Path, keys: int = 100) -> None:
    with dengine.open(directory) as store:
        for i in range(keys):
            store[b"key %03d" % i] = b"value"


def change(file: Path, offset: int, to: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(to)


def open_as(settings: config.Config) -> Callable[[], object]:
    """What a node with these settings does first with its directory."""
    def opening() -> None:
        with contextlib.closing(Directory(settings.cluster.db_root_dir)) as opened:
            boot.close(opened.open_turn(setup_of(settings)))
    return opening


def lone_node(directory: Path, node: int, more: str = "") -> config.Config:
    return config.loads(
        f'[cluster]\nnode_id = {node}\ndb_root_dir = "{directory}"\n'
        f'initial_cluster = [{{ id = {node}, address = "127.0.0.1:9081" }}]\n{more}', "test")


def test_a_second_open_is_refused_by_pid(store: Store, directory: Path) -> None:
    with pytest.raises(LockedError, match=rf"s is open in this process \(pid {os.getpid()}\)"):
        dengine.open(directory)
    code, _, err = finish(child("import dengine, sys; dengine.open(sys.argv[1])", directory))
    assert code == 1
    assert f"open in another process (pid {os.getpid()})" in err
    store["still"] = "open"


def test_the_node_of_a_directory_is_the_one_that_lies_there(directory: Path) -> None:
    """One voter, of any id and promise, as `dengine serve` made it, opens as a Store."""
    settings = lone_node(directory, 7, "[raft.election]\nelection_timeout_min_ms = 900\n")
    with contextlib.closing(Directory(directory)) as opened:
        turn = opened.open_turn(setup_of(settings))
        boot.start(turn, -1)
        eventually("it leads", lambda: turn.run() or boot.status(turn)["applied"] == 2, WAIT_S)
        boot.close(turn)
    with dengine.open(directory) as store:
        store["k"] = "v"
        assert boot.status(store.turn)["node_id"] == 7
    with pytest.raises(FormatError, match="s belongs to node 7, not to node 8: nothing was"):
        open_as(lone_node(directory, 8))()


def test_a_node_that_joins_is_of_the_cluster_it_was_told(directory: Path) -> None:
    """Its file names the first members, or those of today: no id follows from them. So it was
    refused, when it had started and nothing of the log had come."""
    members = ", ".join(f'{{ id = {i}, address = "127.0.0.1:{9080 + i}", role = {role} }}'
                        for i, role in ((1, 1), (2, 1), (3, 1), (4, 4)))
    settings = config.loads(f'[cluster]\nnode_id = 4\ndb_root_dir = "{directory}"\n'
                            f"initial_cluster = [{members}]\n", "test")
    for to_join in (0x0123456789ABCDEF, 0):     # of 0 to join: it has a directory
        with contextlib.closing(Directory(directory)) as opened:
            turn = opened.open_turn(setup_of(settings, to_join=to_join))
            assert boot.status(turn)["cluster_id"] == "0123456789abcdef"
            boot.close(turn)


def test_a_directory_of_several_voters(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.put(1, "k", "v")
    node = cluster.nodes[2]
    for _ in range(2):                          # it is left closed and unlocked
        with pytest.raises(StorageError) as error:
            dengine.open(node.data)
        for part in (str(node.data), "node 2 of cluster", "the voters 1, 2, 3",
                     "with Engine or dengine serve", "data is untouched"):
            assert part in str(error.value)
    open_as(config.load(node.config))()
    open_as(config.load(node.config, {"cluster.name": "other"}))()      # the directory knows better
    with pytest.raises(FormatError, match="belongs to node 2, not to node 1"):
        open_as(config.load(cluster.nodes[1].config, {"cluster.db_root_dir": str(node.data)}))()


def test_an_empty_directory_of_another_cluster(tmp_path: Path) -> None:
    """No log says whose it is yet: the file has to agree."""
    with Cluster(tmp_path) as cluster:
        cluster.stop()
        node = cluster.nodes[2]
        for path in (*node.data.glob("log/*"), *node.data.glob("meta")):
            path.unlink()
        open_as(config.load(node.config))()
        with pytest.raises(FormatError, match="belongs to another cluster: nothing was changed"):
            open_as(config.load(node.config, {"cluster.name": "other"}))()


def test_a_newer_format(directory: Path) -> None:
    filled(directory)
    meta = (directory / "meta").read_bytes()
    for slot in (0, PAGE):
        change(directory / "meta", slot + 8, b"\xff")
    with pytest.raises(FormatError, match="meta is of a newer format: nothing was changed; use"):
        dengine.open(directory)
    (directory / "meta").write_bytes(meta)
    change(segments(directory)[0], 8, b"\xff")
    with pytest.raises(FormatError, match=r"seg is of a newer format: nothing was changed; use"):
        dengine.open(directory)


def test_a_lost_meta(directory: Path) -> None:
    filled(directory)
    meta = (directory / "meta").read_bytes()
    (directory / "meta").unlink()
    with pytest.raises(CorruptionError, match=r"no file `meta`.*vote is lost.*put the file back"):
        dengine.open(directory)
    (directory / "meta").write_bytes(bytes(len(meta)))
    with pytest.raises(CorruptionError, match=r"meta: both copies.*restore a backup"):
        dengine.open(directory)
    (directory / "meta").write_bytes(meta[:PAGE] + bytes(PAGE))     # one is enough
    with dengine.open(directory) as store:
        assert len(store) == 100


def test_damage_that_a_sync_proves(directory: Path) -> None:
    filled(directory)
    file = segments(directory)[0]
    good = file.read_bytes()
    at = good.index(b"key 050")
    for offset, damage in ((at, b"K"), (at - 40, b"\x99"), (at, bytes(PAGE))):
        change(file, offset, damage)
        with pytest.raises(CorruptionError) as error:
            dengine.open(directory)
        for part in (str(file), "offset ", "entry 53 ", "nothing was changed", "from a backup"):
            assert part in str(error.value), error.value
        assert file.read_bytes()[offset:offset + len(damage)] == damage
        file.write_bytes(good)
    with dengine.open(directory) as store:
        assert len(store) == 100


def test_modes_and_links(directory: Path, tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        filled(directory)
    finally:
        os.umask(mask)
    for path in (directory, *directory.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    for name in ("lock", "meta", f"log/{segments(directory)[0].name}"):
        (directory / name).rename(tmp_path / "away")
        (directory / name).symlink_to(tmp_path / "away")
        with pytest.raises(StorageError, match=r"[Ss]ymbolic link"):
            dengine.open(directory)
        (directory / name).unlink()
        (tmp_path / "away").rename(directory / name)
    with dengine.open(directory) as store:
        assert len(store) == 100


def test_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="cannot be used as a data directory"):
            dengine.open(path)
    wrong: Any = "Quickly"
    with pytest.raises(Error, match="strategy"):
        dengine.open(tmp_path / "s", strategy=wrong)
    with pytest.raises(Error, match="DiskFirst always syncs at once"):
        dengine.open(tmp_path / "s", flush_policy={"Batch": {"threshold": 1, "interval_ms": 5}})
    assert not (tmp_path / "s").exists()
