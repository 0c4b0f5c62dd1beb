"""The Makefile says what it can do, and can do what it says. Nothing is built here."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TARGETS = [
    "help", "install", "start-cluster", "start-node1", "start-node2", "start-node3", "start-nginx",
    "test", "sanitize", "guard", "chaos", "torture", "histories", "lint", "bench", "wheel",
    "clean",
]  # fmt: skip


def make(*arguments: str, directory: Path = ROOT) -> str:
    command = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), *arguments]
    alone = {"PATH": os.environ["PATH"]}  # these tests may run inside make
    return subprocess.run(command, cwd=directory, env=alone, text=True, check=True,
                          capture_output=True).stdout


def test_help_is_the_default_and_names_every_target():
    text = make()
    assert text == make("help")
    for target in TARGETS:
        assert re.search(rf"^  .*\b{target}\b.*  \w", text, re.MULTILINE), target


@pytest.mark.parametrize("target", TARGETS)
def test_targets_exist(target):
    make("--dry-run", target)


def test_clean_removes_logs_and_databases_only(tmp_path):
    for name in ("db/n1/log", "logs", "config"):
        (tmp_path / name).mkdir(parents=True)
    make("clean", directory=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config"]


def test_flavours_have_stamps_of_their_own(tmp_path):
    for name in ("pyproject.toml", "setup.py"):
        (tmp_path / name).touch()
    for target in ("install", "test"):
        for flavour in ("release", "debug"):
            plan = make("--dry-run", target, f"DENGINE_BUILD={flavour}", directory=tmp_path)
            assert f".venv/built-{flavour}" in plan
            assert ("DENGINE_TESTS=1" in plan) == (target == "test")
