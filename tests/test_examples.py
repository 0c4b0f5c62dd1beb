"""The examples do what their first paragraphs say, as processes of their own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import ROOT, Cluster, eventually, free_ports, request

START_S = 15.0
FAILOVER_S = 5.0


def heed_interrupts() -> None:
    """SIGINT is ignored in what a shell runs in the background, and in its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Example:
    """A running example. Its lines are in a file, so that it never waits for a reader."""

    def __init__(self, folder: Path, name: str, *arguments: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.output = folder / f"{name}.out"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DENGINE_")}
        environment["PYTHONPATH"] = str(ROOT)
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)],
                cwd=folder, env=environment, stdout=output, stderr=output,
                preexec_fn=heed_interrupts)

    @property
    def lines(self) -> list[str]:
        return self.output.read_text().splitlines()

    def says(self, pattern: str, seconds: float = START_S) -> str:
        """The first line that matches; waits for it."""
        def look() -> str | None:
            found = next((line for line in self.lines if re.search(pattern, line)), None)
            assert found or self.process.poll() is None, self.output.read_text()
            return found
        return str(eventually(f"a line like {pattern!r}", look, seconds))

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        try:
            return self.process.wait(10.0)
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def running() -> Iterator[list[Example]]:
    """Examples put here are ended whatever happens."""
    examples: list[Example] = []
    yield examples
    for example in examples:
        example.process.kill()
        example.process.wait()


def test_store(tmp_path: Path) -> None:
    example = Example(tmp_path, "store.py", tmp_path / "data")
    assert example.process.wait(START_S) == 0, example.lines
    assert example.lines == [
        "10 words at revision 12", "word/the = 3", "False", "9 words, word/fox = 1"]


def test_an_application_with_an_engine(tmp_path: Path, running: list[Example]) -> None:
    (port,) = free_ports(1)
    app = Example(tmp_path, "engine_fastapi_free.py", tmp_path / "data", port)
    running.append(app)
    app.says("serves on")
    answers = [request(port, "POST", "/page").body for _ in range(3)]
    assert answers == [b"1\n", b"2\n", b"3\n"]
    assert request(port, "GET", "/page").body == b"3\n"
    assert request(port, "PUT", "/page").status == 405


def test_three_applications_count_every_visit_once(
    tmp_path: Path, running: list[Example]
) -> None:
    cluster = Cluster(tmp_path)             # only its configurations are used
    ports = free_ports(3)
    for node, port in zip(cluster.nodes.values(), ports, strict=True):
        running.append(Example(node.directory, "engine_fastapi_free.py", node.config, port))
    for app in running:
        app.says("serves on")
    counts = [int(request(port, "POST", "/page").body) for _ in range(5) for port in ports]
    assert counts == list(range(1, 16))
    assert {request(port, "GET", "/page").body for port in ports} == {b"15\n"}


def test_the_task_moves_with_the_leader(tmp_path: Path, running: list[Example]) -> None:
    cluster = Cluster(tmp_path)
    for node in cluster.nodes.values():
        running.append(Example(node.directory, "leader_task.py", node.config))

    def holder(among: list[Example]) -> Example | None:
        return next((e for e in among if any(x.startswith("tick") for x in e.lines)), None)

    first = eventually("a tick", lambda: holder(running), START_S)
    first.says("tick 3")
    first.end(signal.SIGKILL)
    last = int(first.lines[-1].split()[1])
    others = [example for example in running if example is not first]
    second = eventually("a tick of another", lambda: holder(others), FAILOVER_S)
    begun = next(int(x.split()[1]) for x in second.lines if x.startswith("tick"))
    assert last <= begun - 1 <= last + 1    # one may have been written but not printed
    assert sum(any("runs the task" in line for line in e.lines) for e in others) == 1
    for example in others:
        assert example.end() == 0, example.lines
