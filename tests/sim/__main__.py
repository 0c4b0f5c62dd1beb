"""Simulates clusters, one for each seed: the shipping core on simulated time, network and disks.

    python -m tests.sim --seeds 1000 [--from 1] [--workers 2] [--minutes 10] [--evidence FILE]
    python -m tests.sim --seed 42 [--trace]
    python -m tests.sim --plan FILE [--trace]

Every 100th seed runs twice: the hashes of its events must be equal. It decides which seeds run and
what is reported; what a seed stands for is in plan.py. Exit status: 0, 1 a violation, 2 something
that a campaign of 1,000 seeds or more must have met was never met.
"""
from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any

from tests.proofs import commit, core, load, save
from tests.sim.plan import Plan, plan
from tests.sim.run import replay, run, totals
from tests.sim.shrink import shrink

TWICE = 100                     # every so many seeds one runs twice
ENOUGH = 10                     # failures after which a campaign goes no further
FULL = 1000                     # seeds after which a zero in the table is a failure


def one(seed: int) -> dict[str, Any]:
    """Runs a seed: what happened, or what went wrong."""
    gc.disable()                                # a run leaves few cycles: collected between runs
    try:
        current = run(seed)
        result = {"seed": seed, "steps": current.cluster.steps, "us": current.cluster.now_us,
                  "clients": len(current.cluster.clients), "counts": totals(current),
                  "digest": current.cluster.digest}
        if seed % TWICE == 0:
            again = run(seed).cluster.digest
            if again != result["digest"]:
                result["wrong"] = f"two runs differ: {result['digest']:x} and {again:x}"
        return result
    except Exception as error:
        return {"seed": seed, "wrong": f"{type(error).__name__}: {error}"}
    finally:
        gc.collect()


def seeds_until(first: int, count: int, until: float) -> Iterator[int]:
    seed = first
    while seed < first + count and time.monotonic() < until:
        yield seed
        seed += 1


def campaign(first: int, count: int, workers: int, minutes: float | None) -> dict[str, Any]:
    """Runs seeds and reports while they run. Totals, with what failed."""
    began = told = time.monotonic()
    until = began + minutes * 60 if minutes else float("inf")
    sums: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    wrong: list[dict[str, Any]] = []
    for r in results(seeds_until(first, count, until), workers):
        sums["seeds"] += 1
        if "wrong" in r:
            wrong.append(r)
            print(f"seed {r['seed']}: {r['wrong']}"[:600], flush=True)
            if len(wrong) > ENOUGH:
                break
        sums["steps"] += r.get("steps", 0)
        sums["us"] += r.get("us", 0)
        sums["clients"] += r.get("clients", 0)
        counts.update(r.get("counts", {}))
        if time.monotonic() - told > 5:
            told = time.monotonic()
            print(f"{sums['seeds']} seeds, {sums['steps']:,} steps, "
                  f"{sums['steps'] / (told - began):,.0f} a second, "
                  f"{sums['us'] / 1e6:,.0f} s simulated", file=sys.stderr, flush=True)
    return {"first": first, "seeds": sums["seeds"], "steps": sums["steps"],
            "simulated_s": sums["us"] // 1_000_000, "requests": sums["clients"],
            "seconds": round(time.monotonic() - began, 1), "workers": workers,
            "violations": wrong, "counts": dict(sorted(counts.items()))}


def results(seeds: Iterator[int], workers: int) -> Iterator[dict[str, Any]]:
    """Of each seed, as they come. A few are given out ahead, so that a campaign ends in time."""
    with ProcessPoolExecutor(workers) as pool:
        under_way = {pool.submit(one, seed) for seed in islice(seeds, 4 * workers)}
        try:
            while under_way:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                under_way |= {pool.submit(one, seed) for seed in islice(seeds, len(done))}
                for future in done:
                    yield future.result()       # raises if a worker died
        finally:
            pool.shutdown(cancel_futures=True)


def report(done: dict[str, Any]) -> None:
    rate = done["steps"] / max(done["seconds"], 0.001)
    print(f"\n{done['seeds']} seeds from {done['first']}, {done['steps']:,} steps in "
          f"{done['seconds']:.0f} s: {rate:,.0f} a second by {done['workers']} workers; "
          f"{done['simulated_s']:,} s simulated, {done['requests']:,} requests, "
          f"{len(done['violations'])} violations\n")
    width = max(map(len, done["counts"]), default=0)
    for name, n in done["counts"].items():
        print(f"  {name:{width}}  {n:>14,}")


def never_met(done: dict[str, Any]) -> list[str]:
    from tests.sim.cover import EXPECTED

    return [name for name in EXPECTED if not done["counts"].get(name)]


def keep(file: Path, done: dict[str, Any]) -> None:
    """Adds a campaign to the evidence; those of an older core stay, and are counted apart."""
    kept = load(file)
    kept["campaigns"].append({"core": core(), "commit": commit("."), **done})
    save(file, kept)
    same = [c for c in kept["campaigns"] if c["core"] == core()]
    print(f"\nof this core: {sum(c['steps'] for c in same):,} steps, "
          f"{sum(c['seeds'] for c in same):,} seeds, "
          f"{sum(len(c['violations']) for c in same)} violations; in {file}")


def failed(p: Plan, trace: bool) -> int:
    """One plan, alone: 1 if it fails, with the shortest plan that fails alike."""
    try:
        current = run(p)
    except Exception as error:
        print(f"{type(error).__name__}: {error}\n\n{p}\n\nshorter:")
        short, _ = shrink(p, error, tell=lambda line: print("  " + line, flush=True))
        file = Path("logs/sim", f"{p.seed}.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(short.dumps() + "\n")
        print()
        replay(short) if trace else print(short)
        print(f"\nagain: python -m tests.sim --plan {file} --trace")
        return 1
    if trace:
        replay(p)
    print(f"seed {p.seed}: {current.cluster.steps:,} steps, digest {current.cluster.digest:016x}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.sim", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--from", type=int, default=1, dest="first", help="the first")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--minutes", type=float, help="no new seed is begun after")
    parser.add_argument("--evidence", type=Path, help="a file that the totals are added to")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--plan", type=Path, help="this plan alone")
    parser.add_argument("--trace", action="store_true", help="tell the newest 200 events")
    a = parser.parse_args()
    if a.plan:
        return failed(Plan.loads(a.plan.read_text()), a.trace)
    if a.seed is not None:
        return failed(plan(a.seed), a.trace)
    done = campaign(a.first, a.seeds, a.workers, a.minutes)
    report(done)
    if a.evidence:
        keep(a.evidence, done)
    if done["violations"]:
        seed = done["violations"][0]["seed"]
        print(f"\ntold, and made shorter: python -m tests.sim --seed {seed} --trace")
        return 1
    missing = never_met(done) if done["seeds"] >= FULL else []
    for name in missing:
        print(f"never met: {name}")
    return 2 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
