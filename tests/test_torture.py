"""A short form of `make torture`: power cuts, damaged files, failing disks, kill -9, under load.

Power cuts need root, namespaces and loop devices; kills the modules of `make mutants`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.ground import INSIDE, missing
from tests.cluster import ROOT
from tests.test_failpoints import why_not

WHY_NOT = missing()
RUN_S = 240.0


def torture(tmp_path: Path, what: str, kind: str, blows: int) -> dict:
    """The verdict of one run, which must have struck and passed."""
    results = tmp_path / "results.json"
    environment = {k: v for k, v in os.environ.items() if k != INSIDE}
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", what, "--only", kind, "--blows", str(blows),
         "--results", str(results)],
        cwd=ROOT, env=environment, text=True, capture_output=True, timeout=RUN_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(results.read_text())[0]


@pytest.mark.skipif(bool(WHY_NOT) and not os.environ.get("DENGINE_CI"), reason=WHY_NOT)
@pytest.mark.parametrize("kind", ["DiskFirst, all", "MemFirst, all"])
def test_power_cuts(tmp_path, kind):
    verdict = torture(tmp_path, "cuts", kind, 2)
    assert (verdict["blows"], verdict["void"], verdict["lost"]) == (2, 0, 0)
    assert verdict["reported"] == (2 if kind == "MemFirst, all" else 0)


@pytest.mark.parametrize(("kind", "blows"), [("repairs", 3), ("only holder", 1)])
def test_damaged_files(tmp_path, kind, blows):
    verdict = torture(tmp_path, "repairs", kind, blows)
    assert verdict["blows"] + verdict["void"] == blows
    assert verdict["looked"] > 0


@pytest.mark.parametrize(("kind", "blows"), [("failed sync", 2), ("stalled disk", 1),
                                             ("full disk", 2)])
def test_disks_that_fail(tmp_path, kind, blows):
    assert torture(tmp_path, "disks", kind, blows)["blows"] == blows


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_kills(tmp_path):
    assert torture(tmp_path, "kills", "kills", 2)["by"]["at a random moment"] >= 2
