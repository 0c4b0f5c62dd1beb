"""What a seed stands for: a cluster, its load, and the faults that strike it, each at its time.

It decides what happens when; run.py does it. A plan can be printed, shortened and run again.
"""
from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, field
from typing import Any

MS = 1000
DISK_FIRST, MEM_FIRST = 0, 1

# How often each kind of fault is drawn, where it is switched on.
KINDS = {
    "kill": 4, "kill all": 1, "stop": 1, "power": 4, "power all": 1, "pause": 3, "suspend": 1,
    "stall": 2, "cut": 3, "cut one way": 2, "isolate leader": 2, "partition": 2, "ring": 1,
    "disconnect": 2, "bad sync": 1, "bad write": 1, "torn write": 2, "full": 1, "flip meta": 1,
    "flip log": 1, "flip snapshot": 1, "lose meta": 1,
    "transfer": 3, "add": 3, "promote": 1, "remove": 2, "replace": 2,
}
CHANGES = {"add", "promote", "remove", "replace"}
ALONE = {"kill", "stop", "power", "pause", "stall", "bad sync", "torn write", "full", "flip meta",
         "flip snapshot"}
STANDING = ("none", "one down", "leader cut from one", "one way to leader", "slow disk")
# heartbeat, promise, longest election timeout, lease: ms
TIMES = ((100, 600, 1200, 500), (100, 600, 1200, 540), (30, 200, 400, 170), (50, 300, 900, 200))


@dataclass
class Fault:
    at_ms: int
    kind: str
    target: int         # -1: whoever leads then; else a node
    other: int          # a second node, or a number for the kind to use
    for_ms: int


@dataclass
class Plan:
    seed: int
    nodes: int
    strategy: int
    load_ms: int
    sessions: int
    think_us: int
    keys: int
    write_percent: int
    large: bool
    drift_ppm: int
    delay_us: int       # mean of a link; 0: some 300 us
    mangle: list[float]
    standing: str
    options: dict[str, Any]
    keyed_percent: int = 0  # of the writes
    spare: int = 0          # nodes that may join
    faults: list[Fault] = field(default_factory=list)

    def dumps(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def loads(cls, text: str) -> Plan:
        fields = json.loads(text)
        fields["faults"] = [Fault(**fault) for fault in fields["faults"]]
        return cls(**fields)

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {self.nodes} nodes, "
                 f"{'MemFirst' if self.strategy else 'DiskFirst'}, {self.sessions} clients for "
                 f"{self.load_ms} ms, {self.options}, then standing: {self.standing}"]
        lines += [f"{f.at_ms:6} ms  {f.kind}, "
                  f"{'leader' if f.target < 0 else f'node {f.target + 1}'}, {f.other}, "
                  f"for {f.for_ms} ms" for f in self.faults]
        return "\n".join(lines)


def plan(seed: int, **fixed: Any) -> Plan:
    """The plan of a seed; `fixed` overrides fields before anything that follows from them."""
    r = random.Random(seed)
    nodes = fixed.get("nodes") or r.choice((1, 3, 3, 3, 3, 5, 5, 7))
    strategy = fixed.get("strategy", r.randrange(2))
    heartbeat, promise, timeout, lease = r.choice(TIMES)
    chaos = r.random() < 0.25
    p = Plan(
        seed=seed, nodes=nodes, strategy=strategy,
        load_ms=fixed.get("load_ms") or r.randrange(3000, 9000),
        sessions=r.choice((1, 3, 6, 10, 20)), think_us=r.choice((1, 3, 10, 30)) * MS,
        keys=r.randrange(2, 20), write_percent=r.choice((50, 50, 50, 10, 1)),
        large=r.random() < 0.1,
        drift_ppm=r.choice((0, 1000, 10_000, 40_000)),
        delay_us=r.choice((0, 0, 0, 3 * MS, 15 * MS)) if promise >= 600 else 0,
        mangle=[r.choice((0.0, 0.005, 0.03)) if chaos else 0.0 for _ in range(3)]
        + [r.choice((0.0, 0.001)) if chaos else 0.0],
        standing=r.choice(STANDING) if nodes > 1 else "none",
        options={
            "threshold": r.choice((1, 10, 100)), "interval_us": r.choice((1, 20)) * MS,
            "segment_bytes": r.choice((16, 32, 64, 1024)) << 10, "heartbeat_ms": heartbeat,
            "promise_ms": promise, "timeout_ms": timeout, "lease_ms": lease,
            "waiting_writes": r.choice((4, 10_000, 10_000)),
        })
    if p.sessions > 3 and p.think_us <= 3 * MS:   # else files by the hundred
        p.options["segment_bytes"] = max(p.options["segment_bytes"], 64 << 10)
    p.spare = fixed.get("spare", r.choice((0, 0, 1, 2)))
    allowed = [k for k in KINDS if nodes > 1 or k in ALONE or (k in CHANGES and k != "replace")]
    if p.spare == 0:
        allowed = [k for k in allowed if k not in CHANGES]
    chosen = [k for k in allowed if r.random() < 0.6] or ["kill"]
    every = r.uniform(100, 1500)
    at = r.expovariate(1 / every)
    while at < p.load_ms:
        kind = r.choices(chosen, [KINDS[k] for k in chosen])[0]
        longest = r.choice((50, 500, 3000))
        p.faults.append(Fault(int(at), kind,
                              -1 if r.random() < 0.4 else r.randrange(nodes + p.spare),
                              r.randrange(1 << 20), int(r.uniform(5, longest))))
        at += r.expovariate(1 / every)
    p.options["snapshot_entries"] = r.choice((5, 20, 50, 1000))
    p.keyed_percent = r.choice((0, 0, 30, 100))
    p.options["idempotency_retention_ms"] = r.choice((20_000, 20_000, 300))
    p.options["snapshot_keep_bytes"] = r.choice((0, 0, 64 << 10))
    return p
