"""The runner of simulations: what it makes of a seed that fails, what it keeps of a campaign."""
from __future__ import annotations

import json

import pytest

from tests.sim import __main__ as runner
from tests.sim.cover import EXPECTED
from tests.sim.plan import Fault, Plan, plan
from tests.sim.run import replay
from tests.sim.shrink import fails, kind, shrink


@pytest.fixture(scope="module")
def failing():
    """A plan that must fail: its clocks drift far beyond what leases allow."""
    for seed in range(200):
        p = plan(seed, nodes=3, load_ms=4000)
        p.drift_ppm = 900_000
        p.faults = [Fault(at, "isolate leader", -1, 0, 900) for at in range(500, 4000, 500)]
        error = fails(p)
        if error is not None and "primary" in str(error):
            return p, error
    pytest.fail("no seed fails: a check is missing")


def test_a_plan_is_a_text():
    p = plan(7)
    assert Plan.loads(p.dumps()) == p


def test_a_plan_that_fails_is_made_shorter(failing):
    p, error = failing
    short, again = shrink(p, error, seconds=20)
    assert kind(again) == kind(error)
    assert len(short.faults) < len(p.faults)
    assert short.sessions <= p.sessions
    assert kind(fails(Plan.loads(short.dumps()))) == kind(error)


def test_what_failed_is_told(failing):
    p, error = failing
    lines = []
    assert kind(replay(p, lines.append)) == kind(error)
    assert any("becomes leader" in line for line in lines)
    assert "primary" in lines[-1]
    assert len(lines) <= 203                    # the plan, 200 events, the digest, the error


def test_a_seed_that_fails_leaves_its_plan(failing, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert runner.failed(failing[0], trace=False) == 1
    assert "primary" in capsys.readouterr().out
    kept = Plan.loads((tmp_path / "logs" / "sim" / f"{failing[0].seed}.json").read_text())
    assert fails(kept) is not None
    assert runner.failed(plan(1), trace=False) == 0


def test_campaigns_add_up_and_miss_nothing(tmp_path):
    file = tmp_path / "sim.json"
    for first in (1, 3):
        done = runner.campaign(first, 2, 2, None)
        runner.keep(file, done)
    kept = json.loads(file.read_text())["campaigns"]
    assert [c["seeds"] for c in kept] == [2, 2]
    assert all(c["steps"] > 1000 and c["violations"] == [] for c in kept)
    done["counts"] = dict.fromkeys(EXPECTED, 1)
    assert runner.never_met(done) == []
    del done["counts"]["kill"]
    assert runner.never_met(done) == ["kill"]


def test_a_campaign_counts_a_seed_that_fails(monkeypatch):
    monkeypatch.setattr(runner, "run", lambda seed: 1 / 0)
    assert "ZeroDivisionError" in runner.one(5)["wrong"]


def test_two_runs_of_a_seed_that_differ_are_a_failure(monkeypatch):
    real, seeds = runner.run, iter([1, 2])      # as if the second run were another seed's
    monkeypatch.setattr(runner, "run", lambda _: real(next(seeds)))
    assert "two runs differ" in runner.one(runner.TWICE)["wrong"]
