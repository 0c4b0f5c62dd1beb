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


def copied(tree: Path) -> None:
    """The checkout as it is now, without what is built; unchanged files keep their age."""
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
        made = file.suffix == ".so" or "build" in file.relative_to(tree).parts
        if file.is_file() and file not in kept and not made:
            file.unlink()
    if (ROOT / "build" / "c").exists():         # translated already, but for what is older
        shutil.copytree(ROOT / "build" / "c", tree / "build" / "c", copy_function=copy,
                        dirs_exist_ok=True)


def build(tree: Path, flavour: str, modules: str = "1") -> None:
    """Brings a tree up to date and compiles it; `modules` of the tests, as in setup.py."""
    copied(tree)
    env = {**os.environ, "DENGINE_BUILD": flavour, "DENGINE_TESTS": modules}
    subprocess.run([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], cwd=tree,
                   env=env, check=True)
