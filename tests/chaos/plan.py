"""What happens in a run, from its seed alone: the cluster, its load, its faults and their times.

It decides which faults overlap and which may not meet under the durability that is promised. It
knows no processes: a fault names its victims by role ("leader", or a draw of its own seed), and
whoever carries it out looks up who that is at the moment.
"""

from dataclasses import dataclass, field
from random import Random

CALM_S = (0.8, 2.0)         # between two storms: clients make progress
SPREAD_S = (0.3, 2.4)       # from the first fault of a storm to each other: it acts alone a while
LASTS_S = (1.0, 4.0)        # a fault, from its beginning
OVERLAP_S = 0.4             # of the first fault of a storm and each other, at least
FIRST = ("isolate-leader", "isolate-leader", "pause-leader", "partition", "one-way")
FIRST_OF_THESE = 0.6        # of the storms begin with what makes an old leader beside a new one
FOCUS = 0.5                 # of the node faults strike who is struck already: the rest goes on
FIRST_S = 0.7               # of load before the first storm
EASY_KINDS = ("pause", "kill")          # need neither namespaces nor mounts

# How often each kind is drawn; all that act on links first.
LINK_KINDS = {
    "partition": 4,         # two groups that do not hear each other
    "partial": 3,           # some pairs do not hear each other
    "one-way": 3,           # one node is heard by all and hears nobody, or the reverse
    "ring": 2,              # each hears two neighbours; of three nodes: one pair is cut
    "isolate-leader": 4,
    "loss": 3,              # each packet from these links is lost with some probability
    "reset": 2,             # connections of some pairs are reset as long as it lasts
}
NODE_KINDS = {
    "pause-leader": 4,      # SIGSTOP, SIGCONT: its sockets fill meanwhile
    "pause": 3,
    "kill-leader": 3,       # kill -9, a new process at the end
    "kill": 3,
    "kill-all": 1,
    "cut": 3,               # power of one node
    "cut-minority": 2,
    "cut-all": 2,           # DiskFirst only: MemFirst does not promise to survive it
    "wall": 2,              # jumps of the wall clock, also backwards
}
MEMBER_KINDS = {
    "replace": 3,           # a directory is lost: the node comes back with an empty one
    "move": 2,              # a node is removed, and added again with an empty directory
    "transfer": 2,          # the leader is asked to hand over
}
SINGLE_OUT = ("isolate-leader", "pause-leader", "kill-leader")


@dataclass(frozen=True)
class Fault:
    number: int
    kind: str
    at_s: float             # since the beginning of the load
    lasts_s: float
    seed: int               # of the choice of its victims


@dataclass
class Plan:
    seed: int
    nodes: int
    strategy: str
    clients: int
    settings: dict[str, object]
    faults: list[Fault] = field(default_factory=list)
    storms: list[list[int]] = field(default_factory=list)      # numbers of overlapping faults
    seconds: float = 0.0                                       # until the last fault ended


def make(seed: int, seconds: float, easy: bool = False) -> Plan:
    """The plan of `seed`, about `seconds` long. `easy`: only what works without root."""
    rng = Random(f"chaos {seed}")
    nodes = rng.choice((3, 3, 3, 4, 5, 5))
    plan = Plan(seed, nodes, rng.choice(("MemFirst", "DiskFirst")), rng.randint(10, 16),
                settings(rng))
    at = FIRST_S
    while at < seconds:
        storm = kinds_of(plan, rng, easy)
        begun = len(plan.faults)
        for n, kind in enumerate(storm):
            begin, lasts = at, rng.uniform(*LASTS_S)
            if n == 0:
                lasts = max(lasts, SPREAD_S[1] + OVERLAP_S)
            elif kind.endswith("-all"):     # last: it leaves the others of the storm no victim
                begin += SPREAD_S[1]
            else:
                begin += rng.uniform(*SPREAD_S)
            plan.faults.append(Fault(len(plan.faults), kind, begin, lasts, rng.getrandbits(48)))
        plan.storms.append(list(range(begun, len(plan.faults))))
        at = max(f.at_s + f.lasts_s for f in plan.faults[begun:]) + rng.uniform(*CALM_S)
    plan.seconds = at
    return plan


def settings(rng: Random) -> dict[str, object]:
    """Time-outs as shipped or shorter, small segments and snapshots, each default policy."""
    low, high, lease, beat = rng.choice(((600, 1200, 500, 100), (400, 800, 350, 80),
                                         (300, 600, 250, 50)))
    return {
        "raft.election.election_timeout_min_ms": low,
        "raft.election.election_timeout_max_ms": high,
        "raft.read_consistency.lease_duration_ms": lease,
        "raft.replication.heartbeat_ms": beat,
        "raft.read_consistency.default_policy":
            rng.choice(("LeaseRead", "LinearizableRead", "EventualRead")),
        "http.request_timeout_ms": rng.choice((100, 1000, 5000)),
        "log.segment_bytes": rng.choice((1 << 20, 1 << 22)),
        "raft.snapshot.entries": rng.choice((100, 1000, 1_000_000)),
        "raft.snapshot.keep_bytes": rng.choice((0, 1 << 20, 1 << 26)),
    }


def kinds_of(plan: Plan, rng: Random, easy: bool) -> list[str]:
    """Two to four different kinds that may overlap."""
    weights = dict(NODE_KINDS if easy else LINK_KINDS | NODE_KINDS | MEMBER_KINDS)
    if easy:
        weights = {k: w for k, w in weights.items() if k.startswith(EASY_KINDS)}
    if plan.strategy == "MemFirst":
        weights.pop("cut-all", None)
    kinds: list[str] = []
    for n in range(rng.choice((2, 2, 3, 3, 4))):
        kind = rng.choices(list(weights), list(weights.values()))[0]
        if n == 0 and rng.random() < FIRST_OF_THESE:
            kind = rng.choice([k for k in FIRST if k in weights])
        kinds.append(kind)
        for other in list(weights):
            if other == kind or (other.endswith("-all") and kind.endswith("-all")):
                del weights[other]
    return sorted(kinds, key=lambda kind: kind.endswith("-all"))


def links(kind: str, ids: list[int], leader: int | None, rng: Random) -> set[tuple[int, int]]:
    """The directed links (from, to) that a fault of this kind acts on; never empty."""
    order = rng.sample(ids, len(ids))
    pairs = [(a, b) for n, a in enumerate(order) for b in order[n + 1:]]
    both: list[tuple[int, int]] = []
    if kind == "partition":
        some = rng.randint(1, len(order) - 1)
        both = [(a, b) for a in order[:some] for b in order[some:]]
    elif kind == "isolate-leader":
        alone = leader or order[0]
        both = [(alone, b) for b in ids if b != alone]
    elif kind == "ring":
        around = {frozenset((a, order[n - 1])) for n, a in enumerate(order)}
        both = [p for p in pairs if frozenset(p) not in around] or pairs[:1]
    elif kind == "one-way":
        victim = rng.choice([leader or order[0], order[0]])
        others = rng.sample([i for i in ids if i != victim], rng.randint(1, len(ids) - 1))
        deaf = rng.random() < 0.5
        return {(o, victim) if deaf else (victim, o) for o in others}
    elif kind == "loss":
        every = [(a, b) for a in ids for b in ids if a != b]
        return set(rng.sample(every, rng.randint(2, len(every))))
    else:                       # partial, reset
        both = rng.sample(pairs, rng.randint(1, max(1, len(pairs) // 2)))
    return set(both) | {(b, a) for a, b in both}


def victims(kind: str, up: list[int], nodes: int, leader: int | None, struck: int | None,
            rng: Random) -> list[int]:
    """The nodes that a fault of this kind strikes, out of those that run; none: it cannot.
    `struck`: the node that another fault of the storm singles out."""
    if not up:
        return []
    if kind in ("pause", "kill", "cut") and struck in up and rng.random() < FOCUS:
        return [struck]
    if kind.endswith("-all"):
        return up
    if kind.endswith("-leader"):
        return [leader if leader in up else rng.choice(up)]
    if kind == "cut-minority":
        return rng.sample(up, min(len(up), (nodes - 1) // 2))
    if kind == "cut":
        return [rng.choice(up)]
    return rng.sample(up, rng.randint(1, min(len(up), max(1, nodes // 2))))
