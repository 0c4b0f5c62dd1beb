"""How much the checkers notice: the rate per kind of known-bad history, and false alarms.

    python -m tests.check.power [--histories 1000] [--seed 1]

It decides how many histories are made and what a fault in the checkers is: a bad one that is missed
by a checker that could see it, a good one that is flagged. Both end it with an error.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.check.model import generate
from tests.check.mutate import MUTATIONS, SEARCHABLE
from tests.check.search import search_all
from tests.check.witness import check

OPERATIONS = 70         # of each history: faults must not hide among many answers
CLIENTS = 6
KEYS = 2
TRIES = 50              # histories that may have no place for a fault, for each that has one


@dataclass
class Power:
    """Of one kind of fault: how many histories had it, and who noticed."""

    kind: str
    histories: int = 0
    witness: int = 0
    search: int = 0

    @property
    def complete(self) -> bool:
        searched = self.search == self.histories or self.kind not in SEARCHABLE
        return self.witness == self.histories and searched

    def __str__(self) -> str:
        n = self.histories or 1
        search = f"{self.search / n:8.1%}" if self.kind in SEARCHABLE else "       –"
        return f"{self.kind:28} {self.histories:6} {self.witness / n:8.1%} {search}"


def good(seed: int) -> Iterator[tuple[int, list]]:
    """Histories without end, of seeds that follow each other."""
    while True:
        unknown = (seed % 4) * 0.04
        yield seed, generate(seed, OPERATIONS, clients=CLIENTS, keys=KEYS, unknown=unknown,
                             refused=0.04)
        seed += 1


def measure(kind: str, histories: int, seed: int) -> Power:
    power = Power(kind)
    for number, history in good(seed):
        if number - seed >= TRIES * histories or power.histories == histories:
            break
        bad = MUTATIONS[kind](history, random.Random(number))
        if bad is None:
            continue
        power.histories += 1
        power.witness += check(bad, 0) is not None
        if kind in SEARCHABLE:
            power.search += search_all(bad).result == "violation"
    return power


def false_alarms(histories: int, seed: int) -> list[int]:
    """The seeds of good histories that a checker does not accept."""
    found = []
    for number, history in good(seed):
        if number - seed == histories:
            return found
        if check(history, 0) or not search_all(history).good:
            found.append(number)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--histories", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    print(f"{'fault':28} {'bad':>6} {'witness':>8} {'search':>8}")
    rows = []
    for kind in MUTATIONS:
        rows.append(measure(kind, options.histories, options.seed))
        print(rows[-1], flush=True)
    accused = false_alarms(10 * options.histories, options.seed)
    print(f"good histories flagged: {len(accused)} of {10 * options.histories} {accused[:5]}; "
          f"{time.monotonic() - began:.0f} s")
    if accused or not all(row.complete and row.histories == options.histories for row in rows):
        sys.exit("a checker missed what it should see, or accused a good history")


if __name__ == "__main__":
    main()
