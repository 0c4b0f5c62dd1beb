"""Long histories of real clusters under kill -9, recorded and judged, with their sums as evidence.

    python -m tests.check.campaign --histories 10 --operations 1000000 --seed 1 --from 0

It decides what a run is: three nodes, MemFirst and DiskFirst in turns, sessions over HTTP, one or
more nodes killed and restarted again and again; and what a run is worth: void with too few
operations or too few kills, else judged by the witness as a whole and by the search on a sample of
keys. A run that is in the evidence for this core is not repeated. What failed is kept.
"""

import argparse
import asyncio
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import uvloop

from benchmarks.history_client import Totals, record
from tests.check.history import Operation, read_with_offsets
from tests.check.search import by_key, search
from tests.check.witness import check_file
from tests.cluster import ROOT, Cluster
from tests.proofs import commit, core, load, save

NODES = 3
CLIENTS, KEYS = 20, 8
SEARCHED = 5000                         # keys of a history; each has at most 1,000 operations
CALM_S, DOWN_S = (1.0, 5.0), (0.1, 1.5)
VICTIMS, WEIGHTS = ("any", "leader", "two", "all"), (45, 35, 10, 10)
ENOUGH = 0.9                            # of the operations that were asked for
ENDINGS = (signal.SIGINT, signal.SIGTERM)
EVIDENCE = ROOT / "tests" / "evidence" / "histories.json"
KEPT = ROOT / "logs" / "histories"


@dataclass
class Run:
    """One history and its verdict."""

    seed: int
    wanted: int
    strategy: str = ""
    operations: int = 0
    unknown: int = 0
    refused: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    searched: int = 0                   # keys
    seconds: float = 0.0
    checked_seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    @property
    def void(self) -> bool:
        few = self.operations < ENOUGH * self.wanted or not self.kills
        return few and not self.violations

    def __str__(self) -> str:
        state = "FAILED" if self.violations else "void" if self.void else "passed"
        return (
            f"seed {self.seed} {state}: {self.strategy}, {self.operations:,} operations in "
            f"{self.seconds:.0f} s, {self.unknown / max(1, self.operations):.2%} unknown, "
            f"{sum(self.kills.values())} times nodes were killed, judged in "
            f"{self.checked_seconds:.0f} s with {self.searched} keys searched"
        )


# ---------------------------------------------------------------- one run
def kill_and_restart(cluster: Cluster, lives: dict[int, int], rng: random.Random,
                     end: Event) -> Counter[str]:
    """Until `end`; all nodes run when it returns."""
    kills: Counter[str] = Counter()
    while not end.wait(rng.uniform(*CALM_S)):
        kind = rng.choices(VICTIMS, WEIGHTS)[0]
        nodes = sorted(cluster.nodes)
        if kind == "leader":
            victims = [cluster.wait_leader()]
        else:
            victims = rng.sample(nodes, {"any": 1, "two": 2, "all": NODES}[kind])
        cluster.kill(*victims)
        kills[kind] += 1
        for i in victims:
            lives[i] += 1               # before another process of this node exists
        end.wait(rng.uniform(*DOWN_S))
        cluster.restart(*victims)
        cluster.wait_leader()
    return kills


def heed_signals() -> None:
    """Both end the run, and with it its nodes; a background shell ignores the first one."""
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in ENDINGS:
        signal.signal(number, interrupt)


async def drive(cluster: Cluster, path: Path, operations: int, seed: int
                ) -> tuple[Totals, Counter[str]]:
    task = asyncio.current_task()
    assert task is not None
    for number in ENDINGS:              # an exception in a callback would only end a connection
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    lives = dict.fromkeys(cluster.nodes, 1)
    end = Event()
    endpoints = {i: ("127.0.0.1", node.http) for i, node in cluster.nodes.items()}
    faults = asyncio.create_task(asyncio.to_thread(
        kill_and_restart, cluster, lives, random.Random(f"faults {seed}"), end))
    try:
        totals = await record(endpoints, path, operations=operations, clients=CLIENTS, keys=KEYS,
                              seed=seed, lives=lives, alone=True)
    finally:
        end.set()
        kills = await faults
    return totals, kills


def run(seed: int, operations: int, directory: Path) -> Run:
    strategy = ("MemFirst", "DiskFirst")[seed % 2]
    verdict = Run(seed, operations, strategy)
    path = directory / "history.ndjson"
    began = time.monotonic()
    try:
        with Cluster(directory / "nodes", NODES, strategy) as cluster:
            try:
                totals, kills = uvloop.run(drive(cluster, path, operations, seed))
            finally:
                heed_signals()
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except Exception as error:          # nodes that do not come back are a finding, too
        verdict.violations.append(f"the run ended early: {error!r}")
        return verdict
    verdict.seconds = round(time.monotonic() - began, 1)
    verdict.unknown, verdict.refused = totals.of("unknown"), totals.of("refused")
    verdict.kills = dict(sorted(kills.items()))
    verdict.violations += [f"unexpected answer: {text}" for text in totals.unexpected[:5]]
    judge(path, verdict)
    return verdict


def judge(path: Path, verdict: Run) -> None:
    began = time.monotonic()
    verdict.operations, violation = check_file(path)
    if violation:
        verdict.violations.append(str(violation))
    for key, operations in sampled(path, verdict.seed).items():
        found = search(operations)
        verdict.searched += 1
        if not found.good:
            verdict.violations.append(f"key {key}: {found}")
    verdict.checked_seconds = round(time.monotonic() - began, 1)


def sampled(path: Path, seed: int) -> dict[str, list[Operation]]:
    keys = sorted({op.key for _, op in read_with_offsets(path)})
    chosen = set(random.Random(f"keys {seed}").sample(keys, min(SEARCHED, len(keys))))
    return by_key(op for _, op in read_with_offsets(path) if op.key in chosen)


# ---------------------------------------------------------------- evidence
def summed(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Void runs are counted, their operations are not."""
    counted = [r for r in runs if not r["void"]]
    operations = sum(r["operations"] for r in counted)
    return {
        "histories": len(counted),
        "void": len(runs) - len(counted),
        "operations": operations,
        "unknown_fraction": round(sum(r["unknown"] for r in counted) / max(1, operations), 5),
        "kills": sum(sum(r["kills"].values()) for r in counted),
        "keys_searched": sum(r["searched"] for r in counted),
        "violations": sum(len(r["violations"]) for r in counted),
    }


class Evidence:
    """The file: runs by the core that they ran, each campaign with its sums."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.data = load(file)
        found = [c for c in self.data["campaigns"] if c["core"] == core()]
        self.campaign = found[0] if found else {"core": core(), "runs": []}
        if not found:
            self.data["campaigns"].append(self.campaign)

    def has(self, seed: int, operations: int) -> bool:
        return any((r["seed"], r["wanted"]) == (seed, operations) and not r["void"]
                   for r in self.campaign["runs"])

    def add(self, verdict: Run) -> None:
        self.campaign["runs"].append(
            {**asdict(verdict), "void": verdict.void, "commit": commit(".")})
        self.campaign["totals"] = summed(self.campaign["runs"])
        save(self.file, self.data)


def keep(directory: Path, seed: int) -> Path:
    """Moves histories, logs and data of a run to where they stay."""
    kept = KEPT / str(seed)
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(directory, kept)
    return kept


def main() -> None:
    heed_signals()
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--histories", type=int, default=1)
    add("--operations", type=int, default=1_000_000, help="of each history")
    add("--seed", type=int, default=1, help="of the first history; each next one has the next")
    add("--from", type=int, default=0, dest="first", help="the first number of this part")
    add("--dir", type=Path, help="parent of the temporary directories")
    add("--evidence", type=Path, default=EVIDENCE)
    options = parser.parse_args()
    evidence = Evidence(options.evidence)
    failed = 0
    for number in range(options.first, options.histories):
        seed = options.seed + number
        if evidence.has(seed, options.operations):
            print(f"seed {seed} is in the evidence", flush=True)
            continue
        with tempfile.TemporaryDirectory(
                prefix="dengine-histories-", dir=options.dir, ignore_cleanup_errors=True) as parent:
            directory = Path(parent) / "run"
            directory.mkdir()
            verdict = run(seed, options.operations, directory)
            evidence.add(verdict)
            print(verdict, flush=True)
            if verdict.violations:
                failed += 1
                print(*verdict.violations, f"kept: {keep(directory, seed)}", sep="\n", flush=True)
    print(json.dumps(evidence.campaign.get("totals", {})))
    if failed:
        sys.exit(f"{failed} of the histories have violations")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted: the evidence has the runs before this one")
