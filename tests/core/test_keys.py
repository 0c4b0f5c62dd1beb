"""The table of results by Idempotency-Key, against a plain dict."""
from __future__ import annotations

from collections import OrderedDict

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sim.keys import Keys


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from("aaaaftd"), st.integers(0, 60), st.integers(0, 9)),
                min_size=60, max_size=200))
def test_against_a_dict(steps: list[tuple[str, int, int]]) -> None:
    """Keys lie in each other's way: what goes, oldest first, closes its gap in the index."""
    keys, model, clock = Keys(close=True), OrderedDict(), 0
    for what, key, more in steps:
        if what == "f":
            assert keys.find(key) == model.get(key)
        elif what == "a" and key not in model:
            model[key] = (more, clock)
            keys.add(key, more, clock)
        elif what == "t":
            clock += more
        elif what == "d":
            keys.drop(clock, more)
            for old in [k for k in list(model)[:more] if model[k][1] < clock]:
                del model[old]
        assert len(keys) == len(model)
    assert all(keys.find(key) == model.get(key) for key in range(61))


def test_many_and_a_pin() -> None:
    """More than some chunks: a pin holds what it saw, whatever comes and goes."""
    keys = Keys()
    for i in range(30_000):
        keys.add(i, i, i)
    pin = keys.pin()
    keys.drop(20_000, 25_000)
    for i in range(30_000, 60_000):
        keys.add(i, i, i)
    assert len(keys) == 40_000
    assert all(keys.find(i) is None for i in range(20_000))
    assert all(keys.find(i) == (i, i) for i in range(20_000, 60_000))
    assert keys.revisions(pin) == list(range(30_000))
    keys.drop(1 << 60, 1 << 30)
    assert len(keys) == 0
    assert keys.find(59_999) is None


def test_it_is_full_of_what_is_needed() -> None:
    keys = Keys()
    keys.fill(1)
    assert not keys.has_room(1)
    assert keys.has_room(2), "what is older than the horizon goes"
