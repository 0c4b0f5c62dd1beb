"""What a start would make of the files of a data directory, judged by reading them only.

It decides what lives, what is proven and how much each finding weighs, by the rules that
docs/architecture.md gives for a start, but shares no code with recovery: so each can be compared
with the other. Which bytes mean what is `_core/examine`'s.
"""
from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from dengine._core.examine import (
    HEADER_BYTES,
    MARK_BYTES,
    PAGE,
    SEGMENT_DATA,
    SLOT_BYTES,
    Reader,
    first_crc,
    header,
    mark,
    slot,
)

OK, BLANK, DAMAGED, NEWER = range(4)  # of a header
END, KIND = 1, 6  # faults of a record: nothing more; a kind of a newer format
FAULTS = {2: "is cut short", 3: "has an impossible length", 4: "does not match its checksum",
          5: "does not continue the log", KIND: "is of a kind that this version does not know"}
BUDGET = 16 << 20  # bytes between two steps of a progress bar
MAX_INDEX = (1 << 64) - 1
ZEROS = bytes(PAGE)
EPOCH_MAX = 1 << 48  # of a segment, as recovery has it
SEGMENT_NAME = re.compile(r"[0-9a-f]{16}\.seg")
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


class Examination:
    """Findings about one directory, and what the log holds. `progress` is told bytes as read."""

    def __init__(self, reader: Reader, path: bytes,
                 progress: Callable[[int], None] = lambda _: None) -> None:
        self.reader = reader
        self.path = path
        self.progress = progress
        self.findings: list[Finding] = []
        self.slots: list[tuple[int, dict[str, int]]] = []
        self.meta: dict[str, int] | None = None  # the slot that counts
        self.segments: list[Segment] = []
        self.mark: dict[str, int] = dict.fromkeys(
            ("sequence", "epoch", "offset", "index", "term", "crc"), 0)
        self.cluster = self.incarnation = 0  # whose log it is
        self.last = self.term = self.crc = 0  # the end of the chain
        self.broken = False  # the chain was lost: the next anchor is taken as it is
        self.places: dict[int, tuple[int, int, int]] = {}  # entry: its term, crc, end
        self.wanted: list[int] = []  # entries whose place something names

    @property
    def verdict(self) -> Severity:
        return max((f.severity for f in self.findings), default=Severity.FINE)

    @property
    def live(self) -> list[Segment]:
        return [s for s in self.segments if s.state == "live"]

    def say(self, severity: Severity, file: str, means: str, do: str = "", *,
            offset: int | None = None, index: int | None = None) -> None:
        self.findings.append(Finding(severity, file, offset, index, means, do))

    # ---------------------------------------------------------------------------------- judging
    def judge(self, names: list[str], has_meta: bool) -> Examination:
        """`names` of the log's directory. What cannot be read ends it, as one finding."""
        try:
            self.read_meta(has_meta, names)
            for epoch in sorted(int(n[:16], 16) for n in names
                                if SEGMENT_NAME.fullmatch(n)):
                if epoch > EPOCH_MAX:
                    self.say(Severity.CORRUPT, f"log/{epoch:016x}.seg", "is none of this node's "
                             "segments", "move it out of the directory")
                else:
                    self.read_head(epoch)
            self.doubt_the_cache()
            if self.identify():
                self.pass_over()
                self.walk()
                self.conclude(has_meta)
        except OSError as error:
            file = os.fsdecode(error.filename or self.path).removeprefix(
                os.fsdecode(self.path) + "/")
            self.say(Severity.UNREADABLE, file, f"could not be read: {error.strerror}",
                     "look at path, permissions and disk; links are not followed")
        for name in names:
            self.left_over(name)
        return self

    def left_over(self, name: str) -> None:
        if name.endswith(".seg.new"):
            self.say(Severity.FINE, f"log/{name}", "a segment that was not prepared to its end; "
                     "the next start removes it")
        elif name.endswith(".seg.corrupt"):
            self.say(Severity.FINE, f"log/{name}", "kept from a damaged log; nothing reads it")
        elif not SEGMENT_NAME.fullmatch(name):
            self.say(Severity.FINE, f"log/{name}", "no file of dengine; it is left alone")

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

    # ----------------------------------------------------------------------- headers and marks
    def read_head(self, epoch: int) -> None:
        s = Segment(epoch, f"log/{epoch:016x}.seg")
        s.size, pages = self.pages(s.name, 3)
        s.fault, s.header = header(pages[0])
        s.marks = [mark(page) for page in pages[1:]]
        for said in s.marks:
            if said is not None and said["sequence"] > self.mark["sequence"]:
                self.mark = said
        self.segments.append(s)
        if s.fault == OK:
            self.stray(s.name, pages[0], 0, HEADER_BYTES)
        for number, page in enumerate(pages[1:], 1):
            if s.marks[number - 1] is not None:
                self.stray(s.name, page, number, MARK_BYTES)
            elif page != ZEROS:
                s.bad_marks.append(number * PAGE)

    def doubt_the_cache(self) -> None:
        """What no mark proves is read from the disk: after a failed sync the cache may differ."""
        for s in self.segments:
            if s.epoch >= self.mark["epoch"]:
                with self.opened(s.name) as fd:
                    self.reader.drop(fd, s.size)
                    s.fault, s.header = header(self.reader.read(fd, PAGE, 0))

    def identify(self) -> bool:
        """Whose log it is: the file `meta` says it, where it is lost the first good header."""
        said = self.meta or next((s.header for s in self.segments if s.fault == OK), None)
        if said is None:
            return False
        self.cluster, self.incarnation = said["cluster"], said["incarnation"]
        self.crc = first_crc(self.cluster)
        self.places[0] = 0, self.crc, SEGMENT_DATA
        self.wanted = sorted({self.mark["index"],
                              *(s.header["anchor_index"] for s in self.segments if self.ours(s))})
        return True

    def ours(self, s: Segment) -> bool:
        return s.fault == OK and (s.header["cluster"], s.header["incarnation"],
                                  s.header["epoch"]) == (self.cluster, self.incarnation, s.epoch)

    def pass_over(self) -> None:
        """Segments of which a newer, proven anchor leaves nothing."""
        lowest = MAX_INDEX
        for s in reversed(self.segments):
            if s.epoch <= self.mark["epoch"] and self.ours(s):
                if s.header["anchor_index"] >= lowest:
                    s.state = "dead"
                lowest = min(lowest, s.header["anchor_index"])

    # ------------------------------------------------------------------------------- the chain
    def walk(self) -> None:
        for s in self.segments:
            if s.state == "dead":
                continue
            with self.opened(s.name) as fd:
                if not self.segment(s, fd):
                    return
        if self.mark["epoch"] and not any(s.epoch == self.mark["epoch"] for s in self.segments):
            self.say(Severity.CORRUPT, f"log/{self.mark['epoch']:016x}.seg", "is missing, but a "
                     f"completed sync proves entries up to {self.mark['index']} in it",
                     "put the file back, or restore the directory from a backup")

    def segment(self, s: Segment, fd: int) -> bool:
        """False: nothing after it can be judged."""
        proven = s.epoch <= self.mark["epoch"]
        if s.fault == NEWER:
            s.state = "newer"
            self.say(Severity.UNREADABLE, s.name, "is of a newer format", UPGRADE, offset=0)
            return False
        if s.fault == OK and not self.ours(s):
            s.state = "foreign"
            self.say(Severity.CORRUPT, s.name, "belongs to another node, cluster or place in the "
                     "log", "move it out of the directory", offset=0)
            self.broken = True
            return True
        fault = s.fault
        what = "its header is damaged" if fault else "its header does not continue the log"
        if fault == OK and s.header["size"] != s.size:
            fault = DAMAGED
            what = f"it has {s.size} bytes, its header says {s.header['size']}"
        if s.fault == BLANK:
            s.behind = self.reader.first_not_zero(fd, 0, s.size)
            s.state = "blank"
            if s is self.segments[-1] and s.behind < 0 and s.size >= SEGMENT_DATA and not proven:
                s.state = "prepared"
                return True
        if fault or not (self.broken or self.reaches(s)):
            self.leave(s, fault, what, proven)
            return True
        s.state = "live"
        self.broken = False
        self.keep_to(s.header)
        self.scan(s, fd)
        return self.judge_end(s)

    def reaches(self, s: Segment) -> bool:
        """Does the chain hold the entry that this segment is anchored at?"""
        at = s.header["anchor_index"]
        return at <= self.last and self.places.get(at, ())[:2] == (s.header["anchor_term"],
                                                                   s.header["anchor_crc"])

    def leave(self, s: Segment, fault: int, what: str, proven: bool) -> None:
        """Nothing in this segment continues the chain: corruption, if something in it is proven."""
        if proven and (fault != BLANK or s.epoch == self.mark["epoch"]):
            s.state = "damaged" if fault else "out of place"
            self.say(Severity.CORRUPT, s.name, f"{what}, but a completed sync proves entries up to "
                     f"{self.mark['index']}", RESTORE, offset=0)
            self.broken = True
        elif fault != BLANK:
            s.state = "left out"
            self.say(Severity.REPAIRABLE, s.name, f"{what}, and nothing proves that it was ever "
                     "synced: a start removes it", "nothing, if the machine lost power or the node "
                     f"was killed; else {RESTORE}", offset=0)
        elif s.behind >= 0 or s.size < SEGMENT_DATA:
            self.say(Severity.REPAIRABLE, s.name, "its header is blank"
                     f"{', what follows is not' if s.behind >= 0 else ' and it is cut short'}: a "
                     "start removes it", "nothing, if the machine lost power; else " + RESTORE,
                     offset=0)

    def keep_to(self, anchor: dict[str, int]) -> None:
        """Records above a newer anchor are dead."""
        at = anchor["anchor_index"]
        for s in self.live:
            s.kept = min(s.kept, at)
            if s.first > at + 1:
                s.state = "dead"
        self.places = {i: place for i, place in self.places.items() if i <= at}
        self.last, self.term, self.crc = at, anchor["anchor_term"], anchor["anchor_crc"]
        self.places[at] = self.term, self.crc, SEGMENT_DATA

    def scan(self, s: Segment, fd: int) -> None:
        """Follows the chain through one segment, to its end or the first bad record."""
        r = self.reader
        r.start(fd, s.size, self.last, self.term, self.crc)
        stops = [i for i in self.wanted if i > self.last] + [MAX_INDEX]
        at = 0
        for stop in stops:
            while r.follow(stop, BUDGET) and r.index < stop:
                self.progress(r.offset - at)
                at = r.offset
            if r.index == stop:
                self.places[stop] = r.term, r.crc, r.offset
        self.last, self.term, self.crc = r.index, r.term, r.crc
        s.last = s.kept = r.index
        s.end, s.why = r.offset, r.fault
        if r.padding:
            self.say(Severity.FINE, s.name, "padding that nothing uses is not zero",
                     offset=r.padding)
        if r.strange:
            self.say(*(Severity.UNREADABLE, s.name, "its payload is of a newer format", UPGRADE)
                     if r.newer else (Severity.CORRUPT, s.name, "its checksum is right, but its "
                                      "payload cannot be decoded", "report it; " + RESTORE),
                     offset=r.strange_at, index=r.strange)
        if s.why == END:
            s.behind = r.first_not_zero(fd, s.end, s.size)
        self.progress(s.size - at)

    def judge_end(self, s: Segment) -> bool:
        """Is what no longer continues the chain covered by the newest mark?"""
        if s.why == KIND:
            self.say(Severity.UNREADABLE, s.name, FAULTS[KIND], UPGRADE, offset=s.end,
                     index=s.last + 1)
            return False
        if s.epoch != self.mark["epoch"]:
            return True
        if s.end < self.mark["offset"]:
            self.say(Severity.CORRUPT, s.name, f"{FAULTS.get(s.why, 'is missing')}, but a completed"
                     f" sync proves entries up to {self.mark['index']}", RESTORE, offset=s.end,
                     index=s.last + 1)
            self.broken = True
        elif self.places.get(self.mark["index"]) != (self.mark["term"], self.mark["crc"],
                                                     self.mark["offset"]):
            self.say(Severity.CORRUPT, s.name, "the newest mark names another record than stands "
                     "there", "report it; " + RESTORE, offset=self.mark["offset"],
                     index=self.mark["index"])
        return True

    def records(self, s: Segment, first: int, last: int) -> Iterator[dict[str, Any]]:
        """Its records `first` to `last`, dead ones too; then what ends it, if that is reached."""
        r = self.reader
        anchor = s.header["anchor_index"]
        with self.opened(s.name) as fd:
            r.start(fd, s.size, anchor, s.header["anchor_term"], s.header["anchor_crc"])
            while r.index < first - 1 and r.follow(first - 1, BUDGET):
                pass
            while r.index < last and (record := r.next() if r.fault == 0 else None):
                yield {"type": "record", **record,
                       "dead": s.state in ("live", "dead") and record["index"] > s.kept}
            if r.fault:
                end, fault = r.offset, r.fault
                behind = r.first_not_zero(fd, end, s.size)
                yield {"type": "end", "offset": end, "after": max(r.index, anchor),
                       "bytes_behind": None if behind < 0 else behind,
                       "why": FAULTS.get(fault, "")}

    # ----------------------------------------------------------------------------- the summary
    def conclude(self, has_meta: bool) -> None:
        """What can be said only when all is read."""
        live = self.live
        for s in self.segments:
            self.describe(s, bool(live) and s is live[-1])
            if s.state == "live" and s.epoch >= self.mark["epoch"]:
                for offset in s.bad_marks:
                    self.say(Severity.REPAIRABLE, s.name, "a mark is damaged: it proves nothing, "
                             "and a later sync writes it again", offset=offset)
        if has_meta and self.meta and self.term > self.meta["term"]:
            self.read_meta_again()
            if self.term > self.meta["term"]:
                self.say(Severity.CORRUPT, "meta", f"the log holds term {self.term}, `meta` only "
                         f"{self.meta['term']}: this node's vote is lost",
                         "put the newer `meta` back")
        if self.meta and self.verdict < Severity.CORRUPT and self.last < self.meta["known"]:
            self.say(Severity.CORRUPT, "log", f"ends at entry {self.last}, but entry "
                     f"{self.meta['known']} was on this disk when the hard state was saved: a "
                     "segment is missing or cut short", RESTORE)
        if self.meta and self.meta["term"] and not live and self.verdict < Severity.CORRUPT:
            self.say(Severity.REPAIRABLE, "log", "holds no entry, though the node was in term "
                     f"{self.meta['term']}: a start goes on with an empty log", "if anything was "
                     f"ever acknowledged here, {RESTORE}")

    def read_meta_again(self) -> None:
        """Beside a running node: a newer term was saved before the log got it."""
        slots = [slot(page) for page in self.pages("meta", 2)[1]]
        self.meta = max([said for fault, said in slots if fault == 0] + [self.meta or {}],
                        key=lambda said: said["sequence"])

    def describe(self, s: Segment, is_tail: bool) -> None:
        """One line for a whole segment, and what stands behind its end."""
        if s.state == "dead":
            self.say(Severity.FINE, s.name, "dead: a newer segment replaced all its entries; the "
                     "next start removes it")
        elif s.state == "prepared":
            self.say(Severity.FINE, s.name, f"prepared: {s.size} bytes of zeros for what comes")
        elif s.state == "blank" and s.behind < 0 and s.size >= SEGMENT_DATA:
            self.say(Severity.FINE, s.name, "blank: prepared and never used; the next start "
                     "removes it")
        if s.state != "live":
            return
        held = f"entries {s.first} to {s.kept}" if s.kept >= s.first else "no entry"
        dead = f", then {s.last - s.kept} dead ones" if s.last > s.kept else ""
        self.say(Severity.FINE, s.name, f"{held}{dead}, {s.size} bytes, anchored at entry "
                 f"{s.first - 1} of term {s.header['anchor_term']}")
        behind = s.behind if s.why == END else s.end
        if behind < 0 or (s.epoch == self.mark["epoch"] and s.end < self.mark["offset"]):
            return
        if not is_tail:
            self.say(Severity.FINE, s.name, "bytes behind the end are dead: a newer segment goes "
                     "on", offset=behind)
        elif s.why == END:
            self.say(Severity.REPAIRABLE, s.name, "bytes behind the end: no record leads there; a "
                     "start leaves them and goes on in a new segment", offset=behind)
        else:
            self.say(Severity.REPAIRABLE, s.name, f"a torn tail: it {FAULTS[s.why]}, and no mark "
                     f"proves it; a start cuts all after entry {s.last}", "nothing, if the node was"
                     f" killed or lost power; else {RESTORE}", offset=s.end, index=s.last + 1)

    def summary(self) -> dict[str, object]:
        """The last line: how much there is, and the verdict."""
        live = [s for s in self.live if s.kept >= s.first]
        proves = {k: self.mark[k] for k in ("sequence", "epoch", "index")}
        return {"segments": len(self.segments), "first": live[0].first if live else 0,
                "last": self.last, "term": self.meta["term"] if self.meta else self.term,
                "mark": proves if self.mark["epoch"] else None,
                "verdict": self.verdict.name.lower(), "means": VERDICTS[self.verdict]}

    def ordered(self) -> Iterator[Finding]:
        """Findings by file, then place."""
        yield from sorted(self.findings, key=lambda f: (f.file.startswith("log"), f.file,
                                                        -1 if f.offset is None else f.offset))
