"""Engines in this process, for tests: loops with a limit, polls, three nodes with a leader."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from dengine import Engine
from tests.cluster import Cluster

WAIT_S = 20.0
T = TypeVar("T")
Loop = Any  # "own" or "current"


def run(main: Coroutine[Any, Any, T], uv: bool = True) -> T:
    """In a new loop, with a limit; fails if a task is left behind or an error went unseen."""
    unseen: list[dict[str, Any]] = []

    async def bounded() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
        async with asyncio.timeout(WAIT_S):
            result = await main
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    result = uvloop.run(bounded()) if uv else asyncio.run(bounded())
    assert not unseen
    return result


async def until(what: str, probe: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (value := probe()):
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.005)
    return value


@contextlib.asynccontextmanager
async def three(root: Path, loop: Loop = "own", **settings: object) -> AsyncIterator[list[Engine]]:
    """Three engines in this process, with a leader that all know; closed at the end."""
    names = {name.replace("__", "."): value for name, value in settings.items()}
    engines = [Engine.open(node.config, loop=loop) for node in
               Cluster(root, settings=names).nodes.values()]
    await asyncio.gather(*[e.start() for e in engines])
    try:
        await until("a leader", lambda: leader_of(engines))
        yield engines
    finally:
        await asyncio.gather(*[e.close() for e in engines])


def leader_of(engines: list[Engine]) -> Engine | None:
    """The one that leads under a lease, known to all that are open."""
    for engine in engines:
        if engine.is_leader and all(e.leader in (engine.leader, None) for e in engines):
            return engine
    return None


def others(engines: list[Engine]) -> tuple[Engine, list[Engine]]:
    leader = leader_of(engines)
    assert leader is not None
    return leader, [e for e in engines if e is not leader]
