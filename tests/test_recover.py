"""`dengine recover`: a majority is lost for good, one node goes on."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import dengine
from dengine.cli import root
from tests.cluster import Cluster

JUMP = 1_000_000_000


def run(*arguments: object) -> Result:
    return CliRunner().invoke(root, ["recover", *map(str, arguments)])


@pytest.fixture
def survivor(tmp_path: Path) -> Path:
    """The directory of a follower, after its cluster is gone."""
    with Cluster(tmp_path / "cluster", settings={"raft.snapshot.entries": 20}) as cluster:
        leader = cluster.wait_leader()
        for i in range(50):
            assert cluster.put(leader, f"k{i % 40}", str(i)).status == 200
        follower = next(i for i in cluster.nodes if i != leader)
        cluster.wait_caught_up(follower)
        cluster.kill(*cluster.nodes)
    return cluster.nodes[follower].data


def files(directory: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(directory.rglob("*"))
            if p.is_file() and p.name != "lock"}


def test_without_a_new_directory_it_only_says_what_there_is(survivor: Path) -> None:
    before = files(survivor)
    said = run(survivor)
    assert said.exit_code == 0, said.output
    assert "whose voters are 1, 2, 3" in said.output
    assert "is lost" in said.output
    assert "Nothing was changed" in said.output
    assert files(survivor) == before


def test_all_that_the_node_holds_goes_on_in_a_new_cluster(survivor: Path, tmp_path: Path) -> None:
    before = files(survivor)
    said = run(survivor, tmp_path / "new", "--yes")
    assert said.exit_code == 0, said.output
    assert files(survivor) == before, "the old directory stays as it is"
    with dengine.open(tmp_path / "new") as store:
        assert dict(store.items()) == {
            b"k%d" % i: b"%d" % (i + 40 if i < 10 else i) for i in range(40)}
        assert store.revision == JUMP + 50
        assert store.put("more", "1") == JUMP + 51


def test_a_log_with_damage_is_read_as_far_as_it_is_good(survivor: Path, tmp_path: Path) -> None:
    log = max((survivor / "log").glob("*.seg"))
    data = bytearray(log.read_bytes())
    at = data.rindex(b"k9")
    data[at] ^= 1
    log.write_bytes(data)
    said = run(survivor, tmp_path / "new", "--yes")
    assert said.exit_code == 0, said.output
    assert "does not match its checksum" in said.output
    with dengine.open(tmp_path / "new") as store:
        assert len(store) == 40


def test_what_is_refused(survivor: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    said = run(survivor, tmp_path / "full", "--yes")
    assert (said.exit_code, "is not empty" in said.output) == (1, True)
    (survivor / "meta").unlink()
    said = run(survivor)
    assert (said.exit_code, "holds no `meta`" in said.output) == (1, True)


def test_it_asks(survivor: Path, tmp_path: Path) -> None:
    said = CliRunner().invoke(root, ["recover", str(survivor), str(tmp_path / "new")], input="n\n")
    assert said.exit_code == 1
    assert not (tmp_path / "new").exists()
