"""What lies in the files of a data directory, file by file, and how much each finding weighs.

It knows `meta`, snapshots and names; what the segments make together is judged by `judge`.
"""
from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum

from dengine._core.examine import PAGE, SEGMENT_DATA, SLOT_BYTES, Reader, slot
from dengine.errors import CorruptionError, FormatError, StorageError

OK, BLANK, DAMAGED, NEWER = range(4)  # of a header
END, KIND = 1, 6  # faults of a record: nothing more; a kind of a newer format
ZEROS = bytes(PAGE)
SEGMENT_NAME = re.compile(r"[0-9a-f]{16}\.seg")
SNAPSHOT_NAME = re.compile(r"[0-9a-f]{16}\.snap")
RESTORE = "keep the directory as it is, and restore it from a backup"
UPGRADE = "use the dengine version that wrote it, or a later one"


class Severity(IntEnum):
    """How much a finding weighs; the worst is the exit status of `dengine check`."""

    FINE = 0
    REPAIRABLE = 1  # a start opens the directory, and cuts or repairs what is named
    CORRUPT = 2  # a start refuses
    UNREADABLE = 3  # nothing can be said: not readable, or of a newer format; a start refuses


VERDICTS = {Severity.FINE: "whole", Severity.REPAIRABLE: "a start repairs it",
            Severity.CORRUPT: "corrupt: a start refuses it",
            Severity.UNREADABLE: "cannot be judged: a start refuses it"}


@dataclass(frozen=True)
class Finding:
    """One line: what it means, and what to do ("": nothing). Offset in bytes; None: of no place."""

    severity: Severity
    file: str
    offset: int | None
    index: int | None
    means: str
    do: str = ""


@dataclass
class Segment:
    """One file of the log, as it lies."""

    epoch: int
    name: str = ""  # log/<epoch>.seg
    size: int = 0  # bytes
    fault: int = OK  # of the header
    header: dict[str, int] = field(default_factory=dict)
    marks: list[dict[str, int] | None] = field(default_factory=list)
    bad_marks: list[int] = field(default_factory=list)  # offsets: neither valid nor blank
    # live, dead, left out, prepared, blank, foreign, newer, damaged, out of place
    state: str = "not judged"
    last: int = 0  # newest entry that can be read
    kept: int = 0  # newest entry that lives
    end: int = SEGMENT_DATA  # offset after entry `last`
    why: int = END  # fault of what stands there
    behind: int = -1  # offset of the first byte behind the end that is not zero; -1: none

    @property
    def first(self) -> int:
        return self.header["anchor_index"] + 1


class Findings:
    """What lies in the files, one by one. `progress` is told bytes as they are read."""

    def __init__(self, reader: Reader, path: bytes,
                 progress: Callable[[int], None] = lambda _: None) -> None:
        self.reader = reader
        self.path = path
        self.progress = progress
        self.findings: list[Finding] = []
        self.slots: list[tuple[int, dict[str, int]]] = []
        self.meta: dict[str, int] | None = None  # the slot that counts
        self.base = 0, 0, 0  # index, term and crc of the last entry in the newest good snapshot
        self.newest = 0  # index of the newest snapshot, good or not
        self.damaged: list[tuple[str, str]] = []  # snapshots

    @property
    def verdict(self) -> Severity:
        return max((f.severity for f in self.findings), default=Severity.FINE)

    def say(self, severity: Severity, file: str, means: str, do: str = "", *,
            offset: int | None = None, index: int | None = None) -> None:
        self.findings.append(Finding(severity, file, offset, index, means, do))

    def left_over(self, name: str) -> None:
        if name.endswith(".seg.new"):
            self.say(Severity.FINE, f"log/{name}", "a segment that was not prepared to its end; "
                     "the next start removes it")
        elif name == "reserve":
            self.say(Severity.FINE, f"log/{name}", "zeros, the next segment where the disk is full")
        elif name == "reserve.new":
            self.say(Severity.FINE, f"log/{name}", "a reserve that was not prepared to its end; "
                     "the next start removes it")
        elif name.endswith(".seg.corrupt"):
            self.say(Severity.FINE, f"log/{name}", "kept from a damaged log; nothing reads it")
        elif not SEGMENT_NAME.fullmatch(name):
            self.say(Severity.FINE, f"log/{name}", "no file of dengine; it is left alone")

    # --------------------------------------------------------------------------------- snapshots
    def read_snapshots(self, names: list[str]) -> None:
        good = 0
        for name in sorted((n for n in names if SNAPSHOT_NAME.fullmatch(n)), reverse=True):
            file, path = f"snapshot/{name}", os.path.join(self.path, b"snapshot", name.encode())
            self.newest = self.newest or int(name[:16], 16)
            try:
                said = self.reader.snapshot(path, self.progress)
            except FormatError:
                self.say(Severity.UNREADABLE, file, "is of a newer format", UPGRADE)
            except CorruptionError as error:
                self.damaged.append((file, str(error).partition(": ")[2].partition(";")[0]))
            except StorageError as error:
                raise OSError(0, str(error), os.fsdecode(path)) from None
            else:
                if self.meta and said["cluster"] != self.meta["cluster"]:
                    self.say(Severity.CORRUPT, file, "belongs to another cluster",
                             "move it out of the directory")
                self.say(Severity.FINE, file, f"entries up to {said['index']} of term "
                         f"{said['term']}, revision {said['revision']}, {said['keys']} keys, "
                         f"{said['size']} bytes")
                if not good:
                    self.base = said["index"], said["term"], said["crc"]
                good += 1
        for name in names:
            if name.endswith((".snap.new", ".snap.part")):
                self.say(Severity.FINE, f"snapshot/{name}", "a snapshot that is not complete")
            elif not SNAPSHOT_NAME.fullmatch(name):
                self.say(Severity.FINE, f"snapshot/{name}", "kept, though damaged; nothing reads it"
                         if name.endswith(".corrupt") else "no file of dengine; it is left alone")

    def pages(self, file: str, count: int) -> tuple[int, list[bytes]]:
        """The size of a file, and its first pages."""
        with self.opened(file) as fd:
            size = self.reader.bytes_of(fd)
            if file == "meta":
                self.reader.drop(fd, size)  # as a start does: what counts is on the disk
            data = self.reader.read(fd, count * PAGE, 0)
            return size, [data[i:i + PAGE] for i in range(0, len(data), PAGE)]

    @contextmanager
    def opened(self, file: str) -> Iterator[int]:
        path = os.path.join(self.path, os.fsencode(file))
        fd = self.reader.open(path)
        try:
            yield fd
        except OSError as error:
            error.filename = os.fsdecode(path)
            raise
        finally:
            self.reader.close(fd)

    def stray(self, file: str, page: bytes, number: int, used: int) -> None:
        """The rest of a page is in no checksum: nothing relies on it."""
        if page[used:] != ZEROS[used:]:
            self.say(Severity.FINE, file, "bytes that nothing uses are not zero",
                     offset=number * PAGE + used)

    # ------------------------------------------------------------------------------------- meta
    def read_meta(self, has_meta: bool, names: list[str]) -> None:
        if not has_meta:
            if names:
                self.say(Severity.CORRUPT, "meta", "is missing beside a log: this node's vote is "
                         "lost", "put the file back")
            else:
                self.say(Severity.REPAIRABLE, "meta", "is missing, and there is no log: a start "
                         "begins a new node here", "check the path, if there was one")
            return
        size, pages = self.pages("meta", 2)
        self.slots = [slot(page) for page in pages]
        good = [said for fault, said in self.slots if fault == 0]
        best = max(good, key=lambda said: said["sequence"], default=None)
        if any(fault == 2 and (best is None or said["sequence"] > best["sequence"])
               for fault, said in self.slots):
            self.say(Severity.UNREADABLE, "meta", "is of a newer format", UPGRADE)
            return
        if best is None:
            self.say(Severity.CORRUPT, "meta", "both copies of the hard state are damaged: this "
                     "node's vote is lost", RESTORE)
            return
        self.meta = best
        self.describe_meta(best, size, pages)

    def describe_meta(self, best: dict[str, int], size: int, pages: list[bytes]) -> None:
        for number, (fault, said) in enumerate(self.slots):
            at = number * PAGE
            if fault:
                self.say(Severity.REPAIRABLE, "meta", f"slot {number} is damaged; a start writes "
                         "it again from the other one", offset=at)
            elif said["sequence"] < best["sequence"]:
                self.say(Severity.REPAIRABLE, "meta", f"slot {number} is one save behind: the node "
                         "ended between the two; a start writes it again", offset=at)
            else:
                self.say(Severity.FINE, "meta", f"slot {number}: save {said['sequence']}, node "
                         f"{said['node']} of cluster {said['cluster']:016x}, term {said['term']}, "
                         f"vote for {said['vote']}{', in doubt' if said['doubt'] else ''}",
                         offset=at)
                self.stray("meta", pages[number], number, SLOT_BYTES)
        if size != 2 * PAGE:
            self.say(Severity.FINE, "meta", f"has {size} bytes instead of {2 * PAGE}")

    def ordered(self) -> Iterator[Finding]:
        """Findings by file, then place."""
        yield from sorted(self.findings, key=lambda f: (f.file.startswith("log"), f.file,
                                                        -1 if f.offset is None else f.offset))
