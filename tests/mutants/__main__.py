"""Shows that the tests would notice: runs them against planted bugs, one at a time.

    python -m tests.mutants [--only N,N] [--some 5] [--seeds 300] [--evidence FILE]

The core is built once with all of them, apart from the checkout; DENGINE_MUTANT chooses one for a
process. It runs simulated clusters until a check fails, then the tests that the table names for
what they cannot show; before all of them both without a bug, which must pass. `--some K` takes K by
the commit. With evidence of this core it goes on where it was interrupted. Exit status 1: less than
95 % are noticed, or one that is not has no explanation.
"""
from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.mutants.table import MUTANTS
from tests.proofs import commit, core, load, save
from tests.trees import ROOT, build

ENOUGH = 0.95
RUN_S = 900.0


def python(tree: Path, mutant: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DENGINE_MUTANT": str(mutant), "PYTHONHASHSEED": "0"}
    return subprocess.run([sys.executable, *arguments], cwd=tree, env=env, text=True,
                          capture_output=True, timeout=RUN_S)


def simulated(tree: Path, mutant: int, seeds: int) -> dict[str, Any]:
    """The first seed that fails, the steps until then, and what its check said."""
    done = python(tree, mutant, "-m", "tests.mutants.seeds", str(seeds))
    if done.returncode:
        return {"seeds": None, "steps": None, "check": f"the process ended: {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def judged(tree: Path, mutant: int, seeds: int, tests: Sequence[str]) -> dict[str, Any]:
    result = simulated(tree, mutant, seeds)
    if not result["check"] and tests:
        done = python(tree, mutant, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests)
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
        if done.returncode > 1:                 # no such test, say: that is nobody's notice
            raise SystemExit(f"the tests for {mutant} ended: {done.returncode}\n{done.stdout}")
        result["check"] = failed[0].split(" - ")[0].removeprefix("FAILED ") if failed else ""
        if done.returncode and not failed:
            result["check"] = f"the tests ended: {done.returncode}"
    return result


def line(number: int, result: dict[str, Any]) -> str:
    by = result["check"] or "SURVIVES: " + (MUTANTS[number].why or "not explained")
    seeds = result["seeds"] if result["seeds"] is not None else "-"
    return f"{number:3}  {MUTANTS[number].name:66}  {seeds:>5}  {by}"


def known(file: Path | None) -> dict[int, dict[str, Any]]:
    """What the evidence of this core says was noticed: a campaign that was interrupted goes on."""
    campaigns = load(file)["campaigns"] if file else []
    return {int(n): row for c in campaigns if c["core"] == core()
            for n, row in c["mutants"].items() if row["check"]}


def keep(file: Path, rows: dict[int, dict[str, Any]]) -> None:
    others = [c for c in load(file)["campaigns"] if c["core"] != core()]
    named = {str(n): {"name": MUTANTS[n].name, "rule": MUTANTS[n].rule, **r}
             for n, r in rows.items()}
    killed = sum(bool(r["check"]) for r in rows.values())
    save(file, {"campaigns": [*others, {
        "core": core(), "commit": commit("."), "planted": len(rows), "noticed": killed,
        "mutants": named}]})


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("--only", help="numbers, by commas")
    parser.add_argument("--some", type=int, help="so many, chosen by the commit")
    parser.add_argument("--seeds", type=int, default=300, help="tried before a bug survives")
    parser.add_argument("--evidence", type=Path, help="a file that the table is written to")
    a = parser.parse_args()
    chosen = sorted(MUTANTS)
    if a.only:
        chosen = [int(n) for n in a.only.split(",")]
    elif a.some:
        chosen = sorted(random.Random(commit(".")).sample(chosen, min(a.some, len(chosen))))
    rows = {n: row for n, row in known(a.evidence).items() if n in MUTANTS}
    left = [n for n in chosen if n not in rows]
    tree = ROOT / "build" / "faults" / "tree"
    build(tree, "faults")
    sound = judged(tree, 0, 20, sorted({t for n in left for t in MUTANTS[n].tests}))
    if sound["check"]:
        print(f"the core without a planted bug fails: {sound['check']}")
        return 1
    print("  n  planted bug" + " " * 58 + "seeds  noticed by")
    for number in chosen:
        if number in left:
            rows[number] = judged(tree, number, a.seeds, MUTANTS[number].tests)
            if a.evidence:
                keep(a.evidence, rows)
        print(line(number, rows[number]), flush=True)
    killed = sum(bool(r["check"]) for r in rows.values())
    silent = [n for n, r in rows.items() if not r["check"] and not MUTANTS[n].why]
    print(f"\n{killed} of {len(rows)} noticed")
    return 1 if killed < ENOUGH * len(rows) or silent else 0


if __name__ == "__main__":
    sys.exit(main())
