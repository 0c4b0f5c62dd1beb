"""Torture on real processes: power cuts, kill -9, damaged files, failing disks; a campaign of runs.

    python -m tests.torture --minutes 60            seeds 1, 2, ... of each kind in turns
    python -m tests.torture cuts --only "MemFirst, all" --from 10 --runs 2

It decides how many runs there are and what is left of them; what failed is kept under logs/torture.
Power cuts need root, namespaces and loop devices; without them the rest is done, and it says so.
Status: 0 all passed, 1 violations, 2 nothing was struck.
"""
from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tests.chaos.ground import go_inside, missing, obey_signals, scratch
from tests.chaos.net import Network
from tests.proofs import add, merged
from tests.torture import cuts, disks, kills, repairs
from tests.torture.run import Run, Verdict
from tests.trees import ROOT, build

PREFIX = "dengine-torture-"
KEPT = ROOT / "logs" / "torture"
# What there is, by the first word of a command; blows in a run.
KINDS = {"cuts": cuts.KINDS, "kills": {"kills": 25},
         "repairs": {"repairs": 10, "only holder": 5},
         "disks": {"failed sync": 10, "stalled disk": 10, "full disk": 10}}
STRATEGIES = ("DiskFirst", "MemFirst")      # by the seed, where the kind does not say it
BOUND_S = 900.0             # of a run


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=[*KINDS], help=", ".join(KINDS))
    kinds = [kind for of in KINDS.values() for kind in of]
    parser.add_argument("--only", choices=kinds, help="one kind")
    parser.add_argument("--minutes", type=float, help="begin no run after this time")
    parser.add_argument("--runs", type=int, help="at most so many")
    parser.add_argument("--from", type=int, default=1, dest="first", help="the first seed")
    parser.add_argument("--blows", type=int, help="in each run")
    parser.add_argument("--evidence", type=Path, help="a file that the totals are added to")
    parser.add_argument("--results", type=Path, help="a file for the verdicts, as JSON")
    chosen = parser.parse_args()
    if unknown := set(chosen.what) - set(KINDS):
        parser.error(f"no such torture: {', '.join(sorted(unknown))}")
    chosen.what = [w for w in chosen.what if chosen.only is None or chosen.only in KINDS[w]]
    if not chosen.what:
        parser.error(f"no {chosen.only} among what was named")
    if chosen.minutes is None:
        chosen.runs = chosen.runs or 1
    if "cuts" in chosen.what and (why := missing()):
        print(f"{why}: without namespaces and mounts, no power cuts")
        chosen.what.remove("cuts")
    return chosen


def runs(chosen: argparse.Namespace) -> Iterator[tuple[int, str]]:
    """(seed, kind) of each run, for ever."""
    kinds = [k for what in chosen.what for k in KINDS[what] if chosen.only in (None, k)]
    return ((seed, kind) for seed in itertools.count(chosen.first) for kind in kinds)


def make(kind: str, seed: int, root: Path, network: Network | None) -> Run:
    if network:
        return cuts.Cuts(kind, seed, kind.partition(",")[0], root, network)
    of = {"kills": kills.Kills, "repairs": repairs.Repairs, "only holder": repairs.OnlyHolder,
          "failed sync": disks.FailedSync, "stalled disk": disks.StalledDisk,
          "full disk": disks.FullDisk}
    return of[kind](kind, seed, STRATEGIES[seed % 2], root, None)


def one(kind: str, seed: int, root: Path, blows: int | None) -> Verdict:
    """One run from its seed; a machine that refuses makes all of it void."""
    verdict = Verdict(kind, seed, str(root))
    network = run = None
    count = blows or next(of[kind] for of in KINDS.values() if kind in of)
    try:
        network = Network(seed, 3) if kind in cuts.KINDS else None
        run = make(kind, seed, root, network)

        async def bounded() -> Verdict:
            async with asyncio.timeout(BOUND_S):
                return await run.go(count)

        verdict = asyncio.run(bounded())
    except (OSError, TimeoutError) as error:
        verdict.void += count
        verdict.by["the machine refused"] = 1
        (root / "trouble.txt").write_text(traceback.format_exc())
        print(f"    void: {type(error).__name__}: {error}", flush=True)
    finally:
        if run:
            run.close()
        if network:
            network.close()
    return verdict


def total(verdicts: list[Verdict]) -> dict[str, object]:
    sums: dict[str, object] = {}
    for v in verdicts:
        said = {k: n for k, n in asdict(v).items() if k not in ("kind", "seed", "directory")}
        said["violations"] = len(v.violations)
        sums = merged(sums, {"runs": 1, **said})
    return sums


def line(v: Verdict) -> str:
    state = "FAILED" if v.violations else "passed" if v.blows else "void"
    return (f"{v.kind:15} seed {v.seed:4d}  {state}  {v.blows:3d} blows, {v.void} void  "
            f"{v.acknowledged:6d} acknowledged  lost {v.lost}  given up {v.given_up}, "
            f"{v.longest_loss_ms} ms  back in {v.longest_back_ms / 1000:.1f} s  {v.seconds:.0f} s")


def table(verdicts: list[Verdict]) -> str:
    rows = []
    for kind in dict.fromkeys(v.kind for v in verdicts):
        sums = total([v for v in verdicts if v.kind == kind])
        by = sums.pop("by")
        rows.append(f"  {kind}")
        rows += [f"    {name.replace('_', ' '):26s} {value}" for name, value in sums.items()]
        rows += [f"    {name:26s} {n}" for name, n in by.items()]   # type: ignore[attr-defined]
    return "\n".join(rows)


def campaign(chosen: argparse.Namespace, directory: Path, verdicts: list[Verdict]) -> None:
    begun = time.monotonic()
    for seed, kind in runs(chosen):
        if (len(verdicts) == chosen.runs if chosen.runs is not None
                else time.monotonic() - begun > 60 * chosen.minutes):
            break
        root = directory / f"{kind.replace(',', '').replace(' ', '-')}-{seed}"
        root.mkdir()
        verdict = one(kind, seed, root, chosen.blows)
        verdicts.append(verdict)
        print(line(verdict), flush=True)
        for text in verdict.violations:
            print(f"    {text}", flush=True)
        if verdict.violations:
            target = KEPT / f"{root.name}-{time.strftime('%Y%m%d-%H%M%S')}"
            target.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-r", "--sparse=always", str(root), str(target)], check=True,
                           timeout=120.0)
            print(f"    kept: {target}", flush=True)
        if chosen.evidence:
            add(chosen.evidence, {"kind": kind}, seed, total([verdict]))
        shutil.rmtree(root, ignore_errors=True)


def main() -> int:
    chosen = arguments()
    if "cuts" in chosen.what:
        go_inside("tests.torture")
    if "kills" in chosen.what:
        build(kills.TREE, "faults")
    obey_signals()
    verdicts: list[Verdict] = []
    try:
        with scratch(PREFIX) as directory:
            campaign(chosen, directory, verdicts)
    except KeyboardInterrupt:
        print("interrupted")
    if chosen.results:
        chosen.results.write_text(json.dumps([asdict(v) for v in verdicts], indent=1))
    print(table(verdicts), flush=True)
    if any(v.violations for v in verdicts):
        return 1
    return 0 if any(v.blows for v in verdicts) else 2


if __name__ == "__main__":
    sys.exit(main())
