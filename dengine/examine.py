"""A data directory of this machine, examined: nothing is changed, opened for writing or locked.

It decides which names, kinds and modes of files are right, and who has the directory open; what
the files hold is judged by `judge`.
"""
from __future__ import annotations

import os
import stat
from collections.abc import Callable

from dengine._core.examine import Reader
from dengine.judge import SEGMENT_NAME, Examination, Severity


def examine(path: str, progress: Callable[[int], None] = lambda _: None) -> Examination:
    """Examines a directory of this machine; a running node is not disturbed. Raises nothing."""
    found = Examination(Reader(), os.fsencode(os.path.abspath(path)), progress)
    try:
        names = look_around(found)
        has_meta = os.path.lexists(os.path.join(found.path, b"meta"))
    except OSError as error:
        found.say(Severity.UNREADABLE, ".", f"{os.fsdecode(error.filename)} could not be read: "
                  f"{error.strerror}", "check the path and its permissions")
        return found
    if found.verdict == Severity.UNREADABLE:
        return found
    return found.judge(names, has_meta)


def look_around(found: Examination) -> list[str]:
    """Kinds and modes of all files; the names in the log's directory."""
    log = os.path.join(found.path, b"log")
    names = [os.fsdecode(n) for n in sorted(os.listdir(found.path))]
    inside: list[str] = []
    for name in names:
        if name in ("lock", "meta", "log"):
            if kind_is_right(found, name, stat.S_ISDIR if name == "log" else stat.S_ISREG) and (
                    name == "log"):
                inside = [os.fsdecode(n) for n in sorted(os.listdir(log))]
        elif name == "meta.new":
            found.say(Severity.FINE, name, "a `meta` that was not made to its end; left alone")
        else:
            found.say(Severity.FINE, name, "no file of dengine; it is left alone")
    for name in inside:
        if SEGMENT_NAME.fullmatch(name):
            kind_is_right(found, f"log/{name}", stat.S_ISREG)
    return inside


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
    """Of the log's files, for a progress bar; 0 where that cannot be said."""
    try:
        with os.scandir(os.path.join(path, "log")) as entries:
            return sum(e.stat(follow_symlinks=False).st_size for e in entries)
    except OSError:
        return 0
