"""Where a campaign on real processes lives: namespaces of its own, one temporary directory.

It decides what this machine can do, and that nothing outlives the campaign.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

TOOLS = ("ip", "nft", "unshare", "nsenter", "setpriv", "mount", "umount", "losetup", "mkfs.ext4")
INSIDE = "DENGINE_CHAOS_INSIDE"         # in the environment of the process in our namespaces


def missing() -> str:
    """Why this machine cannot do all; "" if it can."""
    if os.environ.get(INSIDE):
        return ""
    if os.geteuid():
        return "not root"
    if lacking := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"not installed: {', '.join(lacking)}"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--time", "--boottime", "1", "true"],
        capture_output=True, text=True, timeout=10.0)
    if tried.returncode:
        return tried.stderr.strip()
    if not Path("/dev/loop-control").exists():
        return "no loop devices"
    return ""


@contextlib.contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A directory for the runs, locked while we live. What dead runners left is removed."""
    base = Path(tempfile.gettempdir())
    for left in base.glob(f"{prefix}*"):
        with contextlib.suppress(OSError), (left / "lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def go_inside(module: str) -> None:
    """This process goes on as `module` in namespaces of its own, unless it is there already."""
    if not os.environ.get(INSIDE):
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", "--mount", "--propagation", "private",
                              sys.executable, "-m", module, *sys.argv[1:]])


def obey_signals() -> None:
    """SIGINT and SIGTERM are KeyboardInterrupt: a background shell ignores the first."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt
