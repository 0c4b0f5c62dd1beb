"""Clients of a cluster that count what they were told: each write has a key of its own, unless the
keys of a client are counted.

It decides how a write is repeated and what a gap is. It knows a node only by its ports.
"""
from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.http import Answer, Connection, NotSent

HOST = "127.0.0.1"
DEADLINE_S = 7.0        # above the nodes' own 5 s: their answer comes first


@dataclass
class Told:
    """What became of all writes."""

    revisions: list[int] = field(default_factory=list)  # of the acknowledged
    times: list[float] = field(default_factory=list)    # when each was acknowledged, of this run
    doubtful: list[str] = field(default_factory=list)   # keys whose own node died meanwhile
    failed: Counter[str] = field(default_factory=Counter)
    repeated: int = 0


class Clients:
    """So many loops. `ports` says where a client may ask now; `keyed`: it repeats all it is not
    told under one Idempotency-Key; else it repeats only what was not proposed. `keys`: of each
    client, which it writes again and again."""

    def __init__(self, count: int, ports: Callable[[], list[int]], *, keyed: bool = False,
                 keys: int | None = None) -> None:
        self.count, self.ports, self.keyed, self.keys = count, ports, keyed, keys
        self.told = Told()
        self.enough = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self.tasks = [asyncio.create_task(self.client(i)) for i in range(self.count)]

    async def stop(self) -> Told:
        self.enough.set()
        await asyncio.gather(*self.tasks)
        return self.told

    async def client(self, number: int) -> None:
        connections: dict[int, Connection] = {}
        n = 0
        while not self.enough.is_set():
            n += 1
            await self.write(f"{number}-{n % (self.keys or n + 1)}", connections, number + n)
        for connection in connections.values():
            connection.close()

    async def write(self, key: str, connections: dict[int, Connection], turn: int) -> None:
        headers = {"Idempotency-Key": key} if self.keyed else {}
        end = time.monotonic() + 4 * DEADLINE_S
        while time.monotonic() < end:
            if not (ports := self.ports()):
                await asyncio.sleep(0.01)
                continue
            turn += 1
            port = ports[turn % len(ports)]
            connection = connections.setdefault(port, Connection(HOST, port))
            try:
                answer = await connection.ask("PUT", f"/kv/{key}", b"v", headers,
                                              within_s=DEADLINE_S)
            except NotSent:
                await asyncio.sleep(0.01)
                continue
            except (OSError, TimeoutError):
                if self.keyed:
                    self.told.repeated += 1
                    continue
                self.told.doubtful.append(key)
                return
            if not self.is_repeated(answer):
                self.take(key, answer)
                return
        self.told.failed["no answer in time"] += 1

    def is_repeated(self, answer: Answer) -> bool:
        again = code_of(answer) == "not_proposed" or (self.keyed and answer.status in (502, 504))
        self.told.repeated += again
        return again

    def take(self, key: str, answer: Answer) -> None:
        if answer.status == 200:
            self.told.revisions.append(int(json.loads(answer.body)["revision"]))
            self.told.times.append(time.monotonic())
        else:
            self.told.failed[f"{answer.status} {code_of(answer)}"] += 1


def code_of(answer: Answer) -> str:
    if answer.headers.get("content-type") != "application/problem+json":
        return ""
    return str(json.loads(answer.body)["code"])
