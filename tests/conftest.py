"""For every test: in a debug build, what the core allocated for it must be gone after it.

It decides which tests are held to that: those of the core and of Store, which run in this process
alone. What is counted is in dengine/_core/live.h.
"""
import gc
import importlib.util
from collections.abc import Iterator

import pytest

COMPILED = importlib.util.find_spec("tests.sim.live") is not None
HELD_TO_IT = ("tests/core/", "tests/test_store")
FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    if not COMPILED or not request.node.nodeid.startswith(HELD_TO_IT):
        yield
        return
    from tests.sim.live import COUNTED, blocks

    before = blocks() if COUNTED else {}
    yield
    if not COUNTED or FAILED in request.node.stash:     # its frames are kept, to be shown
        return
    request.node.funcargs.clear()
    if left_after(before, blocks()):
        gc.collect()
    left = left_after(before, blocks())
    assert not left, f"blocks of the core that nobody freed: {left}"


def left_after(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    return {name: n - before.get(name, 0) for name, n in now.items() if n > before.get(name, 0)}
