"""A task that runs in one process of three: in the one whose node leads.

    python examples/leader_task.py config/n1.toml        (and n2.toml, n3.toml, in two more shells)

Kill the process that says "runs": within two seconds another one does.

Leading is not a lock. A process that was stopped for a while can believe that it leads when another
one does already. So the task looks at `is_leader` (a lease, which ends before another node can
lead) before each step, and what it writes it writes with `if_revision`: a write of an overtaken
leader is refused, not merely unlikely.
"""
import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable

import dengine
from dengine.errors import ConflictError, UnavailableError

PAUSE_S = 0.1
KEY = "ticks"


async def while_leading(engine: dengine.Engine,
                        task: Callable[[dengine.Engine], Awaitable[None]]) -> None:
    """Runs `task` in each term that this node leads; cancels it when the term ends."""
    running: asyncio.Future[None] | None = None
    try:
        async for change in engine.leadership():
            if running is not None:
                await stop(running)
                running = None
            if change.is_self:
                print(f"node {change.leader} runs the task in term {change.term}", flush=True)
                running = asyncio.ensure_future(task(engine))
            else:
                print(f"node {change.leader or '?'} leads term {change.term}", flush=True)
    finally:
        if running is not None:
            await stop(running)


async def stop(running: asyncio.Future[None]) -> None:
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def tick(engine: dengine.Engine) -> None:
    """Counts in `ticks`, once per step, whoever leads."""
    revision = 0
    while True:
        await asyncio.sleep(PAUSE_S)
        if not engine.is_leader:        # elected, but without a lease yet, or without one any more
            continue
        try:
            count = int(await engine.get(KEY, b"0")) + 1
            revision = await engine.put(KEY, str(count), if_revision=revision)
            print(f"tick {count}", flush=True)
        except ConflictError as conflict:       # an earlier leader wrote it: go on from there
            revision = conflict.revision
        except UnavailableError as error:       # or outcome unknown: the next step finds out
            print(f"no tick: {error}", flush=True)


async def main(config: str) -> None:
    async with dengine.Engine.open(config) as engine:
        await while_leading(engine, tick)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1]))
