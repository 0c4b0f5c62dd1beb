"""Files of evidence: which commit a campaign belongs to, and how a file is kept."""
from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

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


def load(file: Path) -> dict[str, Any]:
    """What a file of evidence holds; no campaign yet where there is none."""
    data: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"campaigns": []}
    return data


def save(file: Path, data: dict[str, Any]) -> None:
    """The whole file or nothing: campaigns are interrupted."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(data, indent=1) + "\n")
    new.replace(file)
