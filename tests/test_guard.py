"""The guard for speed notices a planted slow-down, and an operation that is gone."""
import json
import sys
from pathlib import Path

import pytest

from tests import guard
from tests.cluster import ROOT

PLANTED = """
import asyncio, sys
from pathlib import Path
from tests import guard

sound = guard.compiled

def planted():
    for name, n, work in sound():
        yield name, n, (lambda n, do=work: do(n + n // 20)) if name == slow else work

slow = sys.argv[1]
guard.compiled = planted
asyncio.run(guard.measure(Path(sys.argv[2])))
"""


@pytest.mark.skipif(bool(why := guard.skipped()), reason=why)
def test_a_planted_slow_down_is_noticed_and_nothing_else() -> None:
    """Against the same script without it: where Python puts its objects depends on the script."""
    before = guard.counted("-c", PLANTED, "none at all")
    _, wrong = guard.compare(before, guard.counted("-c", PLANTED, "kv get"))
    assert len(wrong) == 1, wrong
    assert wrong[0].startswith("kv get: +")


def test_what_is_worse_or_unknown_is_wrong() -> None:
    before = {"a": 100.0, "b": 100.0, "c": 100.0, "gone": 1.0}
    table, wrong = guard.compare(before, {"a": 102.9, "b": 103.1, "c": 90.0, "new": 1.0})
    assert wrong == ["b: +3.1% instructions", "gone: only in the file", "new: only counted"]
    assert "better" in table[3]


def test_an_operation_is_what_2n_of_3n_and_n_take() -> None:
    parts = {1: 999, 2: 150, 3: 350, 4: 999, 5: 30, 6: 50, 7: 999, 8: 35, 9: 1000, 10: 999, 11: 30,
             12: 52}
    assert guard.figures("one\t10\ntwo\t1\ntwo\t1\ntwo\t1\n", parts) == {"one": 10.0, "two": 11.0}


def test_other_tools_are_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(guard.FILE.read_text())
    data["tools"]["compiler"] = "another"
    monkeypatch.setattr(guard, "FILE", tmp_path / "guard.json")
    monkeypatch.setattr(sys, "argv", ["guard"])
    monkeypatch.chdir(ROOT)
    guard.FILE.write_text(json.dumps(data))
    assert guard.main() == 0
    assert "guard: skipped" in capsys.readouterr().out
