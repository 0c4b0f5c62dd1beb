"""No Python in the hot functions: the annotation of Cython, function by function.

A line that touches Python is allowed where it is the way out of an error: a raise, and the
signature, which adds to a traceback.
"""
import html
import re
from pathlib import Path

import pytest
from Cython.Compiler.Main import CompilationOptions, compile_single

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "dengine" / "_core"
DIRECTIVES = {"boundscheck": False, "wraparound": False, "initializedcheck": False,
              "nonecheck": False, "cdivision": True}
HOT = {
    "crc": ["crc32c"],
    "codec": ["record_encode", "record_check", "command_decode", "stamp"],
    "wire": ["frame_check", "append_decode", "message_decode", "gather"],
    "log": ["append", "append_record", "place_for", "appended", "in_memory", "span"],
    "segments": ["holder", "measure"],
    "replicate": ["on_heard", "on_durable", "advance", "confirm", "next_append", "sent",
                  "sendable"],
    "quorum": ["half_value", "quorum_value"],
    "terms": ["find", "at"],
    "apply": ["apply", "execute"],
    "session": ["resolve"],
    "kv": ["get", "put", "append"],
    "items": ["items_encode", "items_check"],
    "snapshot": ["load", "frame_crc"],
    "tree": ["tree_insert", "tree_remove", "tree_seek", "tree_next"],
    "flush": ["run", "publish", "read_written"],
}
LINE = re.compile(
    r'<pre class="cython line score-(\d+)".*?<span class="">\s*(\d+)</span>: (.*?)</pre>', re.S)


def annotated(module: str, folder: Path) -> dict[int, tuple[int, str]]:
    """Line number -> (score, text) of a module; score 0 touches no Python."""
    options = CompilationOptions(language_level=3, annotate=True, compiler_directives=DIRECTIVES,
                                 output_file=str(folder / f"{module}.c"), include_path=[str(ROOT)])
    compile_single(str(CORE / f"{module}.pyx"), options=options,
                   full_module_name=f"dengine._core.{module}")
    page = (folder / f"{module}.html").read_text()
    return {int(number): (int(score), html.unescape(re.sub("<[^>]+>", "", text)).rstrip())
            for score, number, text in LINE.findall(page)}


def body(module: str, function: str) -> range:
    """The lines of a function, its signature first."""
    source = (CORE / f"{module}.pyx").read_text().splitlines()
    start = next(i for i, line in enumerate(source)
                 if re.match(rf"\s*c(p)?def .*\b{function}\(", line))
    indent = len(source[start]) - len(source[start].lstrip())
    end = start + 1
    while end < len(source) and (not source[end].strip() or source[end].strip().startswith("#")
                                 or len(source[end]) - len(source[end].lstrip()) > indent):
        end += 1
    return range(start + 1, end + 1)


def yellow(lines: dict[int, tuple[int, str]], where: range) -> list[str]:
    """The lines that touch Python although nothing went wrong."""
    out, raising = [], False
    for number in where[1:]:
        score, text = lines.get(number, (0, ""))
        if text.strip():
            raising = text.lstrip().startswith("raise ") or (raising and text.endswith((")", '"')))
        if score and not raising:
            out.append(f"{number}: {text.strip()}")
    return out


@pytest.mark.parametrize("module", HOT)
def test_hot_functions_touch_no_python(module: str, tmp_path: Path) -> None:
    lines = annotated(module, tmp_path)
    assert len(lines) > 20
    assert any(score for score, _ in lines.values())    # the annotation was understood
    for function in HOT[module]:
        assert yellow(lines, body(module, function)) == [], f"{module}.{function}"
