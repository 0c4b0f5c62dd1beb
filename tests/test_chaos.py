"""A short form of the chaos campaign, and whether the runner's own means do what it believes:
a power cut loses what was not synced and nothing else, and nothing outlives the runner.

`make chaos` is the long form. Needs root, namespaces and loop devices, but for the run on loopback.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.__main__ import PREFIX
from tests.chaos.ground import missing
from tests.cluster import ROOT, eventually

WHY_NOT = missing()
full = pytest.mark.skipif(bool(WHY_NOT) and not os.environ.get("DENGINE_CI"), reason=WHY_NOT)
SHORT = ("--seconds", "7", "--operations", "400")       # of faults; on a busy machine too
SEEDS = {"DiskFirst, power of all": 20, "MemFirst, power of one": 33}
RUN_S = 240.0
TRIES = 3                       # a run is void where the machine stood still
VOID = 2


def chaos(tmp_path: Path, *arguments: str) -> tuple[int, str, list[dict]]:
    """(status, output, verdicts) of a campaign."""
    results = tmp_path / "results.json"
    environment = {k: v for k, v in os.environ.items() if k != "DENGINE_CHAOS_INSIDE"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *arguments, "--results", str(results)],
        cwd=ROOT, env=environment, text=True, capture_output=True, timeout=RUN_S)
    said = done.stdout + done.stderr
    return done.returncode, said, json.loads(results.read_text()) if results.exists() else []


def passed(tmp_path: Path, *arguments: str) -> list[dict]:
    """The verdicts of a campaign that must pass; one that is void is no answer, and made again."""
    for _ in range(TRIES):
        status, said, verdicts = chaos(tmp_path, *arguments)
        if status != VOID:
            break
    assert status == 0, said
    return verdicts


@full
@pytest.mark.parametrize("name", SEEDS)
def test_short_run(name, tmp_path):
    verdicts = passed(tmp_path, "--seed", str(SEEDS[name]), *SHORT)
    assert verdicts[0]["overlapping"] >= 2
    assert verdicts[0]["longest_sync_us"] > 0


def test_short_run_without_root(tmp_path):
    verdicts = passed(tmp_path, "--loopback", "--seed", "3", *SHORT)
    assert set(verdicts[0]["faults"]) <= {"pause", "pause-leader", "kill", "kill-leader",
                                          "kill-all"}


CUT = """
import os, sys
from pathlib import Path
from random import Random
from tests.chaos.disk import Disk
from tests.chaos.net import Network
from tests.chaos.nodes import BOOT_ID

network = Network(1, 2)
try:
    root = Path(sys.argv[1])
    disk = Disk(network, 1, root / "image", root / "mount")
    for name, synced in (("synced", True), ("late", False)):
        fd = os.open(f"{disk.seen}/{name}", os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"x" * 100_000)
        if synced:
            os.fsync(fd)
            dir = os.open(disk.seen, os.O_RDONLY)
            os.fsync(dir)
            os.close(dir)
        os.close(fd)
    assert disk.shut_down()
    disk.come_back()
    left = {name: len(Path(disk.seen, name).read_bytes())
            for name in os.listdir(disk.seen) if name in ("synced", "late")}
    assert left.get("synced") == 100_000, left
    assert left.get("late", 0) == 0, left

    network.begin(1, [(1, 2)], "drop")
    network.begin(2, [(1, 2)], "numgen random mod 100 < 50 drop")
    network.begin(3, [(2, 1)], "reject with tcp reset")
    probe = f"import socket; socket.create_connection(('{network.address(2)}', 9), 0.3)"
    for i in (1, 2):
        try:
            network.inside(i, sys.executable, "-c", probe)
        except OSError:
            pass
    assert [network.end(n) > 0 for n in (1, 2, 3)] == [True, True, False]
finally:
    network.close()
"""


@full
def test_a_cut_loses_what_was_not_synced_and_rules_count_what_met_them(tmp_path):
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-c", CUT,
         str(tmp_path)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True,
        timeout=60.0)
    assert done.returncode == 0, done.stderr


def holding(directory: Path) -> list[str]:
    """Processes whose command or working directory names this one, and loop devices on it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            where = os.readlink(process / "cwd")
        except OSError:
            continue
        if str(directory) in command or str(directory) in where:
            found.append(f"{process.name}: {command}")
    loops = subprocess.run(["losetup", "--all"], text=True, capture_output=True, timeout=10.0)
    return found + [line for line in loops.stdout.splitlines() if str(directory) in line]


@full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_runner(number, tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("DENGINE_CHAOS_INSIDE", None)
    with subprocess.Popen([sys.executable, "-m", "tests.chaos", "--seed", "20"], cwd=ROOT,
                          env=environment, stdout=subprocess.DEVNULL) as runner:
        try:
            eventually("faults", lambda: list(tmp_path.glob(f"{PREFIX}*/*/load.spec.json")), 40.0)
            (directory,) = tmp_path.glob(f"{PREFIX}*")
            eventually("processes and mounts", lambda: holding(directory), 10.0)
            runner.send_signal(number)
            runner.wait(30.0)
        finally:
            runner.kill()
    eventually("all has ended", lambda: not holding(directory), 10.0)
    if number == signal.SIGINT:
        assert not directory.exists()
        return
    assert directory.exists()                   # the next runner removes it
    chaos_once = [sys.executable, "-c", "from tests.chaos.ground import scratch\n"
                                        f"with scratch({PREFIX!r}): pass"]
    subprocess.run(chaos_once, cwd=ROOT, env=environment, check=True, timeout=30.0)
    assert not directory.exists()
