"""Validates traces of the simulator against the specification.

    python -m tests.spec.traces [--traces N] [--from SEED] [--evidence FILE]

TLC follows each trace through trace.tla. Then each way of falsifying one (an acknowledgement that
never was, a vote for somebody else, ...) is tried: each must be
rejected, and at the event that is the lie. Exit status 1: it is not so.
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
Lie = tuple[list[Event], int]           # the events, and the first that must not be allowed


def among(trace: Trace, choose: Callable[[Event], bool], r: random.Random) -> int:
    found = [i for i, event in enumerate(trace.events) if choose(event)]
    if not found:
        raise LookupError
    return r.choice(found)


def inserted(trace: Trace, at: int, event: Event) -> Lie:
    return [*trace.events[:at], event, *trace.events[at:]], at


def seen_as(trace: Trace, at: int, place: int, value: object) -> Lie:
    """In event `at` something else was seen."""
    seen = list(trace.events[at].seen)
    seen[place] = value
    changed = replace(trace.events[at], seen=tuple(seen))
    return [*trace.events[:at], changed, *trace.events[at + 1:]], at


def without_acknowledgements(trace: Trace, r: random.Random) -> Lie:
    """A commit of which no follower has heard."""
    at = among(trace, lambda e: e.action == "Commit" and bool(e.seen), r)
    commit = trace.events[at]
    before = [e for e in trace.events[:at]
              if not (e.action == "Accept" and e.m == commit.seen[0] and e.e >= commit.e)]
    return [*before, *trace.events[at:]], len(before)


def a_second_leader(trace: Trace, r: random.Random) -> Lie:
    """Another node wins the term too."""
    at = among(trace, lambda e: e.action == "Win", r)
    other = next(n for n in (1, 2, 3) if n != trace.events[at].n)
    return inserted(trace, at + 1, replace(trace.events[at], n=other, seen=()))


def a_longer_log(trace: Trace, r: random.Random) -> Lie:
    """A node is seen with an entry more than it was sent."""
    at = among(trace, lambda e: e.action == "Accept" and bool(e.seen), r)
    return seen_as(trace, at, 1, trace.events[at].seen[1] + 1)


def a_lost_entry(trace: Trace, r: random.Random) -> Lie:
    """A killed process comes back with an entry less."""
    at = among(trace, lambda e: e.action == "Kill" and e.seen[1] > 1, r)
    return seen_as(trace, at, 1, trace.events[at].seen[1] - 1)


def sure_too_early(trace: Trace, r: random.Random) -> Lie:
    """A node in doubt says right after its start that it forgot nothing."""
    return seen_as(trace, among(trace, lambda e: e.action == "Power", r), 3, False)


def two_changes_at_once(trace: Trace, r: random.Random) -> Lie:
    """The voters change again before the first change is settled."""
    at = among(trace, lambda e: e.action == "Change", r)
    return inserted(trace, at + 1, replace(trace.events[at], V=frozenset({1}), seen=()))


FALSIFIED = (without_acknowledgements, a_second_leader, a_longer_log, a_lost_entry, sure_too_early,
             two_changes_at_once)


def falsified(traces: list[Trace], r: random.Random) -> list[tuple[str, Trace, int]]:
    """One of each kind, of traces that have what it takes: its name, it, where it is told."""
    out = []
    for falsify in FALSIFIED:
        for trace in r.sample(traces, len(traces)):
            with suppress(LookupError):
                events, at = falsify(trace, r)
                out.append((falsify.__name__, replace(trace, events=events), at))
                break
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
        reached_false = list(pool.map(passed, [trace for _, trace, _ in false]))
    for trace, n in zip(traces, reached, strict=True):
        if n < len(trace.events):
            wrong += 1
            print(f"seed {trace.seed}: not allowed after {n} of {len(trace.events)} events: "
                  f"{trace.events[n]}")
    for (name, _, at), n in zip(false, reached_false, strict=True):
        wrong += n != at
        print(f"{name}: rejected at event {n}{'' if n == at else f', NOT WHERE IT IS TOLD: {at}'}")
    events = sum(len(t.events) for t in traces)
    result = {"traces": len(traces), "seeds": f"{a.first}-{seed - 1}", "events": events,
              "not allowed": wrong, "falsified ones rejected": [name for name, *_ in false],
              "seconds": round(time.monotonic() - begun)}
    proofs.note(a.evidence, result)
    return 1 if wrong or len(false) < len(FALSIFIED) else 0


if __name__ == "__main__":
    sys.exit(main())
