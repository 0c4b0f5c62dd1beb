"""Real processes that die or fail at named points: nothing that was acknowledged is lost.

The modules with failpoints are those of `make mutants`, built apart; without them it is skipped.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dengine
from tests import cluster
from tests.cluster import Cluster, eventually
from tests.processes import WAIT_S
from tests.trees import ROOT

TREE = ROOT / "build" / "faults" / "tree"
CORE = Path("dengine", "_core")

# Puts until it ends, and says what was acknowledged: some KB each, so that segments are filled.
WRITER = """
import sys
from dengine import config
from dengine.storage import Directory
from dengine.store import Store
directory, strategy, count = sys.argv[1:]
small = {"raft.snapshot.entries": 20, "log.segment_bytes": 1 << 20}
settings = config.single(directory, strategy=strategy, overrides=small)
with Store(Directory(directory), settings) as store:
    for i in range(int(count)):
        store[b"%d" % i] = b"%d" % i * 2500
        print(i, flush=True)
    for _ in range(3):                  # whatever the load: snapshots, and the log behind them goes
        store[b"0"] = b"0" * 2500
        store.snapshot()
    store[b"0"] = b"0" * 2500
"""


def why_not() -> str:
    """The sources there must be those here."""
    names = sorted(p.name for p in (ROOT / CORE).glob("*.p[yx]*"))
    if not (TREE / CORE).exists():
        return "modules with failpoints are not built: make mutants"
    same = all((TREE / CORE / n).exists()
               and (TREE / CORE / n).read_bytes() == (ROOT / CORE / n).read_bytes() for n in names)
    return "" if same else "modules with failpoints are older than the core: make mutants"


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


def write(directory: Path, strategy: str, count: int, failpoint: str) -> tuple[int, int, str]:
    """Exit status of a process with this failpoint, how much was acknowledged, what it said."""
    env = {**os.environ, "PYTHONPATH": str(TREE), "DENGINE_FAILPOINT": failpoint}
    done = subprocess.run([sys.executable, "-c", WRITER, str(directory), strategy, str(count)],
                          env=env, cwd=TREE, capture_output=True, text=True, timeout=WAIT_S)
    return done.returncode, len(done.stdout.split()), done.stderr


def kept(directory: Path) -> int:
    """How many of the writes are there, from the first one on, without a hole."""
    with dengine.open(directory) as store:
        count = len(store)
        assert [store[b"%d" % i] for i in range(count)] == [b"%d" % i * 2500 for i in range(count)]
    return count


@pytest.mark.parametrize(("strategy", "failpoint", "least"), [
    ("DiskFirst", "flush.write:9", 1), ("DiskFirst", "flush.sync:9", 1),
    ("DiskFirst", "flush.synced:9", 1), ("MemFirst", "log.write:9", 1),
    ("MemFirst", "flush.sync:3", 1), ("DiskFirst", "turn.apply:9", 1),
    ("MemFirst", "turn.apply:9", 1), ("DiskFirst", "turn.tell:99", 1),
    ("DiskFirst", "meta.slot:1", 0), ("DiskFirst", "meta.slot:2", 0),
    ("DiskFirst", "prepare.renamed:1", 0), ("MemFirst", "prepare.renamed:3", 40),
    ("MemFirst", "recovery.tidy:1", 0),
    ("DiskFirst", "prepare.write:2", 0), ("MemFirst", "prepare.write:90", 0),
    *((strategy, f"{point}:{nth}", least) for strategy in ("DiskFirst", "MemFirst")
      for point, nth, least in (
          ("snapshot.create", 2, 30), ("snapshot.write", 5, 20), ("snapshot.sync", 2, 30),
          ("snapshot.read", 2, 30), ("snapshot.rename", 2, 30), ("snapshot.renamed", 2, 30),
          ("snapshot.named", 3, 50), ("log.remove", 1, 100)))])
def test_a_process_that_is_killed_loses_nothing_acknowledged(
        tmp_path: Path, strategy: str, failpoint: str, least: int) -> None:
    status, acknowledged, said = write(tmp_path / "s", strategy, 1200, failpoint + ":kill")
    assert status == -signal.SIGKILL, said
    assert acknowledged >= least
    assert acknowledged <= kept(tmp_path / "s") <= acknowledged + 1


@pytest.mark.parametrize("failpoint", ["flush.write:9", "flush.sync:9", "flush.synced:9"])
def test_a_disk_that_fails_stops_the_node_and_loses_nothing_acknowledged(
        tmp_path: Path, failpoint: str) -> None:
    status, acknowledged, said = write(tmp_path / "s", "DiskFirst", 300, failpoint + ":eio")
    assert status == 1
    assert "StorageError" in said
    assert "Input/output error" in said
    assert acknowledged <= kept(tmp_path / "s") <= acknowledged + 1


def test_a_follower_that_is_killed_before_it_acknowledges(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the other follower down: what the leader acknowledged, this one had."""
    monkeypatch.setattr(cluster, "ROOT", TREE)
    with Cluster(tmp_path) as three:
        leader = three.wait_leader()
        killed, down = (i for i in three.nodes if i != leader)
        three.kill(killed)
        monkeypatch.setenv("DENGINE_FAILPOINT", "turn.send:300:kill")
        three.start(killed)
        monkeypatch.delenv("DENGINE_FAILPOINT")
        three.wait_caught_up(killed)
        three.kill(down)
        written = []
        while three.nodes[killed].alive:
            key = str(len(written))
            if three.put(leader, key, key, 1.0).status == 200:
                written.append(key)
        three.kill(leader)
        three.start(killed, down)
        eventually("a leader", lambda: three.leader() in (killed, down), 10.0)
        assert written != []
        assert [three.get(killed, k, "linearizable").json["value"] for k in written] == written


@pytest.mark.parametrize("failpoint", [
    "transfer.write:1", "transfer.rename:1", "transfer.renamed:1", "install.log:1",
    "install.done:1"])
def test_a_follower_that_is_killed_while_it_gets_a_snapshot(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failpoint: str) -> None:
    monkeypatch.setattr(cluster, "ROOT", TREE)
    with Cluster(tmp_path, settings={"raft.snapshot.entries": 200, "raft.snapshot.keep_bytes": 0,
                                     "log.segment_bytes": 1 << 20}) as three:
        leader = three.wait_leader()
        away = next(i for i in three.nodes if i != leader)
        three.kill(away)
        for n in range(900):
            assert three.put(leader, f"k{n % 50}", f"{n}" + "v" * 3000).status == 200
        eventually("the log goes", lambda: (three.health(leader) or {"first": 0})["first"] > 1,
                   20.0)
        monkeypatch.setenv("DENGINE_FAILPOINT", failpoint + ":kill")
        three.nodes[away].process = three.spawn(away)
        monkeypatch.delenv("DENGINE_FAILPOINT")
        eventually("the failpoint", lambda: not three.nodes[away].alive, 30.0)
        three.start(away)
        eventually("all is there", lambda: three.get(away, "k49", "eventual").body
                   and three.get(away, "k49", "eventual").json.get("value") == "899" + "v" * 3000,
                   30.0)
        assert three.put(away, "k0", "more").status == 200


def test_a_slow_sync_is_waited_for(tmp_path: Path) -> None:
    assert write(tmp_path / "s", "DiskFirst", 20, "flush.sync:9:pause")[:2] == (0, 20)
    assert kept(tmp_path / "s") == 20
