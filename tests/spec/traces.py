"""Validates traces of the simulator against the specification.

    python -m tests.spec.traces [--traces N] [--from SEED] [--evidence FILE]

TLC follows each trace through trace.tla. Then each way of falsifying one (an acknowledgement that
never was, a vote for somebody else, ...) is tried on traces that were accepted: all must be
rejected. Exit status 1: it is not so.
"""
from __future__ import annotations

import argparse
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests import proofs
from tests.spec.tlc import HERE, tlc
from tests.spec.trace import Event, Trace, record


# ------------------------------------------------------------------------------ as TLA+ literals
def literal(value: Any) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (list, tuple)):
        return f"<<{', '.join(map(literal, value))}>>"
    if isinstance(value, frozenset):
        return f"{{{', '.join(map(literal, sorted(value)))}}}"
    if isinstance(value, Event):
        return (f"[a |-> {literal(value.action)}, n |-> {value.n}, m |-> {value.m}, "
                f"e |-> {value.e}, V |-> {literal(value.V)}, seen |-> {literal(value.seen)}]")
    if isinstance(value, Trace):
        events = ",\n  ".join(map(literal, value.events))
        return (f"[leader |-> {value.leader}, logs |-> {literal(value.logs)}, "
                f"events |-> <<\n  {events}>>]")
    return str(int(value))


def module(trace: Trace) -> tuple[str, str]:
    """The module that holds it, and its configuration."""
    nodes = len(trace.logs)
    terms = 1 + max(event.seen[0] for event in trace.events if event.seen)
    many = 1 + len(trace.events)
    text = f"---- MODULE run ----\nEXTENDS trace\nThis == {literal(trace)}\n====\n"
    config = f"""SPECIFICATION TraceSpec
CONSTANTS
 Trace <- This
 Nodes = {literal(frozenset(range(1, nodes + 1)))}
 First = {{1, 2, 3}}
 None = None
 MaxTerm = {terms}
 MaxLen = {many}
 MaxPower = {many}
 MaxKill = {many}
 MaxDoubt = 1
 Changes = {many}
 Hears = TRUE
 Variant = "ok"
"""
    return text, config


def passed(trace: Trace) -> int:
    """How many of its events the specification allows."""
    with tempfile.TemporaryDirectory(prefix="dengine-trace-") as name:
        folder = Path(name)
        text, config = module(trace)
        (folder / "run.tla").write_text(text)
        (folder / "run.cfg").write_text(config)
        for file in ("dengine.tla", "trace.tla"):
            (folder / file).write_text((HERE / file).read_text())
        said = tlc(folder / "run.cfg", "run.tla", folder, workers=1)
    if "No error has been found" not in said:
        raise SystemExit(f"TLC could not follow the trace of seed {trace.seed}:\n{said}")
    return max(map(int, re.findall(r'<<"passed", (\d+)>>', said)), default=0)


# ------------------------------------------------------------------------------ falsified ones
def among(trace: Trace, choose: Callable[[Event], bool], r: random.Random) -> int:
    found = [i for i, event in enumerate(trace.events) if choose(event)]
    if not found:
        raise LookupError
    return r.choice(found)


def without_acknowledgements(trace: Trace, r: random.Random) -> list[Event]:
    """A commit of which no follower has heard."""
    at = among(trace, lambda e: e.action == "Commit", r)
    commit = trace.events[at]
    assert commit.seen
    return [e for i, e in enumerate(trace.events) if i > at or e.action != "Accept" or
            (e.m, e.e >= commit.e) != (commit.seen[0], True)]


def a_vote_for_two(trace: Trace, r: random.Random) -> list[Event]:
    """A second leader in a term: who voted for the first votes for it too."""
    at = among(trace, lambda e: e.action == "Win", r)
    first = trace.events[at].n
    other = next(n for n in (1, 2, 3) if n != first)
    return [*trace.events[:at + 1], replace(trace.events[at], n=other, seen=()),
            *trace.events[at + 1:]]


def a_longer_log(trace: Trace, r: random.Random) -> list[Event]:
    """A node is seen with an entry more than it was sent."""
    at = among(trace, lambda e: e.action == "Accept" and bool(e.seen), r)
    term, size, *rest = trace.events[at].seen
    changed = replace(trace.events[at], seen=(term, size + 1, *rest))
    return [*trace.events[:at], changed, *trace.events[at + 1:]]


def a_lost_entry(trace: Trace, r: random.Random) -> list[Event]:
    """A killed process comes back with an entry less."""
    at = among(trace, lambda e: e.action == "Kill" and e.seen[1] > 1, r)
    term, size, *rest = trace.events[at].seen
    changed = replace(trace.events[at], seen=(term, size - 1, *rest))
    return [*trace.events[:at], changed, *trace.events[at + 1:]]


def sure_too_early(trace: Trace, r: random.Random) -> list[Event]:
    """A node in doubt says right after its start that it forgot nothing."""
    at = among(trace, lambda e: e.action == "Power", r)
    term, size, last, _, *rest = trace.events[at].seen
    changed = replace(trace.events[at], seen=(term, size, last, False, *rest))
    return [*trace.events[:at], changed, *trace.events[at + 1:]]


def a_change_in_one_step(trace: Trace, r: random.Random) -> list[Event]:
    """The voters change, and change again before the first change is settled."""
    at = among(trace, lambda e: e.action == "Change", r)
    return [*trace.events[:at + 1], replace(trace.events[at], V=frozenset({1}), seen=()),
            *trace.events[at + 1:]]


FALSIFIED = (without_acknowledgements, a_vote_for_two, a_longer_log, a_lost_entry, sure_too_early,
             a_change_in_one_step)


def falsified(traces: list[Trace], r: random.Random) -> list[tuple[str, Trace]]:
    """One of each kind, of traces that have what it takes."""
    out = []
    for falsify in FALSIFIED:
        for trace in r.sample(traces, len(traces)):
            try:
                out.append((falsify.__name__, replace(trace, events=falsify(trace, r))))
                break
            except LookupError:
                continue
    return out


# ------------------------------------------------------------------------------ the campaign
def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.spec.traces",
                                     description=__doc__.split("\n")[0])
    parser.add_argument("--traces", type=int, default=60)
    parser.add_argument("--from", dest="first", type=int, default=1, metavar="SEED")
    parser.add_argument("--evidence", type=Path)
    a = parser.parse_args()
    begun = time.monotonic()
    traces: list[Trace] = []
    seed = a.first
    while len(traces) < a.traces:
        with suppress(ValueError):              # not every first election succeeds at once
            traces.append(record(seed))
        seed += 1
    wrong = 0
    false = falsified(traces, random.Random(a.first))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reached = list(pool.map(passed, traces))
        reached_false = list(pool.map(passed, [trace for _, trace in false]))
    for trace, n in zip(traces, reached, strict=True):
        if n < len(trace.events):
            wrong += 1
            print(f"seed {trace.seed}: not allowed after {n} of {len(trace.events)} events: "
                  f"{trace.events[n]}")
    for (name, trace), n in zip(false, reached_false, strict=True):
        accepted = n == len(trace.events)
        wrong += accepted
        print(f"{name}: {'ACCEPTED' if accepted else f'rejected at event {n + 1}'}")
    events = sum(len(t.events) for t in traces)
    result = {"traces": len(traces), "seeds": f"{a.first}-{seed - 1}", "events": events,
              "not allowed": wrong, "falsified ones rejected": [name for name, _ in false],
              "seconds": round(time.monotonic() - begun)}
    proofs.note(a.evidence, result)
    return 1 if wrong or len(false) < len(FALSIFIED) else 0


if __name__ == "__main__":
    sys.exit(main())
