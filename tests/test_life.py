"""The campaigns of tests/life in short: they strike, they see what happens, nothing is lost."""
from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.ground import missing
from tests.cluster import ROOT
from tests.life import handover, once

CI = os.environ.get("DENGINE_CI") == "1"


@pytest.mark.parametrize("nginx", [False, True], ids=["followers", "nginx"])
def test_once(tmp_path: Path, nginx: bool) -> None:
    result = asyncio.run(once.campaign(tmp_path, "MemFirst", 200, 2, nginx))
    assert result["violations"] == []
    assert result["leaders killed"] >= 2
    assert result["acknowledged"] >= 200


@pytest.mark.parametrize("how", ["SIGTERM", "kill -9"])
def test_handover(tmp_path: Path, how: str) -> None:
    result = asyncio.run(handover.campaign(tmp_path, "DiskFirst", how, 1))
    assert result["violations"] == []
    assert result["writes"]


@pytest.mark.skipif(bool(missing()) and not CI, reason=missing() or "it can")
def test_isolate() -> None:
    """In a process of its own, which goes into namespaces."""
    done = subprocess.run([sys.executable, "-m", "tests.life.isolate", "--times", "1"], cwd=ROOT,
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "violations               []" in done.stdout
