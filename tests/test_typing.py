"""The types that users see: the typed program runs, and the stubs say what the modules have."""

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import typed_program
from tests.cluster import ROOT

STUBS = sorted((ROOT / "dengine" / "_core").glob("*.pyi"))
OWN = {"__init__", "__iter__", "__next__", "__len__", "__getitem__", "__setitem__", "__delitem__",
       "__contains__", "__call__"}  # fmt: skip
INNER = {"Call", "Mailbox", "Task", "Failure", "resolve"}  # of no use outside their modules
ADDED = {"__reduce_cython__", "__setstate_cython__", "__pyx_vtable__", "__test__"}


def test_the_typed_program_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed_program.main(tmp_path / "data")
    assert capsys.readouterr().out.endswith("OK\n")


def test_mypy_accepts_it() -> None:
    pytest.importorskip("mypy")
    files = ["dengine", "tests/typed_program.py", "tests/wheel_check.py"]
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", *files], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def declared(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Names that a stub declares: functions, classes and what these have."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield prefix + node.target.id
        elif isinstance(node, ast.ClassDef):
            yield node.name
            yield from declared(node.body, node.name + ".")


def present(module: Any) -> Iterator[str]:
    """Public names that the module defines, in the same form."""
    for name, value in vars(module).items():
        if isinstance(value, type) and value.__module__ == module.__name__:
            yield name
            for attribute in vars(value):
                if attribute not in ADDED and (attribute in OWN or not attribute.startswith("_")):
                    yield f"{name}.{attribute}"
        elif (inspect.isroutine(value) and value.__module__ == module.__name__
                and name not in ADDED and not name.startswith("__pyx_")):
            yield name


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: path.stem)
def test_a_stub_declares_only_what_is_there(stub: Path) -> None:
    module = importlib.import_module(f"dengine._core.{stub.stem}")
    for name in declared(ast.parse(stub.read_text()).body):
        value: Any = module
        for part in name.split("."):
            assert hasattr(value, part), f"{stub.name}: {name} is not in the module"
            value = getattr(value, part)


@pytest.mark.parametrize("name", ["local", "task", "kv", "boot", "crc"])
def test_a_stub_leaves_nothing_out(name: str) -> None:
    module = importlib.import_module(f"dengine._core.{name}")
    stub = ROOT / "dengine" / "_core" / f"{name}.pyi"
    missing = set(present(module)) - set(declared(ast.parse(stub.read_text()).body))
    assert not {m for m in missing if m.split(".")[0] not in INNER}
