"""What the chaos runner believes is worth what its checks notice: plans, samples of health ports
that contradict each other, answers that state nothing. No processes here; histories: tests/check.
"""

import argparse
import asyncio
import random
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from tests import proofs
from tests.chaos import net, plan, report, run
from tests.chaos.__main__ import one
from tests.chaos.http import Answer
from tests.chaos.load import new, understand
from tests.chaos.net import sh
from tests.chaos.nodes import Node
from tests.chaos.run import SILENCE_S, STALL_S, START_S, Run, Verdict, settle, silences
from tests.chaos.watch import Watch, pulse


# ------------------------------------------------------------------------------------ plans
def test_a_seed_gives_one_plan():
    assert asdict(plan.make(7, 24)) == asdict(plan.make(7, 24))
    assert asdict(plan.make(7, 24)) != asdict(plan.make(8, 24))


def test_plans_have_every_fault_and_overlap():
    plans = [plan.make(seed, 24) for seed in range(60)]
    seen = {f.kind for p in plans for f in p.faults}
    assert seen == {*plan.LINK_KINDS, *plan.NODE_KINDS, *plan.MEMBER_KINDS}
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
    assert len(watch.violations) == 1
    assert watch.falls == [(1, 5, 4, 2, 6)]
    node = Node(1, "", 0, 0, 0, Path())
    assert not node.was_emptied(2, 6)
    node.journal = [(3, "wipe")]
    assert node.was_emptied(2, 6)
    assert not node.was_emptied(3, 6)


def test_silence_is_excused_by_what_was_done_to_the_process():
    second = 1_000_000_000
    start, long = int(START_S * second), int((SILENCE_S + 1) * second)

    node = Node(1, "", 0, 0, 0, Path())
    node.journal = [(0, "start"), (start + long, "pause"), (start + 2 * long, "go"),
                    (start + 3 * long, "stop"), (start + 4 * long, "start")]
    assert silences(node, [[1, 0, start]]) == []
    assert silences(node, [[1, start + long, start + 2 * long]]) == []
    assert silences(node, [[2, start, start + long]]) == []
    assert len(silences(node, [[1, start, start + long]])) == 1
    assert len(silences(node, [[1, start + 2 * long, start + 4 * long]])) == 1


def test_an_answer_belongs_to_the_process_that_ran_all_the_time():
    node = Node(1, "", 0, 0, 0, Path())
    node.journal = [(10, "start"), (20, "pause"), (30, "go"), (40, "stop"), (50, "start")]
    assert [node.life(*at) for at in ((10, 40), (15, 35), (50, 99))] == [1, 1, 2]
    assert [node.life(*at) for at in ((5, 15), (35, 41), (42, 48), (45, 55))] == [0, 0, 0, 0]


@pytest.mark.parametrize(("kind", "status", "body", "outcome"), [
    ("put", 200, '{"revision":7}', "ok"),
    ("delete", 200, '{"revision":7,"deleted":0}', "missing"),
    ("delete", 200, '{"revision":7,"deleted":1}', "ok"),
    ("cas", 412, '{"revision":3}', "conflict"),
    ("put", 503, '{"code":"not_proposed"}', "refused"),
    ("put", 503, '{"code":"stopped"}', "unknown"),
    ("put", 504, '{"code":"outcome_unknown"}', "unknown"),
    ("get", 503, '{"code":"unavailable"}', "refused"),
    ("get", 404, '{"code":"key_not_found"}', "missing"),
])
def test_only_an_answer_that_says_so_states_an_outcome(kind, status, body, outcome):
    op = new(1, kind, "k", 1)
    understand(op, Answer(status, {"dengine-revision": "7"}, body.encode()))
    assert op.outcome == outcome
    assert op.mod == (3 if outcome == "conflict" else 0)


# ------------------------------------------------------------------------------------- void
def test_what_was_late_is_void_where_the_machine_stood_still():
    def settled(stall_s: float, *found: str) -> Verdict:
        verdict = Verdict(1, 3, "MemFirst", "", violations=[*found], late=["too slow"])
        settle(verdict, stall_s)
        assert verdict.late == []
        return verdict

    assert settled(STALL_S / 2).violations == ["too slow"]
    assert settled(STALL_S / 2).void == []
    still = settled(STALL_S * 2)
    assert still.violations == []
    assert "stood still" in still.void[0]
    assert still.void[1] == "too slow"
    assert "void" in report.line(still)
    stale = settled(STALL_S * 2, "a stale read")        # no pause excuses that
    assert stale.violations == ["a stale read"]
    assert "FAILED" in report.line(stale)


def test_a_machine_that_stands_still_is_noticed():
    async def stand() -> float:
        seen, end = Watch(), asyncio.Event()
        task = asyncio.create_task(pulse(seen, end))
        await asyncio.sleep(0)
        time.sleep(0.3)                         # noqa: ASYNC251 - as if nothing ran
        end.set()
        await task
        return seen.stall_s

    assert asyncio.run(stand()) > 0.2


@pytest.mark.parametrize("kept", [[], ["all nodes agree: not within 15 s"]])
def test_a_command_that_takes_too_long_makes_a_run_void(kept, tmp_path, monkeypatch):
    """The compiler of the clock's library, mkfs, nft: on a machine that stands still."""
    def build(*_: object) -> dict[int, Node]:
        sh("sleep", "10")
        return {}

    async def go(self: Run) -> None:
        self.verdict.late += kept
        sh("sleep", "10")

    monkeypatch.setattr(net, "COMMAND_S", 0.05)
    if kept:
        monkeypatch.setattr(run, "build", lambda *_: {})
        monkeypatch.setattr(Run, "go", go)
    else:
        monkeypatch.setattr(run, "build", build)
    chosen = argparse.Namespace(seconds=24.0, loopback=True, operations=1)
    verdict = one(1, tmp_path, chosen)
    assert verdict.violations == []
    assert verdict.void == ["TimeoutError: sleep 10: not within 0.05 s", *kept]


# ----------------------------------------------------------------------------------- report
def test_void_runs_are_counted_apart_and_seeds_are_ranges():
    passed = Verdict(1, 3, "MemFirst", "", operations=2000, faults={"kill": 2})
    void = Verdict(2, 3, "MemFirst", "", void=["why"], operations=10)
    failed = Verdict(3, 5, "DiskFirst", "", violations=["what"], operations=2000)
    sums = report.total([passed, void, failed])
    assert (sums["runs"], sums["void"], sums["failed"]) == (2, 1, [3])
    assert sums["operations"] == 4000
    again = proofs.merged(report.total([passed]), report.total([failed]))
    assert again == report.total([passed, failed])
    assert proofs.ranges([1, 2, 3, 7, 9, 8]) == "1-3 7-9"
    assert proofs.numbers("1-3 7-9") == [1, 2, 3, 7, 8, 9]
