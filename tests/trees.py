"""Builds of another flavour, apart from the checkout, whose modules stay as they are."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "*.so", "__pycache__", "*.egg-info",
                                  "db", "logs", "evidence")


def copied(flavour: str) -> Path:
    """The checkout as it is now, without what is built; unchanged files keep their age."""
    tree = ROOT / "build" / flavour / "tree"
    tree.mkdir(parents=True, exist_ok=True)
    kept = set()

    def copy(source: str, target: str) -> str:
        kept.add(Path(target))
        old, new = Path(target), Path(source).stat()
        if not old.exists() or (old.stat().st_mtime_ns, old.stat().st_size) != (
                new.st_mtime_ns, new.st_size):
            shutil.copy2(source, target)
        return target

    shutil.copytree(ROOT, tree, ignore=LEFT_OUT, copy_function=copy, dirs_exist_ok=True)
    for file in tree.rglob("*"):
        built = file.suffix == ".so" or "build" in file.relative_to(tree).parts
        if file.is_file() and file not in kept and not built:
            file.unlink()
    return tree


def built(flavour: str) -> Path:
    tree = copied(flavour)
    env = {**os.environ, "DENGINE_BUILD": flavour, "DENGINE_TESTS": "1"}
    subprocess.run([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], cwd=tree,
                   env=env, check=True)
    return tree
