"""The term map against a list with one term per index."""
import random

import pytest

from dengine.errors import InvariantError
from tests.sim.views import TermMap


def agreement(model: list[int], index: int, term: int) -> int:
    index = min(index, len(model))
    while index and model[index - 1] > term:
        index -= 1
    return index


@pytest.mark.parametrize("seed", range(200))
def test_any_history_is_that_of_a_list(seed: int) -> None:
    r = random.Random(seed)
    terms, model = TermMap(), []
    for _ in range(60):
        if r.random() < 0.7:
            term = max(1, model[-1] if model else 1) + r.choice([0, 0, 1, 3])
            n = r.randrange(5)
            terms.extend(term, n)
            model += [term] * n
        else:
            to = r.randrange(len(model) + 1)
            terms.truncate(to)
            del model[to:]
        assert terms.last == len(model)
        assert [terms[i] for i in range(1, len(model) + 1)] == model
        assert terms[0] == terms[len(model) + 1] == 0
        index, term = r.randrange(len(model) + 3), r.randrange(20)
        assert terms.agreement(index, term) == agreement(model, index, term)


def test_terms_never_fall() -> None:
    terms = TermMap()
    terms.extend(3)
    with pytest.raises(InvariantError, match="term 2 after term 3"):
        terms.extend(2)
    terms.truncate(0)
    terms.extend(2)
    assert terms[1] == 2


def test_a_compacted_log_knows_its_base() -> None:
    terms = TermMap(10, 4)
    assert (terms.last, terms[10], terms[9], terms[11]) == (10, 4, 0, 0)
    with pytest.raises(InvariantError):
        terms.extend(3)
    terms.extend(4, 2)
    terms.extend(6)
    assert [terms[i] for i in (10, 11, 12, 13)] == [4, 4, 4, 6]
    assert terms.agreement(13, 5) == 12
    assert terms.agreement(13, 1) == 10
    with pytest.raises(InvariantError, match="below the start"):
        terms.truncate(9)


def test_nothing_appended_changes_nothing() -> None:
    terms = TermMap()
    terms.extend(7, 0)
    assert (terms.last, terms[1]) == (0, 0)
