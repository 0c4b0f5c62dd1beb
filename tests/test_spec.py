"""Traces for the specification: what is recorded, and that each kind can be falsified. TLC itself
is run by `make spec`."""
import random

import pytest

from tests.spec.trace import Trace, record
from tests.spec.traces import FALSIFIED, falsified, module


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    out = []
    for seed in range(1, 9):
        try:
            out.append(record(seed))
        except ValueError:                      # its first election failed
            continue
    return out


def test_a_trace_names_all_that_the_specification_has(traces: list[Trace]) -> None:
    actions = {event.action for trace in traces for event in trace.events}
    assert actions == {"Campaign", "Vote", "Hear", "Win", "Flush", "Propose", "Accept", "Commit",
                       "Contact", "Kill", "Power", "Change", "Leave"}
    for trace in traces:
        longest = max(trace.logs, key=len)
        assert all(log == longest[:len(log)] for log in trace.logs), "who was removed has less"


def test_each_seed_is_one_trace(traces: list[Trace]) -> None:
    assert record(traces[0].seed) == traces[0]


def test_all_kinds_of_lies_are_told(traces: list[Trace]) -> None:
    lies = falsified(traces, random.Random(1))
    assert [name for name, *_ in lies] == [falsify.__name__ for falsify in FALSIFIED]
    assert all(lie.events not in [t.events for t in traces] for _, lie, _ in lies)
    text, config = module(lies[0][1])
    assert text.count("a |->") == len(lies[0][1].events)
    assert "Nodes = {1, 2, 3, 4, 5}" in config
