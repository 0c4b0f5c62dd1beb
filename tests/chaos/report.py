"""What a campaign of runs amounts to: lines while it runs, a table, a file of evidence.

It decides what is counted and how campaigns are told apart in the evidence: by the last commit that
touched the core, and by the machine's means ("namespaces" or "loopback"). Void runs are neither
passed nor failed.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos.run import Verdict
from tests.proofs import add


def line(verdict: Verdict) -> str:
    """One run in one line."""
    state = "FAILED" if verdict.violations else "void" if verdict.void else "passed"
    unknown = 100 * verdict.unknown / max(1, verdict.writes)
    return (f"seed {verdict.seed:6d}  {state:6s}  {verdict.nodes} nodes {verdict.strategy:9s}  "
            f"{verdict.operations:5d} ops  {unknown:4.1f} % unknown  "
            f"{sum(verdict.faults.values()):2d} faults, {verdict.overlapping} at once  "
            f"away {verdict.unavailable_ms / 1000:4.1f} s, back in {verdict.serve_ms / 1000:4.1f} s"
            f"  {verdict.leader_changes:2d} leaders  {verdict.seconds:4.0f} s")


def total(verdicts: list[Verdict]) -> dict[str, Any]:
    """Sums over runs. Operations of void runs are not counted."""
    counted = [v for v in verdicts if v.violations or not v.void]
    faults: Counter[str] = Counter()
    for verdict in counted:
        faults.update(verdict.faults)
    return {
        "runs": len(counted),
        "void": len(verdicts) - len(counted),
        "failed": [v.seed for v in counted if v.violations],
        "violations": sum(len(v.violations) for v in counted),
        "operations": sum(v.operations for v in counted),
        "writes": sum(v.writes for v in counted),
        "unknown": sum(v.unknown for v in counted),
        "health_samples": sum(v.samples for v in counted),
        "leader_changes": sum(v.leader_changes for v in counted),
        "longest_unavailable_ms": max((v.unavailable_ms for v in counted), default=0),
        "longest_recovery_ms": max((v.serve_ms for v in counted), default=0),
        "longest_turn_us": max((v.longest_turn_us for v in counted), default=0),
        "longest_sync_us": max((v.longest_sync_us for v in counted), default=0),
        **{name: sum(getattr(v, name) for v in counted)
           for name in ("syncs", "sync_bytes", "log_stalls", "log_stall_us")},
        "faults": dict(sorted(faults.items())),
        "runs_by": dict(sorted(Counter(f"{v.nodes} {v.strategy}" for v in counted).items())),
    }


def table(verdicts: list[Verdict]) -> str:
    sums = total(verdicts)
    rows = [
        ("runs", f"{sums['runs']} ({', '.join(f'{n} x {k}' for k, n in sums['runs_by'].items())})"),
        ("void", f"{sums['void']}"),
        ("operations", f"{sums['operations']:,}"),
        ("unknown writes", f"{100 * sums['unknown'] / max(1, sums['writes']):.1f} %"),
        ("health samples", f"{sums['health_samples']:,}"),
        ("leader changes", f"{sums['leader_changes']}"),
        ("longest without a write", f"{sums['longest_unavailable_ms'] / 1000:.1f} s"),
        ("longest recovery", f"{sums['longest_recovery_ms'] / 1000:.1f} s"),
        ("longest turn, sync", f"{sums['longest_turn_us'] / 1000:.1f}, "
                               f"{sums['longest_sync_us'] / 1000:.1f} ms"),
        ("device bytes per sync", f"{sums['sync_bytes'] / max(1, sums['syncs']):,.0f}"),
        ("stalls for space", f"{sums['log_stalls']}, {sums['log_stall_us'] / 1000:.1f} ms"),
        *((f"fault {kind}", str(n)) for kind, n in sums["faults"].items()),
        ("VIOLATIONS", f"{sums['violations']}"),
    ]
    return "\n".join(f"  {name:26s} {value}" for name, value in rows)


def add_evidence(file: Path, verdict: Verdict, means: str, seconds: float) -> None:
    """Adds one run to the campaign of this core in the file."""
    add(file, {"means": means, "seconds": seconds}, verdict.seed, total([verdict]))
