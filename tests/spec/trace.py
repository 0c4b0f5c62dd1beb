"""Traces of simulated clusters as behaviours of the specification.

A trace is a list of events, each an action of dengine.tla with its arguments and, where the node
was seen after it, what was seen. A change counts when it binds the node: its hard state when that
is saved, entries of a follower when it may acknowledge them, those of a leader when the turn that
appended them has ended. What a node had not saved when it died did not happen, unless it is there
after the restart. It decides nothing: TLC says whether the specification allows the trace.
"""
from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from tests.sim.cluster import Cluster
from tests.spec import observe

SECOND = 1_000_000
CANDIDATE, LEADER = 2, 3
VOTERS, SPARE = 3, 2
ROUNDS = 40
MEMFIRST = 1


class Seen(NamedTuple):
    """What observe.observe says."""

    term: int
    vote: int
    role: int
    version: int
    saved: int
    noop: int
    last: int
    acknowledged: int
    durable: int
    leader: int
    doubt: bool
    target: int
    commit: int
    turns: int


@dataclass(frozen=True)
class Event:
    """An action of the specification: by node n; m is another node or a term, e an index, V voters.
    `seen`: term, length of the log, its last term, in doubt, leading, commit; () if it was not."""

    action: str
    n: int
    m: int = 0
    e: int = 0
    V: frozenset[int] = frozenset()
    seen: tuple[Any, ...] = ()


@dataclass
class Trace:
    seed: int
    leader: int                                 # of the first term
    events: list[Event] = field(default_factory=list)
    logs: list[list[int]] = field(default_factory=list)     # at the end: terms, by node


@dataclass
class Node:
    """One node as the events so far leave it."""

    term: int = 0
    vote: int = 0
    role: str = "f"
    log: list[int] = field(default_factory=list)            # terms
    marked: bool = False
    unsaved: list[tuple[int, int, int]] = field(default_factory=list)   # version, term, vote
    solid: int = 0                              # leading: entries whose turn has ended
    heard: tuple[int, int, int] = (0, 0, 0)     # newest acknowledgement: term, leader, index
    target: tuple[int, int] = (0, 0)            # term, index
    flushed: bool = True                        # leading: its no-op is synced
    seen: Seen | None = None


class Recorder:
    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.c = cluster
        self.trace = Trace(seed, cluster.leader() + 1)
        self.nodes = [Node() for _ in cluster.nodes]
        self.configs: dict[tuple[int, int], tuple[frozenset[int], frozenset[int]]] = {}
        self.acting = (frozenset[int](), frozenset(range(1, VOTERS + 1)))   # a leader's newest
        self.commit: dict[int, int] = {1: 1}    # by term
        for i in range(VOTERS):
            self.nodes[i] = Node(term=1, log=[1], solid=1)
        leader = cluster.leader()
        self.nodes[leader].role, self.nodes[leader].flushed = "l", False
        self.note_configs(leader)
        self.nodes[leader].solid = cluster.states()[leader]["last"]
        self.proposes(leader, self.nodes[leader].solid)
        for i in sorted(range(VOTERS), key=lambda i: i == leader):
            self.see(i, Seen(*observe.observe(cluster.nodes[i])))
        # all at once: what was seen is no state between two of these events
        self.trace.events = [replace(event, seen=()) for event in self.trace.events]

    # ------------------------------------------------------------------------- what happened
    def look(self) -> bool:
        """After each event of the cluster; False: go on."""
        for i, node in enumerate(self.c.nodes):
            if node.alive:
                self.see(i, Seen(*observe.observe(node)))
        return False

    def emit(self, action: str, i: int, m: int = 0, e: int = 0,
             V: frozenset[int] = frozenset()) -> None:
        self.trace.events.append(Event(action, i + 1, m, e, V))

    def see(self, i: int, now: Seen) -> None:
        node, before = self.nodes[i], len(self.trace.events)
        if now == node.seen:
            return
        if node.seen is None or now.version != node.seen.version:
            node.unsaved.append((now.version, now.term, now.vote))
        if node.seen is not None and now.turns != node.seen.turns:
            node.solid = now.last
        node.seen = now
        self.note_configs(i)
        while node.unsaved and node.unsaved[0][0] <= now.saved:
            _, term, vote = node.unsaved.pop(0)
            self.binds(i, term, vote)
        if node.role == "l" and (now.role != LEADER or now.term > node.term):
            self.hears(i, node.term)
        if node.role == "c" and now.role not in (CANDIDATE, LEADER):
            self.hears(i, node.term)
        if now.term == node.term:
            if now.role == LEADER:
                self.leads(i, now)
            elif now.leader:
                self.follows(i, now)
        if len(self.trace.events) > before:
            self.attach(i, now)

    def attach(self, i: int, now: Seen) -> None:
        node, last = self.nodes[i], self.trace.events[-1]
        seen = (node.term, len(node.log), node.log[-1] if node.log else 0, now.doubt,
                now.role == LEADER and now.term == node.term and node.role == "l", now.commit)
        self.trace.events[-1] = replace(last, seen=seen)

    def note_configs(self, i: int) -> None:
        terms = observe.terms(self.c.nodes[i])
        for index, old, new in observe.configurations(self.c.nodes[i]):
            self.configs[terms[index - 1], index] = old, new

    # ------------------------------------------------------------------------- hard state
    def binds(self, i: int, term: int, vote: int) -> None:
        node = self.nodes[i]
        if vote == i + 1 and term > node.term:
            self.catch_up(i)
            if node.role == "l":
                self.hears(i, node.term)
            if term - 1 > node.term:
                self.hears(i, term - 1)
            self.emit("Campaign", i)
            node.term, node.vote, node.role = term, i + 1, "c"
        elif vote not in (0, i + 1) and (term, vote) != (node.term, node.vote):
            asker = self.nodes[vote - 1]
            if (asker.role, asker.term) == ("c", term):
                self.emit("Vote", i, vote)
                node.term, node.vote, node.role = term, vote, "f"
            elif term > node.term:              # whoever asked has moved on
                self.hears(i, term)
        elif term > node.term:
            self.hears(i, term)

    def hears(self, i: int, term: int) -> None:
        node = self.nodes[i]
        self.emit("Hear", i, term)
        if term > node.term:
            node.vote = 0
        node.term, node.role = term, "f"

    def catch_up(self, i: int) -> None:
        """A candidate counts what it has not synced too."""
        node, now = self.nodes[i], self.nodes[i].seen
        assert now is not None
        terms = observe.terms(self.c.nodes[i])
        if node.role != "l" and terms[:len(node.log)] != terms and node.heard[0] == node.term:
            self.accepts(i, node.term, terms)

    # ------------------------------------------------------------------------- logs
    def follows(self, i: int, now: Seen) -> None:
        node = self.nodes[i]
        if node.marked and now.target and node.target != (now.term, now.target):
            node.target = now.term, now.target
            self.emit("Contact", i, now.term, now.target)
        heard = now.term, now.leader, now.acknowledged
        if now.acknowledged and heard != node.heard:
            if heard[:2] != node.heard[:2] or heard[2] > node.heard[2]:
                self.accepts(i, now.term, observe.terms(self.c.nodes[i])[:now.acknowledged])
            node.heard = heard
        node.marked = now.doubt

    def accepts(self, i: int, term: int, entries: list[int]) -> None:
        node = self.nodes[i]
        self.emit("Accept", i, term, len(entries))
        if node.log[:len(entries)] != entries:
            node.log = entries

    def leads(self, i: int, now: Seen) -> None:
        node = self.nodes[i]
        if now.noop == 0:
            return
        terms = observe.terms(self.c.nodes[i])
        if node.role != "l":
            self.emit("Win", i)
            node.log = terms[:now.noop]
            node.role, node.flushed, node.solid = "l", False, max(now.noop, node.solid)
            self.acting = self.newest(node.log)
        self.commits(i, now)                    # what it lets the leader propose comes after it
        self.proposes(i, node.solid)
        self.commits(i, now)
        node.marked = now.doubt

    def commits(self, i: int, now: Seen) -> None:
        node = self.nodes[i]
        if not node.flushed and now.durable >= now.noop:
            node.flushed = True
            self.emit("Flush", i)
        if max(now.noop, self.commit.get(now.term, 0) + 1) <= now.commit <= len(node.log):
            self.commit[now.term] = now.commit
            self.emit("Commit", i, 0, now.commit)

    def newest(self, log: list[int]) -> tuple[frozenset[int], frozenset[int]]:
        acting = frozenset[int](), frozenset(range(1, VOTERS + 1))
        for index, term in enumerate(log, 1):
            acting = self.configs.get((term, index), acting)
        return acting

    def proposes(self, i: int, to: int) -> None:
        node = self.nodes[i]
        for index in range(len(node.log) + 1, to + 1):
            config = self.configs.get((node.term, index), self.acting)
            if config == self.acting:           # who votes is as before
                self.emit("Propose", i)
            elif config[0]:
                self.emit("Change", i, V=config[1])
            else:
                self.emit("Leave", i)
            self.acting = config
            node.log.append(node.term)

    # ------------------------------------------------------------------------- the end of a process
    def kill(self, i: int, power: bool) -> None:
        self.c.kill(i, power)
        self.c.boot(i)
        node, now = self.nodes[i], Seen(*observe.observe(self.c.nodes[i]))
        terms = observe.terms(self.c.nodes[i])
        saved = [n for n, (_, *hard) in enumerate(node.unsaved) if hard == [now.term, now.vote]]
        for _, term, vote in node.unsaved[:saved[-1] + 1] if saved else ():
            self.binds(i, term, vote)
        if terms[:len(node.log)] != terms and node.seen is not None:     # more than it had told
            if node.role == "l":
                self.proposes(i, len(terms))
            else:
                if now.term > node.term:        # its log says so
                    self.hears(i, now.term)
                self.accepts(i, node.seen.term, terms)
        self.emit("Power" if power else "Kill", i, 0, len(terms))
        fresh = Node(term=node.term, vote=node.vote, log=terms, marked=now.doubt, solid=len(terms))
        fresh.seen = now
        self.nodes[i] = fresh
        self.attach(i, now)


# ------------------------------------------------------------------------- who is recorded
def record(seed: int) -> Trace:
    """A cluster in MemFirst under kills, power cuts, partitions, transfers and changes of members;
    one node in doubt at a time."""
    r = random.Random(seed)
    with closing(Cluster(seed, nodes=VOTERS, spare=SPARE, strategy=MEMFIRST, interval_us=r.choice(
            (5_000, 50_000)), max_unflushed_us=400_000)) as c:
        return follow(c, seed, r)


def follow(c: Cluster, seed: int, r: random.Random) -> Trace:
    c.start()
    assert c.run_until(c.settled, 5 * SECOND)
    if c.states()[c.leader()]["term"] != 1:
        raise ValueError("the first election failed")
    recorder = Recorder(c, seed)
    booted = set(range(VOTERS))
    for _ in range(ROUNDS):
        for action in actions(r, c, recorder, booted):
            action()
        c.run_until(recorder.look, r.randrange(20_000, 400_000))
    c.heal()
    deadline = c.now_us + 30 * SECOND
    while not c.run_until(lambda: recorder.look() or c.settled(), SECOND):
        assert c.now_us < deadline
    recorder.trace.logs = [node.log for node in recorder.nodes]
    return recorder.trace


def actions(r: random.Random, c: Cluster, recorder: Recorder, booted: set[int]) -> Iterator[Any]:
    """What is done to the cluster next."""
    leader = c.leader()
    alive = [i for i in booted if c.nodes[i].alive]         # who was removed has stopped
    for _ in range(r.randrange(4)):
        yield lambda: c.put(r.choice(alive), b"k%d" % r.randrange(9), b"v", SECOND)
    kind = r.choice(("kill", "kill", "power", "power", "cut", "cut", "heal", "heal", "transfer",
                     "change", "nothing"))
    target = leader if leader >= 0 and r.random() < 0.5 else r.choice(alive)
    if kind in ("kill", "power"):
        doubtful = {i for i in booted if recorder.nodes[i].marked}
        power = kind == "power" and doubtful <= {target}
        yield lambda: recorder.kill(target, power)
    elif kind == "cut":
        other = r.choice([i for i in booted if i != target])
        yield lambda: c.cut(target, other)
    elif kind == "heal":
        yield c.heal
    elif kind == "transfer" and leader >= 0:
        yield lambda: c.transfer(leader)
    elif kind == "change" and leader >= 0:
        out = [i for i in range(VOTERS, VOTERS + SPARE) if i not in c.members(leader)]
        new = [i for i in out if i not in booted]
        if new and r.random() < 0.7:
            booted.add(new[0])
            yield lambda: c.boot(new[0])
            yield lambda: c.change(leader, "add", new[0])
        elif r.random() < 0.5:
            yield lambda: c.change(leader, "remove", r.choice(alive))
