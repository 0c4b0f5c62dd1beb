"""Which commit evidence belongs to. It knows git and nothing else."""
from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
GIT_S = 10.0


def commit(*paths: str) -> str:
    """The last commit that touched these paths, abbreviated; "" outside a repository."""
    done = subprocess.run(["git", "log", "-1", "--format=%h", "--", *paths], cwd=ROOT, text=True,
                          capture_output=True, timeout=GIT_S, check=False)
    return done.stdout.strip()


def core() -> str:
    """The last commit that touched the core: totals of evidence count from it."""
    return commit("dengine/_core")
