"""Checks the specification with TLC, as it is and with each rule left out.

    python -m tests.spec [--only NAME,NAME] [--evidence FILE]

As it is, nothing may be violated; with a rule left out ("Variant" in the modules) something must.
Exit status 1: it is not so; 2: no Java.
"""
from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import proofs
from tests.spec.tlc import HERE, tlc


@dataclass(frozen=True)
class Check:
    """A module within bounds; `bounds` override the constants of its file."""

    module: str
    variant: str = "ok"
    bounds: dict[str, object] = field(default_factory=dict)
    walks: int = 0              # at random, where all states would be too many


# Bounds: terms and length of the log count the first election. A rule that is left out is noticed
# long before all states were visited, so with wider bounds. Where all would be too many, walks at
# random look.
CLOCK: dict[str, object] = {"MaxNow": 2, "MaxTerm": 2, "MaxRestart": 1}
TWO_AND_ONE: dict[str, object] = {"Nodes": "{n1, n2, n3}", "First": "{n1, n2}"}
POWER: dict[str, object] = {"Nodes": "{n1, n2, n3}", "Changes": 0, "MaxPower": 1}
WIDE: dict[str, object] = {"MaxTerm": 4, "MaxLen": 6, "Changes": 2}
WIDE_POWER: dict[str, object] = {**WIDE, "MaxPower": 2, "MaxKill": 1}
WALKS = 100_000
CHECKS = {
    "membership": Check("dengine", "ok", TWO_AND_ONE),
    "loss of power": Check("dengine", "ok", POWER),
    "four nodes": Check("dengine", "ok", WIDE, WALKS),
    "four nodes and loss of power": Check("dengine", "ok", WIDE_POWER, WALKS),
    "marked votes count": Check("dengine", "marked_votes_count", POWER),
    "not marked": Check("dengine", "power_loss_unmarked", POWER),
    "one half is enough": Check("dengine", "one_half_is_enough"),
    "not joint": Check("dengine", "not_joint"),
    "any log wins": Check("dengine", "any_log_wins"),
    "two changes at once": Check("dengine", "two_changes_at_once", WIDE, WALKS),
    "transfer": Check("lease"),
    "late TimeoutNow": Check("lease", "late_timeoutnow"),
    "lease": Check("lease", "ok", CLOCK),
    "no start rule": Check("lease", "no_start_rule", CLOCK),
    "lease resumes after a transfer": Check("lease", "lease_resumes_after_transfer", CLOCK),
    "lease from the reply": Check("lease", "lease_from_reply", CLOCK),
    "read before the no-op": Check("lease", "read_before_noop", CLOCK),
}


def configuration(check: Check) -> str:
    text = (HERE / f"{check.module}.cfg").read_text()
    for name, value in check.bounds.items():
        text = re.sub(rf"\b{name} = .*", f"{name} = {value}", text)
    return text.replace('"ok"', f'"{check.variant}"')


def run(check: Check, workers: int) -> dict[str, Any]:
    """What TLC says: states, depth, and what is violated."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dengine-spec-") as folder:
        config = Path(folder) / "check.cfg"
        config.write_text(configuration(check))
        said = tlc(config, f"{check.module}.tla", Path(folder), workers=workers, walks=check.walks)
    counts = re.findall(r"([\d,]+) (?:distinct states found|states checked)", said)
    violated = re.findall(r"Invariant (\w+) is violated", said)
    whole = "No error has been found" in said or (check.walks and "Finished in" in said)
    if not (violated or whole):
        raise SystemExit(f"TLC says neither yes nor no:\n{said}")
    return {"module": check.module, "variant": check.variant, "bounds": check.bounds,
            **({"walks": check.walks} if check.walks else {}),
            "states": int(counts[-1].replace(",", "")) if counts else 0,
            "violated": violated[0] if violated else "", "seconds": round(time.monotonic() - begun)}


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.spec", description=__doc__.split("\n")[0])
    parser.add_argument("--only", help="names, by commas")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--evidence", type=Path, help="a file that the results are written to")
    a = parser.parse_args()
    if shutil.which("java") is None:
        print("java is not installed (apt install default-jre-headless)")
        return 2
    chosen = a.only.split(",") if a.only else list(CHECKS)
    results, wrong = {}, 0
    for name in chosen:
        result = results[name] = run(CHECKS[name], a.workers)
        good = bool(result["violated"]) == (CHECKS[name].variant != "ok")
        wrong += not good
        verdict = f"violates {result['violated']}" if result["violated"] else "holds"
        kind = "in walks" if CHECKS[name].walks else "distinct"
        print(f"{name:32} {result['states']:>12,} states {kind}  {result['seconds']:>5} s  "
              f"{verdict}{'' if good else '   WRONG'}", flush=True)
    if a.evidence:
        proofs.save(a.evidence, {"commit": proofs.commit("tests/spec"), "checks": results})
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
