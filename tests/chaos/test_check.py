"""What the chaos runner believes is worth what its checks notice: histories known to be bad, plans,
samples of health ports that contradict each other. No processes here."""

import random
from dataclasses import asdict

import pytest

from tests.chaos import plan, report
from tests.chaos.check import check
from tests.chaos.load import Operation
from tests.chaos.run import SILENCE_S, START_S, Verdict, silences
from tests.chaos.watch import Watch


class Story:
    """Writes a history; each operation begins when the one before has ended."""

    def __init__(self) -> None:
        self.now, self.history = 0, []

    def add(self, kind: str, **more: object) -> Operation:
        op = Operation(0, kind, "k", 1, self.now + 1, return_ns=self.now + 2, **more)
        self.now += 2
        self.history.append(op)
        return op

    def put(self, value: str, revision: int | None, outcome: str = "ok", **more) -> Operation:
        op = self.add("put", value=value, revision=revision, outcome=outcome, **more)
        if outcome == "unknown":
            op.return_ns = None
        return op

    def get(self, value: str | None, revision: int | None, at: int, policy="lease") -> Operation:
        return self.add("get", value=value, revision=revision, read_revision=at, policy=policy,
                        outcome="missing" if value is None else "ok")

    def delete(self, revision: int | None, outcome: str = "ok") -> Operation:
        op = self.add("delete", revision=revision, outcome=outcome)
        if outcome == "unknown":
            op.return_ns = None
        return op

    def cas(self, value: str, expected: int, revision: int, outcome: str = "ok") -> Operation:
        return self.add("cas", value=value, expected=expected, revision=revision, outcome=outcome)


def sound(story: Story) -> None:
    """What happens before the violation in each history: all of it is fine."""
    story.get(None, None, 0)
    story.put("a", 1)
    story.get("a", 1, 1)
    story.put("b", None, "unknown")
    story.cas("c", 1, 1, "conflict").revision = 2
    story.get("b", 2, 2)
    story.get("a", 1, 1, "eventual")
    story.cas("d", 2, 3)
    story.cas("e", 2, 3, "conflict")
    story.put("f", None, "refused")
    story.get("d", 3, 3, "linearizable")
    story.delete(4)
    story.get(None, None, 4)
    story.delete(None, "missing").read_revision = 4
    story.put("g", 5)


BAD = {
    "stale read": lambda s: s.get(None, None, 4),
    "stale linearizable read": lambda s: s.get("d", 3, 3, "linearizable"),
    "lost write": lambda s: s.get(None, None, 5),
    "resurrected value": lambda s: (s.put("h", 6), s.get("g", 5, 6)),
    "resurrected delete": lambda s: (s.delete(6), s.get("g", 5, 6)),
    "revision given twice": lambda s: s.put("h", 5),
    "revision that goes back": lambda s: s.put("h", 4),
    "double application": lambda s: (s.put("h", 7), s.get("h", 7, 7)),
    "refused write read": lambda s: s.get("f", 6, 6),
    "value nobody wrote": lambda s: s.get("z", 6, 6),
    "one write at two revisions": lambda s: s.get("b", 6, 6),
    "another revision than written": lambda s: s.get("g", 6, 6),
    "swap over another write": lambda s: (s.put("h", 6), s.cas("i", 5, 7)),
    "created over a key": lambda s: s.cas("h", 0, 6),
    "conflict without a reason": lambda s: s.cas("h", 5, 5, "conflict"),
    "conflict with the past": lambda s: s.cas("h", 5, 3, "conflict"),
    "read of the future": lambda s: (s.get("h", 6, 6), s.put("h", 6)),
    "read above its revision": lambda s: (s.put("h", 6), s.get("h", 6, 5, "eventual")),
    "lost at the end": lambda s: s.get(None, None, 5, "final"),
}


def test_a_sound_history_passes():
    story = Story()
    sound(story)
    assert check(story.history) == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history_is_noticed(name):
    story = Story()
    sound(story)
    BAD[name](story)
    assert check(story.history) != []


def test_writes_against_real_time_are_noticed():
    story = Story()
    story.put("a", 2)
    story.put("b", 1)
    assert check(story.history) != []


def test_an_unanswered_delete_explains_one_missing_key_only():
    story = Story()
    story.put("a", 1)
    story.delete(None, "unknown")
    story.get(None, None, 2)
    assert check(story.history) == []
    story.put("b", 3)
    story.get(None, None, 3)
    assert check(story.history) != []


def random_history(seed: int, operations: int = 300, clients: int = 6) -> list[Operation]:
    """A linearizable history of overlapping operations on one store, some without an answer."""
    rng = random.Random(seed)
    store, revision, now, history = {}, 0, 0, []
    ends = [0] * clients
    for n in range(operations):
        client = rng.randrange(clients)
        now = max(now + rng.randint(1, 4), ends[client] + 1)     # the moment it acts
        op = Operation(client, rng.choice(("put", "get", "delete", "cas")), f"k{rng.randrange(3)}",
                       1, rng.randint(ends[client] + 1, now))
        ends[client] = op.return_ns = now + rng.randint(0, 8)
        value, modified = store.get(op.key, (None, 0))
        op.outcome = "ok"
        if op.kind == "get":
            op.policy, op.read_revision = "lease", revision
            op.value, op.revision = value, modified or None
            op.outcome = "ok" if modified else "missing"
        elif op.kind == "delete" and not modified:
            op.outcome, op.read_revision = "missing", revision
        elif op.kind == "cas" and rng.random() < 0.5:
            op.value, op.expected = f"v{n}", modified + 1
            op.outcome, op.revision = "conflict", modified
        else:
            revision += 1
            if op.kind == "delete":
                del store[op.key]
            else:
                op.value, store[op.key] = f"v{n}", (f"v{n}", revision)
            if op.kind == "cas":
                op.expected = modified
            op.revision = revision
        if op.kind != "get" and rng.random() < 0.1:
            op.outcome, op.return_ns, op.revision, op.read_revision = "unknown", None, None, None
            ends[client] = now
        history.append(op)
    return history


@pytest.mark.parametrize("seed", range(20))
def test_random_sound_histories_pass(seed):
    assert check(random_history(seed)) == []


def test_most_reads_made_older_are_noticed():
    """Puts the state of some revision earlier into a lease read: noticed wherever a write that
    was answered lies between."""
    noticed = tried = 0
    for seed in range(60):
        history = random_history(seed)
        reads = [op for op in history if op.kind == "get"]
        read = reads[len(reads) // 2]
        earlier = [op for op in reads if (op.read_revision or 0) < (read.read_revision or 0) - 6
                   and op.key == read.key]
        if earlier:
            tried += 1
            old = earlier[-1]
            read.value, read.revision, read.read_revision, read.outcome = (
                old.value, old.revision, old.read_revision, old.outcome)
            noticed += check(history) != []
    assert tried > 30
    assert noticed == tried


# ------------------------------------------------------------------------------------ plans
def test_a_seed_gives_one_plan():
    assert asdict(plan.make(7, 24)) == asdict(plan.make(7, 24))
    assert asdict(plan.make(7, 24)) != asdict(plan.make(8, 24))


def test_plans_have_every_fault_and_overlap():
    plans = [plan.make(seed, 24) for seed in range(60)]
    seen = {f.kind for p in plans for f in p.faults}
    assert seen == set(plan.LINK_KINDS) | set(plan.NODE_KINDS)
    assert {(p.nodes, p.strategy) for p in plans} == {
        (n, s) for n in (3, 4, 5) for s in ("MemFirst", "DiskFirst")}
    for p in plans:
        for storm in p.storms:
            faults = [p.faults[n] for n in storm]
            assert 2 <= len(faults) <= 4
            assert all(f.at_s < faults[0].at_s + faults[0].lasts_s for f in faults)


def test_memfirst_is_not_cut_beyond_its_promise():
    for seed in range(200):
        p = plan.make(seed, 24)
        for storm in p.storms if p.strategy == "MemFirst" else []:
            kinds = {p.faults[n].kind for n in storm}
            assert "cut-all" not in kinds
            assert plan.VOTES_ARE_MARKED or not kinds & {"cut", "cut-minority"} or (
                kinds <= {"cut", "cut-minority", "wall"})


@pytest.mark.parametrize("kind", plan.LINK_KINDS)
def test_faults_of_links_cut_something_and_not_everything(kind):
    for n in (3, 4, 5):
        for seed in range(50):
            ids = list(range(1, n + 1))
            links = plan.links(kind, ids, 2, random.Random(seed))
            assert links
            assert all(a != b and {a, b} <= set(ids) for a, b in links)
            if kind == "ring" and n > 3:
                assert all(sum((i, j) not in links for j in ids if j != i) == 2 for i in ids)
            if kind == "isolate-leader":
                assert links == {p for i in ids if i != 2 for p in ((i, 2), (2, i))}


# ------------------------------------------------------------------------------------ watch
def watched(*samples: tuple[int, int, int, int]) -> list[str]:
    """Violations after (node, term, sent, got) answers of /primary with 200."""
    watch = Watch()
    for node, term, sent, got in samples:
        watch.take(node, "/primary", 200, {"term": term}, sent, got)
    return watch.violations


def test_primaries_that_contradict_each_other():
    assert watched((1, 3, 10, 11), (2, 4, 12, 13), (2, 4, 20, 21)) == []
    assert watched((2, 4, 10, 20), (1, 3, 11, 30)) == []        # they overlap: no order is known
    assert watched((2, 4, 10, 20), (1, 3, 21, 22)) != []        # an old leader after a new one
    assert watched((1, 3, 10, 11), (2, 3, 12, 13)) != []        # two in one term


def test_terms_that_fall_and_health_that_is_not_200():
    watch = Watch()
    watch.take(1, "/primary", 503, {"term": 5}, 1, 2)
    watch.take(2, "/primary", 503, {"term": 4}, 3, 4)
    assert watch.violations == []
    watch.take(1, "/primary", 503, {"term": 4}, 5, 6)
    watch.take(1, "/health", 503, {"term": 4}, 7, 8)
    assert len(watch.violations) == 2


def test_silence_is_excused_by_what_was_done_to_the_process():
    second = 1_000_000_000
    start, long = int(START_S * second), int((SILENCE_S + 1) * second)

    class Node:
        id = 1
        journal = ((0, "start"), (start + long, "pause"), (start + 2 * long, "go"),
                   (start + 3 * long, "stop"), (start + 4 * long, "start"))

    assert silences(Node, [[1, 0, start]]) == []
    assert silences(Node, [[1, start + long, start + 2 * long]]) == []
    assert silences(Node, [[2, start, start + long]]) == []
    assert len(silences(Node, [[1, start, start + long]])) == 1
    assert len(silences(Node, [[1, start + 2 * long, start + 4 * long]])) == 1


# ----------------------------------------------------------------------------------- report
def test_void_runs_are_counted_apart_and_seeds_are_ranges():
    passed = Verdict(1, 3, "MemFirst", "", operations=2000, faults={"kill": 2})
    void = Verdict(2, 3, "MemFirst", "", void=["why"], operations=10)
    failed = Verdict(3, 5, "DiskFirst", "", violations=["what"], operations=2000)
    sums = report.total([passed, void, failed])
    assert (sums["runs"], sums["void"], sums["failed"]) == (2, 1, [3])
    assert sums["operations"] == 4000
    again = report.merged(report.total([passed]), report.total([failed]))
    assert again == report.total([passed, failed])
    assert report.ranges([1, 2, 3, 7, 9, 8]) == "1-3 7-9"
    assert report.numbers("1-3 7-9") == [1, 2, 3, 7, 8, 9]
