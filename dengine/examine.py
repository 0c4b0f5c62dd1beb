"""A data directory of this machine, examined: nothing is changed, opened for writing or locked.

It decides which names, kinds and modes of files are right, and who has the directory open; what
the files hold is judged by `judge`.
"""
from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable

from dengine._core.examine import Reader
from dengine.findings import SEGMENT_NAME, SNAPSHOT_NAME, Severity
from dengine.judge import Examination


def examine(path: str, progress: Callable[[int], None] = lambda _: None) -> Examination:
    """Examines a directory of this machine; a running node is not disturbed. Raises nothing."""
    found = Examination(Reader(), os.fsencode(os.path.abspath(path)), progress)
    try:
        names, snapshots = look_around(found)
        has_meta = os.path.lexists(os.path.join(found.path, b"meta"))
    except OSError as error:
        found.say(Severity.UNREADABLE, ".", f"{os.fsdecode(error.filename)} could not be read: "
                  f"{error.strerror}", "check the path and its permissions")
        return found
    if found.verdict == Severity.UNREADABLE:
        return found
    return found.judge(has_meta, names, snapshots)


def look_around(found: Examination) -> tuple[list[str], list[str]]:
    """Kinds and modes of all files; the names in log/ and in snapshot/."""
    names = [os.fsdecode(n) for n in sorted(os.listdir(found.path))]
    inside: dict[str, list[str]] = {"log": [], "snapshot": []}
    for name in names:
        if name in ("lock", "meta", "log", "snapshot"):
            if kind_is_right(found, name, stat.S_ISDIR if name in inside else stat.S_ISREG) and (
                    name in inside):
                inside[name] = [os.fsdecode(n) for n in sorted(os.listdir(
                    os.path.join(found.path, os.fsencode(name))))]
        elif name == "meta.lost":
            found.say(Severity.FINE, name, "a `meta` that a rejoin replaced; nothing reads it")
        elif name == "meta.new":
            found.say(Severity.FINE, name, "a `meta` that was not made to its end; left alone")
        else:
            found.say(Severity.FINE, name, "no file of dengine; it is left alone")
    for where, names in inside.items():
        for name in names:
            if SEGMENT_NAME.fullmatch(name) or SNAPSHOT_NAME.fullmatch(name):
                kind_is_right(found, f"{where}/{name}", stat.S_ISREG)
    return inside["log"], inside["snapshot"]


def kind_is_right(found: Examination, name: str, right: Callable[[int], bool]) -> bool:
    mode = os.lstat(os.path.join(found.path, os.fsencode(name))).st_mode
    if stat.S_ISLNK(mode) or not right(mode):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "of another kind"
        found.say(Severity.UNREADABLE, name, f"is {what} and is not opened", "put the file itself "
                  "there")
        return False
    if mode & 0o077:
        found.say(Severity.FINE, name, f"has mode {stat.S_IMODE(mode):o}: others may open it",
                  f"chmod {700 if stat.S_ISDIR(mode) else 600}")
    return True


def holder(path: str) -> int:
    """The pid of the process that has the directory open; 0: none. Its lock is not touched.

    Where the kernel names another device than stat does (overlayfs, btrfs), the pid that the holder
    wrote into the file tells.
    """
    try:
        fd = os.open(os.path.join(path, "lock"), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            lock, written = os.fstat(fd), os.pread(fd, 32, 0).decode(errors="replace").strip()
        finally:
            os.close(fd)
        with open("/proc/locks") as file:
            held = [words for line in file if (words := line.split())[1] == "FLOCK"]
    except OSError:
        return 0
    device = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}"
    for _, _, _, _, pid, place, *_ in held:
        other, _, inode = place.rpartition(":")
        if int(inode) == lock.st_ino and (other == device or pid == written):
            return int(pid)
    return 0


def bytes_in(path: str) -> int:
    """Of log and snapshots, for a progress bar; 0 where that cannot be said."""
    total = 0
    for name in ("log", "snapshot"):
        with contextlib.suppress(OSError), os.scandir(os.path.join(path, name)) as entries:
            total += sum(e.stat(follow_symlinks=False).st_size for e in entries)
    return total
