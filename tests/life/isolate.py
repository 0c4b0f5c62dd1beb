"""Leaders that are cut off from the others: when the next one leads, and never two at once.

    python -m tests.life.isolate [--times 50]           as root

Each node is in a network namespace of its own. All packets between the leader and the others are
dropped, in both directions; `/primary` of every node is asked every 5 ms, from outside. A primary
of an older term, seen after one of a newer term, is a violation, as in tests/chaos/watch.py.
"""
from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import quantile
from tests import proofs
from tests.chaos.ground import go_inside, missing, obey_signals, scratch
from tests.chaos.net import Network
from tests.chaos.nodes import Node, build
from tests.chaos.plan import Plan
from tests.chaos.watch import Watch, ask, follow

FORM_S = 20.0
NEXT_S = 10.0
STEADY_S = 1.0              # between two isolations, all connected
ALONE_S = 0.5               # cut off, after the next one leads


async def until(what: str, seconds: float, probe: Callable[[], Any]) -> Any:
    end = time.monotonic() + seconds
    while not (value := await probe()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        await asyncio.sleep(0.002)
    return value


async def primary(nodes: dict[int, Node], others_than: int = 0) -> int:
    for i, node in nodes.items():
        if i != others_than and (await ask(node.host, node.health, "/primary"))[0] == 200:
            return i
    return 0


async def together(nodes: dict[int, Node]) -> bool:
    """Does one lead, and do all others follow it?"""
    leader = await primary(nodes)
    statuses = [(await ask(n.host, n.health, "/replica"))[0] for i, n in nodes.items()
                if i != leader]
    return bool(leader) and set(statuses) == {200}


async def isolate(network: Network, nodes: dict[int, Node], number: int) -> float:
    """Seconds until another node is primary."""
    await until("all are together", FORM_S, lambda: together(nodes))
    await asyncio.sleep(STEADY_S)
    leader = await primary(nodes)
    if not leader:
        raise TimeoutError("no primary in a healthy cluster")
    links = [link for i in nodes if i != leader for link in ((i, leader), (leader, i))]
    await asyncio.to_thread(network.begin, number, links, "drop")
    begun = time.monotonic()
    await until("another primary", NEXT_S, lambda: primary(nodes, leader))
    took = time.monotonic() - begun
    await asyncio.sleep(ALONE_S)
    if await asyncio.to_thread(network.end, number) == 0:
        raise TimeoutError("no packet was dropped")
    return took


async def campaign(root: Path, times: int) -> dict[str, Any]:
    network = Network(1, 3)
    nodes: dict[int, Node] = {}
    watch, end = Watch(), asyncio.Event()
    waits: list[float] = []
    try:
        nodes = build(Plan(1, 3, "MemFirst", 0, {}), root, network)
        for node in nodes.values():
            node.start()
        watching = [asyncio.create_task(follow(watch, i, n.host, n.health, end))
                    for i, n in nodes.items()]
        for n in range(times):
            waits.append(await isolate(network, nodes, n))
            print(f"\r{n + 1} of {times}: {waits[-1] * 1e3:.0f} ms ", end="", file=sys.stderr)
        end.set()
        await asyncio.gather(*watching)
    finally:
        print(file=sys.stderr)
        for node in nodes.values():
            if node.process is not None:
                node.kill()
        network.close()
    ordered = sorted(waits)
    return {"isolations": times, "next primary after ms": {
        name: round(quantile(ordered, q) * 1e3) for name, q in (
            ("min", 0), ("p50", 0.5), ("p99", 0.99), ("max", 1))},
        "samples": watch.samples, "terms with a primary": len(watch.owners),
        "violations": watch.violations}


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.life.isolate",
                                     description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--evidence", type=Path, help="a file that the result is added to")
    a = parser.parse_args()
    if why := missing():
        print(f"{why}: this needs namespaces")
        return 2
    go_inside("tests.life.isolate")
    obey_signals()
    with scratch("dengine-isolate-") as root:
        result = asyncio.run(campaign(root, a.times))
    proofs.note(a.evidence, result)
    return 1 if result["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
