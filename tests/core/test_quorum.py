"""Quorums against their definition: every subset is looked at."""
import random
from itertools import combinations

import pytest

from tests.sim.views import quorum_of


def majorities(half: int) -> list[set[int]]:
    slots = [i for i in range(16) if half >> i & 1]
    return [set(c) for c in combinations(slots, len(slots) // 2 + 1)]


def highest(voters: int, outgoing: int, values: list[int]) -> int:
    """The largest value that some majority of each half has reached."""
    reached = [max(min(values[i] for i in m) for m in majorities(half))
               for half in (voters, outgoing) if half]
    return min(reached)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7])
def test_a_quorum_is_a_majority(count: int) -> None:
    r = random.Random(count)
    for _ in range(300):
        values = [r.randrange(6) for _ in range(count)]
        voters = r.randrange(1, 1 << count)
        assert quorum_of(voters, 0, values) == (highest(voters, 0, values), True)


@pytest.mark.parametrize("count", [2, 3, 5, 7, 9])
def test_a_joint_quorum_has_a_majority_of_both_halves(count: int) -> None:
    r = random.Random(count)
    for _ in range(300):
        values = [r.randrange(6) for _ in range(count)]
        voters, outgoing = r.randrange(1, 1 << count), r.randrange(1, 1 << count)
        assert quorum_of(voters, outgoing, values) == (highest(voters, outgoing, values), True)


def test_who_does_not_vote_does_not_count() -> None:
    assert quorum_of(0b0111, 0, [5, 5, 0, 9])[0] == 5
    assert quorum_of(0b0111, 0, [5, 0, 0, 9])[0] == 0
    assert quorum_of(0b0011, 0b1100, [9, 9, 1, 1])[0] == 1


def test_without_voters_there_is_no_quorum() -> None:
    assert quorum_of(0, 0, []) == (0, False)
    assert quorum_of(0, 0, [4, 4]) == (0, False)
