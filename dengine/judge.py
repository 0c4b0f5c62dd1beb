"""What a start would make of the files of a data directory, judged by reading them only.

It decides what lives, what is proven and how much each finding weighs, by the rules that
docs/architecture.md gives for a start, but shares no code with recovery: so each can be compared
with the other. Which bytes mean what is `_core/examine`'s.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from dengine._core.examine import (
    HEADER_BYTES,
    MARK_BYTES,
    PAGE,
    SEGMENT_DATA,
    Reader,
    first_crc,
    header,
    mark,
    slot,
)
from dengine.findings import (
    BLANK,
    DAMAGED,
    END,
    KIND,
    NEWER,
    OK,
    RESTORE,
    SEGMENT_NAME,
    UPGRADE,
    VERDICTS,
    ZEROS,
    Findings,
    Segment,
    Severity,
)

FAULTS = {2: "is cut short", 3: "has an impossible length", 4: "does not match its checksum",
          5: "does not continue the log", KIND: "is of a kind that this version does not know"}
BUDGET = 16 << 20  # bytes between two steps of a progress bar
MAX_INDEX = (1 << 64) - 1
EPOCH_MAX = 1 << 48  # of a segment, as recovery has it


class Examination(Findings):
    """Findings about one directory, and what the log holds. `progress` is told bytes as read."""

    def __init__(self, reader: Reader, path: bytes,
                 progress: Callable[[int], None] = lambda _: None) -> None:
        super().__init__(reader, path, progress)
        self.segments: list[Segment] = []
        self.mark: dict[str, int] = dict.fromkeys(
            ("sequence", "epoch", "offset", "index", "term", "crc"), 0)
        self.cluster = self.incarnation = 0  # whose log it is
        self.last = self.term = self.crc = 0  # the end of the chain
        self.broken = False  # the chain was lost: the next anchor is taken as it is
        self.sure = True  # no anchor was taken like that
        self.proved = False  # all that the newest mark proves is in the chain
        self.suspects: list[tuple[str, str, int | None, int | None]] = []  # what a mark proves
        self.places: dict[int, tuple[int, int, int]] = {}  # entry: its term, crc, end
        self.wanted: list[int] = []  # entries whose place something names

    @property
    def live(self) -> list[Segment]:
        return [s for s in self.segments if s.state == "live"]

    # ---------------------------------------------------------------------------------- judging
    def judge(self, has_meta: bool, names: list[str], snapshots: list[str]) -> Examination:
        """Names in log/ and in snapshot/. What cannot be read ends it, as one finding."""
        try:
            self.read_meta(has_meta, names)
            self.read_snapshots(snapshots)
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
        self.wanted = sorted({self.mark["index"], self.base[0],
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
            self.suspects.append((
                f"log/{self.mark['epoch']:016x}.seg", "is missing, but a completed sync proves "
                f"entries up to {self.mark['index']} in it", None, None))
        if self.base[0] and not self.holds_base():
            for s in self.live:
                s.state = "dead"
            if self.last:
                self.say(Severity.REPAIRABLE, "log", f"ends at entry {self.last} and does not lead "
                         f"to the snapshot of entry {self.base[0]}: a start goes on behind that")
            self.start_anew(*self.base)

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
        if fault == OK and not self.reaches(s) and self.starts_anew(s):
            for old in self.live:
                old.state = "dead"
            self.start_anew(*(s.header[f"anchor_{k}"] for k in ("index", "term", "crc")))
        if fault or not (self.broken or self.reaches(s)):
            self.leave(s, fault, what, proven)
            return True
        s.state = "live"
        self.sure &= not self.broken
        self.broken = False
        self.keep_to(s.header)
        self.scan(s, fd)
        return self.judge_end(s)

    def reaches(self, s: Segment) -> bool:
        """Does the chain hold the entry that this segment is anchored at?"""
        at = s.header["anchor_index"]
        return at <= self.last and self.places.get(at, ())[:2] == (s.header["anchor_term"],
                                                                   s.header["anchor_crc"])

    def holds_base(self) -> bool:
        """Does the chain lead through the last entry of the snapshot?"""
        return self.last >= self.base[0] and self.places.get(self.base[0], ())[:2] == self.base[1:]

    def starts_anew(self, s: Segment) -> bool:
        """Does the snapshot hold all that is missing before this segment?"""
        anchor = s.header["anchor_index"], s.header["anchor_term"], s.header["anchor_crc"]
        return bool(self.base[0]) and not self.holds_base() and (
            anchor[0] < self.base[0] or anchor == self.base)

    def start_anew(self, index: int, term: int, crc: int) -> None:
        self.last, self.term, self.crc = index, term, crc
        self.places = {index: (term, crc, SEGMENT_DATA)}
        self.broken, self.sure = False, True

    def leave(self, s: Segment, fault: int, what: str, proven: bool) -> None:
        """Nothing in this segment continues the chain: corruption, if something in it is proven."""
        if proven and (fault != BLANK or s.epoch == self.mark["epoch"]):
            s.state = "damaged" if fault else "out of place"
            self.suspects.append((s.name, f"{what}, but a completed sync proves entries up to "
                                  f"{self.mark['index']}", 0, None))
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
        self.proved = self.sure and s.end >= self.mark["offset"]
        if s.end < self.mark["offset"]:
            self.suspects.append((
                s.name, f"{FAULTS.get(s.why, 'is missing')}, but a completed sync proves entries "
                f"up to {self.mark['index']}", s.end, s.last + 1))
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
        lost = self.mark["index"] > self.base[0] and not self.proved
        for file, means, offset, index in self.suspects:
            self.say(*(Severity.CORRUPT, file, means, RESTORE) if lost else (
                Severity.REPAIRABLE, file, f"{means}: a snapshot holds all of them"),
                offset=offset, index=index)
        for file, means in self.damaged:
            self.say(*(Severity.CORRUPT, file, f"{means}, and the log does not hold what it held",
                       RESTORE) if self.last < self.newest else (
                Severity.REPAIRABLE, file, f"{means}: a start leaves it out and uses the log"))
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
        if self.meta and self.meta["term"] and not live and not self.base[0] and (
                self.verdict < Severity.CORRUPT):
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
        return {"snapshot": self.base[0], "segments": len(self.segments),
                "first": live[0].first if live else 0,
                "last": self.last, "term": self.meta["term"] if self.meta else self.term,
                "mark": proves if self.mark["epoch"] else None,
                "verdict": self.verdict.name.lower(), "means": VERDICTS[self.verdict]}
