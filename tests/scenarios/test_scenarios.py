"""Situations that papers and bug trackers name, played by the shipping core: one file each."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.scenarios.play import Failure, play

FILES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_happens_is_what_the_file_says(path: Path) -> None:
    assert list(play(path)) == path.read_text().splitlines()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_first_line_names_title_and_source(path: Path) -> None:
    assert re.fullmatch(r"# \S.* -- \S.*", path.read_text().splitlines()[0])


def test_there_are_many() -> None:
    assert len(FILES) >= 40


def test_a_command_that_cannot_be_done_says_where(tmp_path: Path) -> None:
    path = tmp_path / "wrong.txt"
    path.write_text("# Wrong -- nowhere\n> cluster nodes=3\n> kill 2\n")
    with pytest.raises(Failure, match=r"wrong\.txt:3: > kill 2: node 2 is dead"):
        list(play(path))
