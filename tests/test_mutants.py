"""Planted bugs and failpoints cost nothing elsewhere, and each bug has its line in the table."""
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.mutants.table import MUTANTS

ROOT = Path(__file__).parents[1]
CORE = sorted((ROOT / "dengine" / "_core").glob("*.pyx"))
SITE = re.compile(r"MUTANT\((\d+)\)")
FAILPOINT = re.compile(r" or FAILPOINT\([^)]+\)|FAILPOINT\([^)]+\) or |^ +FAILPOINT\([^)]+\)$",
                       re.MULTILINE)
BUILD_S = 120.0


def test_every_planted_bug_is_in_the_table() -> None:
    planted = {int(n) for path in CORE for n in SITE.findall(path.read_text())}
    assert planted == set(MUTANTS)


def machine_code(source: str, name: str, directory: Path) -> bytes:
    """The instructions of one module, compiled as the release build does."""
    (directory / f"{name}.pyx").write_text(source)
    directives = "boundscheck=False,wraparound=False,initializedcheck=False,cdivision=True"
    commands = [
        [sys.executable, "-m", "cython", "-3", "-X", directives, "-I", str(ROOT), "--module-name",
         f"dengine._core.{name}", f"{name}.pyx", "-o", "module.c"],
        ["gcc", "-std=gnu11", "-O2", "-g0", "-fPIC", "-DCYTHON_WITHOUT_ASSERTIONS=1",
         "-D__LINE__=0", "-Wno-builtin-macro-redefined",        # for tracebacks, of the C file
         f"-I{ROOT / 'dengine' / '_core'}", f"-I{sysconfig.get_path('include')}", "-c", "module.c",
         "-o", "module.o"],
        ["objcopy", "-O", "binary", "--only-section=.text", "module.o", "text"]]
    for command in commands:
        subprocess.run(command, cwd=directory, check=True, timeout=BUILD_S)
    return (directory / "text").read_bytes()


@pytest.mark.parametrize("name", ["flush", "raft"])
def test_a_site_is_no_machine_code(name: str, tmp_path: Path) -> None:
    source = (ROOT / "dengine" / "_core" / f"{name}.pyx").read_text()
    without = FAILPOINT.sub("", SITE.sub("0", source))
    without = re.sub(r"from dengine._core.fault cimport .*", "", without)
    assert without != source
    assert "FAILPOINT" not in without
    for directory in (tmp_path / "sites", tmp_path / "none"):
        directory.mkdir()
    code = machine_code(source, name, tmp_path / "sites")
    assert len(code) > 500
    assert code == machine_code(without, name, tmp_path / "none")
