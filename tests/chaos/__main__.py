"""Chaos on real processes: a campaign of runs, each made from its seed.

    python -m tests.chaos --minutes 10          seeds 1, 2, ...
    python -m tests.chaos --seed 42             one run
    python -m tests.chaos --from 100 --runs 50

It decides how many runs there are, where they live and what is left of them: everything is in
namespaces of our own and one temporary directory, so it ends with this process. What failed is kept
under logs/chaos. Status: 0 all passed, 1 violations, 2 no run passed.
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from tests.chaos import plan as plans
from tests.chaos import report
from tests.chaos.ground import go_inside, missing, obey_signals, scratch
from tests.chaos.net import Network
from tests.chaos.run import MIN_OPERATIONS, Run, Verdict
from tests.cluster import ROOT

PREFIX = "dengine-chaos-"
SECONDS = 24.0              # of faults in a run
BOUND_S = 240.0             # of a run, beside its faults
KEPT = ROOT / "logs" / "chaos"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="begin no run after this time")
    parser.add_argument("--runs", type=int, help="at most so many")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--from", type=int, default=1, dest="first", help="the first seed")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of faults in each run")
    parser.add_argument("--operations", type=int, default=MIN_OPERATIONS,
                        help="with fewer answers a run is void")
    parser.add_argument("--evidence", type=Path, help="a file that the totals are added to")
    parser.add_argument("--results", type=Path, help="a file for the verdicts, as JSON")
    parser.add_argument("--loopback", action="store_true", help="only what works without root")
    parser.add_argument("--keep", action="store_true", help="keep what passed, too")
    parser.add_argument("--show", action="store_true", help="print the plan, run nothing")
    chosen = parser.parse_args()
    if chosen.seed is not None:
        chosen.first, chosen.runs = chosen.seed, chosen.runs or 1
    elif chosen.minutes is None:
        chosen.runs = chosen.runs or 1
    return chosen


def one(seed: int, root: Path, chosen: argparse.Namespace) -> Verdict:
    """One run from its seed; a machine that refuses makes it void."""
    plan = plans.make(seed, chosen.seconds, easy=chosen.loopback)
    network = run = None
    verdict = Verdict(seed, plan.nodes, plan.strategy, str(root))
    try:
        network = None if chosen.loopback else Network(seed, plan.nodes)
        run = Run(plan, root, network, chosen.operations)
        verdict = run.verdict

        async def bounded() -> None:
            async with asyncio.timeout(BOUND_S + 3 * plan.seconds):
                await run.go()

        asyncio.run(bounded())
    except Exception as error:
        verdict.void += [f"{type(error).__name__}: {error}", *verdict.late]
        verdict.late = []
        (root / "trouble.txt").write_text(traceback.format_exc())
    finally:
        if run:
            run.close()
        if network:
            network.close()
    return verdict


def keep(root: Path, verdict: Verdict) -> Path:
    """Copies a run's directory, images and all, to where it stays."""
    target = KEPT / f"seed-{verdict.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-r", "--sparse=always", str(root), str(target)], check=True,
                   timeout=120.0)
    (target / "verdict.json").write_text(json.dumps(asdict(verdict), indent=1))
    return target


def campaign(chosen: argparse.Namespace, directory: Path, verdicts: list[Verdict]) -> None:
    begun, seed = time.monotonic(), chosen.first
    while chosen.runs is None or len(verdicts) < chosen.runs:
        if chosen.minutes is not None and time.monotonic() - begun > 60 * chosen.minutes:
            break
        root = directory / f"run-{seed}"
        root.mkdir()
        verdict = one(seed, root, chosen)
        verdicts.append(verdict)
        print(report.line(verdict), flush=True)
        for text in [*verdict.violations, *verdict.void]:
            print(f"    {text}", flush=True)
        if verdict.violations or verdict.void or chosen.keep:
            print(f"    kept: {keep(root, verdict)}", flush=True)
        if chosen.evidence:
            means = "loopback" if chosen.loopback else "namespaces"
            report.add_evidence(chosen.evidence, verdict, means, chosen.seconds)
        shutil.rmtree(root, ignore_errors=True)
        seed += 1


def main() -> int:
    chosen = arguments()
    if chosen.show:
        plan = plans.make(chosen.first, chosen.seconds, easy=chosen.loopback)
        print(json.dumps(asdict(plan), indent=1))
        return 0
    why = "" if chosen.loopback else missing()
    if why:
        print(f"{why}: without namespaces and mounts, only pauses and kill -9 on loopback")
        chosen.loopback = True
    if not chosen.loopback:
        go_inside("tests.chaos")
    obey_signals()
    verdicts: list[Verdict] = []
    try:
        with scratch(PREFIX) as directory:
            campaign(chosen, directory, verdicts)
    except KeyboardInterrupt:
        print("interrupted")
    if chosen.results:
        chosen.results.write_text(json.dumps([asdict(v) for v in verdicts], indent=1))
    print(report.table(verdicts), flush=True)
    if any(v.violations for v in verdicts):
        return 1
    return 0 if any(not v.void for v in verdicts) else 2


if __name__ == "__main__":
    sys.exit(main())
