"""Clients that write all the time and know what was acknowledged, and readers that look for it.

It decides what counts as acknowledged (an answer 200 that arrived) and what a key may hold then:
the last acknowledged value, or the one whose answer never came; that key is not written again, so
that a late one replaces nothing. It knows nothing of faults or nodes but their addresses.
"""

import asyncio
import contextlib
import hashlib
import json
import time
from collections import deque
from dataclasses import dataclass, field
from random import Random

from tests.chaos.http import Connection, NotSent

CLIENTS = 10
SLOTS = 40                  # keys of a client that are written in turns
BYTES = 3000                # of a value: segments of 1 MiB are full soon
KEPT = 64                   # acknowledged writes of one key that are remembered
GIVE_UP_S = 2.0
BACK_OFF_S = (0.01, 0.05)   # after a failure
READERS = 12
READ_S = 5.0


@dataclass
class Key:
    """What was written to a key. Numbers grow; 0: nothing."""

    name: str
    acknowledged: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=KEPT))
    unknown: int = 0        # written, and no answer came

    @property
    def last(self) -> int:
        return self.acknowledged[-1][0] if self.acknowledged else 0


def value_of(name: str, number: int) -> bytes:
    return f"{number} {name} ".encode().ljust(BYTES, b".")


@dataclass(frozen=True)
class Loss:
    """A key that does not hold what was acknowledged, and when the first of that was."""

    key: str
    holds: int
    acknowledged: int
    first_ns: int

    def __str__(self) -> str:
        return f"{self.key} holds write {self.holds}, acknowledged was {self.acknowledged}"


class Load:
    """Closed loops over all nodes. `at`: host and port of each."""

    def __init__(self, at: dict[int, tuple[str, int]], seed: int) -> None:
        self.at = at
        self.rng = Random(f"load {seed}")
        self.keys: dict[str, Key] = {}
        self.fresh: set[str] = set()        # written since they were last looked at
        self.acknowledged = 0
        self.last_ns = 0                    # of the newest acknowledgement
        self.tasks: list[asyncio.Task[None]] = []
        self.written = [0] * CLIENTS        # by each client, also before a stop
        self.given_up = [[0] * SLOTS for _ in range(CLIENTS)]

    def start(self) -> None:
        self.tasks = [asyncio.create_task(self.client(n)) for n in range(CLIENTS)]

    async def stop(self) -> None:
        """Ends all clients: what is under way then has no known outcome."""
        for task in self.tasks:
            task.cancel()
        for task in self.tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.tasks = []

    async def more(self, count: int, within_s: float) -> bool:
        """Waits until so many more writes are acknowledged."""
        goal, deadline = self.acknowledged + count, time.monotonic() + within_s
        while self.acknowledged < goal:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.005)
        return True

    # ------------------------------------------------------------------------------- writing
    async def client(self, number: int) -> None:
        connections = {i: Connection(*at) for i, at in self.at.items()}
        given_up = self.given_up[number]
        try:
            while True:
                self.written[number] += 1
                slot = self.written[number] % SLOTS
                name = f"c{number}-{slot}-{given_up[slot]}"
                key = self.keys.setdefault(name, Key(name))
                given_up[slot] += 1         # unless it is told: a client may end in between
                if await self.write(connections[self.rng.choice(list(connections))], key,
                                    self.written[number]):
                    given_up[slot] -= 1
        finally:
            for connection in connections.values():
                connection.close()

    async def write(self, connection: Connection, key: Key, number: int) -> bool:
        """False: nobody knows whether it was written."""
        self.fresh.add(key.name)
        key.unknown = number
        try:
            answer = await connection.ask("PUT", f"/kv/{key.name}", value_of(key.name, number),
                                          within_s=GIVE_UP_S)
        except NotSent:
            key.unknown = 0
        except (OSError, TimeoutError):
            pass
        else:
            if answer.status == 200:
                self.acknowledged += 1
                self.last_ns = time.monotonic_ns()
                key.acknowledged.append((number, self.last_ns))
                key.unknown = 0
                return True
            if json.loads(answer.body)["code"] in ("not_proposed", "overloaded", "no_space"):
                key.unknown = 0
        await asyncio.sleep(self.rng.uniform(*BACK_OFF_S))
        return not key.unknown

    # ------------------------------------------------------------------------------- reading
    async def losses(self, names: list[str], within_s: float) -> list[Loss]:
        """Which of these keys do not hold what was acknowledged before this was called; they are
        read linearizably. Raises TimeoutError where nobody answers."""
        known = {name: (self.keys[name].last, list(self.keys[name].acknowledged))
                 for name in names}
        found: list[Loss] = []

        def judge(name: str, value: bytes) -> None:
            last, acknowledged = known[name]
            holds = int(value.partition(b" ")[0] or 0)
            if holds and value != value_of(name, holds):
                raise ValueError(f"{name} holds what nobody wrote to it")
            if holds < last:                # a later one may have come meanwhile
                first = next(ns for number, ns in acknowledged if number > holds)
                found.append(Loss(name, holds, last, first))

        await self.read_all(names, list(self.at), "linearizable", judge, within_s)
        return found

    async def digest(self, node: int, within_s: float) -> str:
        """One hash of all keys as this node holds them."""
        held: dict[str, bytes] = {}
        await self.read_all(list(self.keys), [node], "eventual", held.__setitem__, within_s)
        return hashlib.sha256(repr(sorted(held.items())).encode()).hexdigest()[:16]

    async def read_all(self, names, nodes, policy, tell, within_s: float) -> None:
        waiting = deque(names)

        async def reader() -> None:
            connections = [Connection(*self.at[i]) for i in nodes]
            try:
                while waiting:
                    name = waiting.popleft()
                    tell(name, await read(self.rng.choice(connections), name, policy))
            finally:
                for connection in connections:
                    connection.close()

        async def read(connection: Connection, name: str, policy: str) -> bytes:
            while True:                     # an election may be under way
                with contextlib.suppress(OSError, TimeoutError):
                    answer = await connection.ask(
                        "GET", f"/kv/{name}?consistency={policy}",
                        headers={"Accept": "application/octet-stream"}, within_s=READ_S)
                    if answer.status in (200, 404):
                        return answer.body if answer.status == 200 else b""
                await asyncio.sleep(0.02)

        async with asyncio.timeout(within_s), asyncio.TaskGroup() as group:
            for _ in range(READERS):
                group.create_task(reader())

    def forget(self, losses: list[Loss]) -> None:
        """What was lost, as it may be, is not looked for again."""
        for loss in losses:
            key = self.keys[loss.key]
            while key.acknowledged and key.acknowledged[-1][0] > loss.holds:
                key.acknowledged.pop()
