"""Every small damage to a small data directory: what the real start and `dengine check` make of it.

    python -m tests.torture.corrupt [--short] [--only NAME,…] [--workers N] [--evidence FILE]

For each directory: every bit flipped, every truncation of every file, every 512-byte block zeroed,
every file removed, every file emptied. Each case runs `check`, then the start of a node alone: it
opens, leads and applies, on a disk in memory. Exit status 1: a case that is silent, a crash, or one
in which `check` and the start disagree.
"""
from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from ctypes import CDLL
from dataclasses import dataclass, field
from pathlib import Path

from dengine.config import Strategy
from dengine.errors import CorruptionError, FormatError, StorageError
from dengine.findings import Severity
from dengine.judge import Examination
from tests.proofs import core, load, save
from tests.sim.disk import Disk
from tests.torture.directories import CAPACITY, Victim, loaded, victim
from tests.torture.start import PATH, Started, names_of, reader_of, start

BLOCK = 512
PUTS = 38       # two segments of 16 KiB, and the beginning of a third
VICTIMS: tuple[tuple[Strategy, str], ...] = (
    ("DiskFirst", "closed"), ("DiskFirst", "killed"), ("DiskFirst", "started again"),
    ("MemFirst", "closed"), ("MemFirst", "killed"), ("DiskFirst", "compacted"))
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, KEPT = -1, -3, 32 << 20   # malloc.h; bytes
SHORT_STEP = 509    # a prime: the short form takes one flip or length of so many
EXAMPLES = 5    # kept of each kind of trouble
REFUSALS = (CorruptionError, FormatError, StorageError)
DAMAGES = ("bit", "truncated", "zeroed block", "removed", "emptied")
# right: all is there · refused: by name, nothing changed · cut: only what nobody was told of ·
# unproven: what somebody was told of, above the newest mark, and a note says so · silent: other
# content without an error · crash: an error that is not the directory's
OUTCOMES = ("right", "refused", "cut", "unproven", "silent", "crash")


@dataclass(frozen=True)
class Damage:
    kind: str
    path: str
    at: int = 0         # bit, bytes or block
    data: bytes | None = None   # what the file holds now; None: it is gone

    def __str__(self) -> str:
        return f"{self.kind} {self.at} of {self.path.removeprefix(PATH + '/')}"


def damages(files: dict[str, bytes], step: int = 1) -> Iterator[Damage]:
    for path, whole in files.items():
        for bit in range(0, 8 * len(whole), step):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            yield Damage("bit", path, bit, bytes(flipped))
        for size in range(1, len(whole), step):
            yield Damage("truncated", path, size, whole[:size])
        for at in range(0, len(whole), BLOCK):
            if any(whole[at:at + BLOCK]):
                zeros = whole[:at] + bytes(BLOCK) + whole[at + BLOCK:]
                yield Damage("zeroed block", path, at // BLOCK, zeros)
        yield Damage("removed", path)
        yield Damage("emptied", path, 0, b"")


@dataclass
class Table:
    """What came of the cases, and those that need an explanation."""

    cases: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    trouble: dict[str, list[str]] = field(default_factory=dict)
    severities: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, victim: Victim, damage: Damage, outcome: str, check: Severity,
            disagreement: str, why: str) -> None:
        self.cases[victim.kinds[damage.path], damage.kind, outcome] += 1
        self.severities[outcome, check.name.lower()] += 1
        case = f"{victim.name}: {damage}"
        if outcome in ("silent", "crash"):
            self.note(f"{outcome}: {victim.kinds[damage.path]} {damage.kind}", f"{case}: {why}")
        if disagreement:
            self.note(f"disagreement: {disagreement}", f"{case}: {why}")

    def note(self, kind: str, case: str) -> None:
        examples = self.trouble.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(case)

    def join(self, other: Table) -> None:
        self.cases += other.cases
        self.severities += other.severities
        for kind, cases in other.trouble.items():
            for case in cases:
                self.note(kind, case)

    def rows(self) -> list[list[str | int]]:
        kinds = sorted({(file, kind) for file, kind, _ in self.cases},
                       key=lambda k: (k[0], DAMAGES.index(k[1])))
        return [[file, kind, *(self.cases[file, kind, o] for o in OUTCOMES)]
                for file, kind in kinds]

    def totals(self) -> dict[str, int]:
        return {o: sum(n for (_, _, other), n in self.cases.items() if other == o)
                for o in OUTCOMES}


class Bench:
    """One victim on one disk."""

    def __init__(self, victim: Victim) -> None:
        self.victim = victim
        self.disk = Disk(1, CAPACITY)
        loaded(victim.files, self.disk)
        self.reader = reader_of(self.disk)

    def run(self, damage: Damage) -> tuple[str, Severity, str, str]:
        """(outcome, what `check` says, how the two disagree, why) of one damage."""
        before = dict(self.victim.files)
        if damage.data is None:
            del before[damage.path]
            self.disk.remove(damage.path)
        else:
            before[damage.path] = damage.data
            self.disk.put(damage.path, damage.data)
        writes = self.disk.calls("write")
        checked = Examination(self.reader, PATH.encode()).judge(*names_of(self.disk)).verdict
        if self.disk.calls("write") != writes or self.disk.open_files:
            raise AssertionError(f"{damage}: check wrote, or left a file open")
        started: Started | None = None
        try:
            started = start(self.disk, self.victim.setup, self.victim.records)
            outcome, why = self.outcome(started), "; ".join(started.notes)
        except REFUSALS as error:
            outcome = "refused" if self.disk.files() == before else "silent"
            why = str(error)
        except Exception as error:
            outcome, why = "crash", repr(error)
        self.disk.kill()
        loaded(self.victim.files, self.disk)
        return outcome, checked, disagreement(outcome, checked), why

    def outcome(self, found: Started) -> str:
        v, last = self.victim, len(self.victim.records)
        good = (found.same and found.last <= last and found.digest == v.digests[found.last]
                and (found.term, found.vote) == v.hard_state)
        if not good or found.last < v.proven:
            return "silent"
        if found.last == last:
            return "right"
        if not found.notes:
            return "silent"
        return "cut" if found.last >= v.acknowledged else "unproven"


def disagreement(outcome: str, checked: Severity) -> str:
    """Between `dengine check` and the start of the same directory; "": none."""
    refused = outcome in ("refused", "crash")
    if refused != (checked >= Severity.CORRUPT):
        return f"the start: {outcome}, check: {checked.name.lower()}"
    if outcome in ("cut", "unproven") and checked != Severity.REPAIRABLE:
        return f"the start: {outcome}, check: {checked.name.lower()}"
    return ""


def victims(where: Path, puts: int = PUTS) -> list[Victim]:
    return [victim(where, strategy, how, puts) for strategy, how in VICTIMS]


def torture(victim: Victim, table: Table, step: int = 1) -> None:
    bench = Bench(victim)
    for damage in damages(victim.files, step):
        outcome, checked, disagrees, why = bench.run(damage)
        table.add(victim, damage, outcome, checked, disagrees, why)


def shown(table: Table) -> str:
    header = ["file", "damage", *OUTCOMES]
    rows = [header, *table.rows(), ["all", "", *table.totals().values()]]
    return "\n".join(f"{row[0]:16} {row[1]:12} " + " ".join(f"{cell:>9}" for cell in row[2:])
                     for row in rows)


def work(name: str, step: int) -> Table:
    """All damages of one directory."""
    for what in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):   # a disk is megabytes, and made per case
        CDLL(None).mallopt(what, KEPT)
    strategy, how = next((s, h) for s, h in VICTIMS if f"{s}, {h}" == name)
    table = Table()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as where:
        torture(victim(Path(where), strategy, how, PUTS), table, step)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--short", action="store_true", help=f"one flip of {SHORT_STEP}")
    parser.add_argument("--only", help="these directories, as DiskFirst-closed; by default all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--evidence", type=Path)
    options = parser.parse_args()
    names = [f"{strategy}, {how}" for strategy, how in VICTIMS]
    if options.only:
        names = [only.replace("-", ", ", 1) for only in options.only.split(",")]
    whole, begun = Table(), time.monotonic()
    with ProcessPoolExecutor(options.workers) as pool:
        step = SHORT_STEP if options.short else 1
        jobs = {pool.submit(work, name, step): name for name in names}
        for job in as_completed(jobs):
            table = job.result()
            print(f"{jobs[job]}: {sum(table.cases.values())} cases, "
                  f"{time.monotonic() - begun:.0f} s", flush=True)
            whole.join(table)
            if options.evidence and not options.short:
                keep(options.evidence, jobs[job], table)
    print(shown(whole))
    for kind, cases in whole.trouble.items():
        print(f"\n{kind}", *cases, sep="\n    ")
    return 1 if whole.trouble else 0


def keep(file: Path, directory: str, table: Table) -> None:
    """One campaign of a directory is all there can be: it is exhaustive."""
    data = load(file)
    data["campaigns"] = [c for c in data["campaigns"] if c.get("directory") != directory]
    data["campaigns"].append({
        "core": core(), "directory": directory, "cases": sum(table.cases.values()),
        "outcomes": table.totals(),
        "table": [dict(zip(("file", "damage", *OUTCOMES), row, strict=True))
                  for row in table.rows()],
        "check": [{"outcome": o, "check": c, "cases": n}
                  for (o, c), n in sorted(table.severities.items())],
        "trouble": table.trouble})
    save(file, data)


if __name__ == "__main__":
    raise SystemExit(main())
