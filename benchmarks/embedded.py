"""One process of an embedded cluster, and the closed loop inside the one that leads.

    python benchmarks/embedded.py CONFIG own|current

opens an Engine, prints {"leader": id} and then answers each line of its input, a Load, with one
line: the leader, a Figure, and how many syncs and commits that took. It ends with its input.
`clients` tasks await one call after the other on uvloop. What limits it: the tasks and the node's
own thread share one interpreter, so this is what an application with nothing else to do gets. A
lease read that need not wait does not yield either, so one task runs after the other. An eventual
read is a plain call, timed in batches.
"""

import asyncio
import json
import sys
import time
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import uvloop

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
import dengine
from benchmarks.client import Load
from benchmarks.common import Figure

BATCH = 1000            # plain calls between two looks at the clock
Call = Callable[[bytes], Awaitable[object]]


async def closed_loop(call: Call, keys: list[bytes], clients: int, seconds: float) -> Figure:
    """`clients` tasks, each with its own share of the keys."""
    latencies = array("Q")                      # nanoseconds
    clock = time.perf_counter_ns
    began = clock()
    end = began + int(seconds * 1e9)

    async def client(own: list[bytes]) -> None:
        while True:
            for key in own:
                sent = clock()
                if sent >= end:
                    return
                await call(key)
                latencies.append(clock() - sent)

    await asyncio.gather(*(client(keys[i::clients] or keys) for i in range(clients)))
    return Figure.of(latencies, (clock() - began) / 1e9)


def plain_calls(call: Callable[[bytes], object], keys: list[bytes], seconds: float) -> Figure:
    """Calls in a loop; a latency is the mean of a batch, the loop's own cost included."""
    batch = (keys * (BATCH // len(keys) + 1))[:BATCH]
    latencies = array("Q")
    clock = time.perf_counter_ns
    began = clock()
    while clock() - began < seconds * 1e9:
        sent = clock()
        for key in batch:
            call(key)
        latencies.append((clock() - sent) // BATCH)
    spent = (clock() - began) / 1e9
    figure = Figure.of(latencies, spent)
    return Figure(figure.requests * BATCH, 0, spent, figure.p50_us, figure.p99_us, figure.max_us)


async def open_loop(call: Call, keys: list[bytes], rate: float, seconds: float) -> Figure:
    """Calls that begin when they are due, `rate` a second and a millisecond's at once, whatever
    became of the earlier ones. A latency counts from when the call was due."""
    latencies = array("Q")                      # nanoseconds
    clock = time.perf_counter_ns
    under_way: set[asyncio.Future[object]] = set()
    errors = 0
    began = clock()

    def ended(due: int, future: asyncio.Future[object]) -> None:
        nonlocal errors
        latencies.append(clock() - due)
        under_way.discard(future)
        errors += future.exception() is not None

    ticks = round(1000 * seconds)
    made = 0
    for tick in range(ticks):
        due = began + tick * 1_000_000
        while clock() < due:  # noqa: ASYNC110, a timer of the loop is a millisecond coarse
            await asyncio.sleep(max(0.0, (due - clock()) / 1e9 - 0.001))
        while made < rate * (tick + 1) / 1000:
            future = asyncio.ensure_future(call(keys[made % len(keys)]))
            under_way.add(future)
            future.add_done_callback(partial(ended, due))
            made += 1
    await asyncio.gather(*under_way, return_exceptions=True)
    return Figure.of(latencies, (clock() - began) / 1e9, errors)


async def run(engine: "dengine.Engine", load: Load) -> Figure:
    keys = [f"k{i:07d}".encode() for i in range(load.keys)]
    value = load.value.encode()
    if engine.get_eventual(keys[-1]) is None:       # each key exists before anything is measured
        for at in range(0, len(keys), BATCH):
            await asyncio.gather(*(engine.put(key, value) for key in keys[at : at + BATCH]))
    if load.op == "eventual":
        return plain_calls(engine.get_eventual, keys, load.seconds)
    calls: dict[str, Call] = {
        "put": lambda key: engine.put(key, value),
        "lease": lambda key: engine.get(key, consistency="lease"),
        "linearizable": lambda key: engine.get(key, consistency="linearizable"),
    }
    if load.rate:
        return await open_loop(calls[load.op], keys, load.rate, load.seconds)
    return await closed_loop(calls[load.op], keys, load.clients, load.seconds)


async def main() -> None:
    where, loop = sys.argv[1:]
    async with dengine.Engine.open(where, loop="own" if loop == "own" else "current") as engine:
        await engine.wait_leader()
        print(json.dumps({"leader": engine.leader}), flush=True)
        while order := await asyncio.to_thread(sys.stdin.readline):
            before = engine.status()
            figure = await run(engine, Load(**json.loads(order)))
            after = engine.status()
            print(json.dumps({
                "leader": engine.leader, "figure": asdict(figure),
                "syncs": after["counters"]["syncs"] - before["counters"]["syncs"],
                "snapshots": (after["counters"]["snapshots_taken"]
                              - before["counters"]["snapshots_taken"]),
                "longest_turn_us": after["counters"]["longest_turn_us"],
                "commits": after["commit"] - before["commit"]}), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
