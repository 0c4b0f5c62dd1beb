"""Nodes of a cluster inside processes that take orders: a program of benchmarks/ in each.

Such a program prints {"leader": id}, and then answers each line of its input, a Load, with a line:
{"leader": id, "figure": a Figure, ...}. It ends with its input.
"""

import json
import subprocess
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Timer
from typing import Any, Self

from benchmarks.client import Load
from benchmarks.common import Figure

START_S = 20.0
STOP_S = 10.0


class Children:
    """The processes of these commands, by node; orders go to the one that leads."""

    def __init__(self, commands: dict[int, list[str]], directory: Path) -> None:
        self.commands = commands
        self.directory = directory
        self.children: dict[int, subprocess.Popen[str]] = {}

    def __enter__(self) -> Self:
        for i, command in self.commands.items():
            self.children[i] = subprocess.Popen(
                command, cwd=self.directory, text=True, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE)
        try:
            self.leader = max(self._read(i, START_S)["leader"] for i in self.children)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Each child ends with its input, or is killed."""
        for child in self.children.values():
            with suppress(BrokenPipeError):
                assert child.stdin
                child.stdin.close()
        for child in self.children.values():
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            assert child.stdout
            child.stdout.close()

    def _read(self, i: int, seconds: float) -> dict[str, Any]:
        child = self.children[i]
        watchdog = Timer(seconds, child.kill)
        watchdog.start()
        try:
            assert child.stdout
            line = child.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise RuntimeError(f"node {i} ended with {child.wait()} or was killed: no answer")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def measure(self, load: Load) -> Figure:
        return Figure(**self.ask(load)["figure"])

    def ask(self, load: Load) -> dict[str, Any]:
        """What the leader's process answers."""
        stdin = self.children[self.leader].stdin
        assert stdin
        print(json.dumps(asdict(load)), file=stdin, flush=True)
        answer = self._read(self.leader, load.seconds + START_S)
        if answer["leader"] != self.leader:
            raise RuntimeError("the leader changed under load: no figure for this run")
        return answer
