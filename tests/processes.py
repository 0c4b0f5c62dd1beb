"""Children of a test: Python programs and forks, always awaited."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from tests.cluster import ROOT

WAIT_S = 20.0


def child(code: str, *arguments: object, **more: Any) -> "subprocess.Popen[bytes]":
    """A Python process that runs `code` with these in sys.argv[1:]."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def finish(process: "subprocess.Popen[bytes]") -> tuple[int, str, str]:
    """Its exit status and what it said."""
    try:
        out, err = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    return process.returncode, out.decode(), err.decode()


def in_fork(check: Callable[[], None]) -> None:
    """Runs `check` in a forked child; fails with what it raised."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            check()
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    assert not said, said.decode()
