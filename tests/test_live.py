"""The live blocks of a debug build: a test that leaves some fails, and no other does."""
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import ROOT

live = pytest.importorskip("tests.sim.live")
PLANTED = '''
import ctypes
from dengine._core.kv import KV

KEPT = []

def store():
    kv = KV()
    kv.store(b"key", b"value")
    return kv

def test_all_is_freed():
    assert store().count == 1

def test_freed_by_the_collector():
    circle = [store()]
    circle.append(circle)

def test_kept():
    KEPT.append(store())

def test_leaked():
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(store()))

def test_freed_again():
    KEPT.clear()
    assert store().count == 1
'''


@pytest.mark.skipif(not live.COUNTED, reason="only the debug build counts live blocks")
@pytest.mark.parametrize(("place", "caught"), [
    ("tests/core/test_planted.py", ["test_kept", "test_leaked"]),
    ("tests/test_store_planted.py", ["test_kept", "test_leaked"]),
    ("tests/http/test_planted.py", []),         # these have a server that lives on
])
def test_a_planted_leak_fails_its_test(place: str, caught: list[str], tmp_path: Path) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True)
    file.write_text(PLANTED)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--rootdir", str(tmp_path),
         "-p", "no:cacheprovider", "-c", "/dev/null", "-q", "-rE", "--import-mode=importlib",
         str(file)],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "COLUMNS": "400"}, text=True,
        capture_output=True, timeout=60)
    errors = [line for line in done.stdout.splitlines() if line.startswith("ERROR ")]
    assert len(errors) == len(caught), done.stdout + done.stderr
    for name, line in zip(caught, errors, strict=True):
        assert f"::{name} - AssertionError: blocks of the core that nobody freed" in line
        assert "tree.pyx" in line or "tree.c" in line
    assert "5 passed" in done.stdout
