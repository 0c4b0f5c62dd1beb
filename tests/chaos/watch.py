"""Watches the health ports of all nodes during a run, every few milliseconds.

    python -m tests.chaos.watch SPEC.json       until SIGTERM

It decides what must hold at every moment whatever the faults are: no two primaries, no term that
falls, `/health` is 200. An answer speaks of some moment between its request and its arrival, so
two answers contradict each other only where one ended before the other began. Which silences are
excused by faults is not known here: all long ones are listed.
"""

import asyncio
import bisect
import json
import signal
import sys
import time
from pathlib import Path

import uvloop

EVERY_S = 0.005
GIVE_UP_S = 0.5
HEALTH_EVERY = 10           # every so often /health is asked, else /primary
SILENCE_S = 0.5             # a longer one is listed
PULSE_S = 0.05              # of this process, to notice that the machine stood still


class Exchange(asyncio.Protocol):
    """One request on a connection of its own; `done` holds all that was answered."""

    def __init__(self, path: str) -> None:
        self.path, self.received = path, bytearray()
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(  # type: ignore[attr-defined]
            f"GET {self.path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(bytes(self.received))


async def ask(host: str, port: int, path: str, within_s: float = GIVE_UP_S) -> tuple[int, dict]:
    """(status, state) of a node; (0, {}) if it does not answer."""
    transport = None
    try:
        async with asyncio.timeout(within_s):
            transport, exchange = await asyncio.get_running_loop().create_connection(
                lambda: Exchange(path), host, port)
            answer = await exchange.done
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)
    except (OSError, TimeoutError, ValueError, IndexError):
        return 0, {}
    finally:
        if transport is not None:
            transport.abort()


class Watch:
    """All samples in their order of arrival, and what contradicts in them."""

    def __init__(self) -> None:
        self.samples = 0
        self.stall_s = 0.0                      # longest time that this process did not run
        self.violations: list[str] = []
        self.falls: list[tuple[int, int, int, int, int]] = []   # node, term, and next; when, in ns
        self.silences: list[tuple[int, int, int]] = []      # node, from, to in ns
        self.heard: dict[int, int] = {}         # node -> when it answered last
        self.terms: dict[int, int] = {}         # node -> its last term
        self.owners: dict[int, int] = {}        # term -> the node that was primary in it
        self.ends: list[int] = []               # when an answer showed a primary of a new term
        self.highest: list[int] = []            # ... and that term

    def take(self, node: int, path: str, status: int, state: dict, sent: int, got: int) -> None:
        self.samples += 1
        before = self.heard.get(node, got)
        self.listen(node, got)
        term = int(state.get("term", 0))
        if term < self.terms.get(node, 0):
            self.falls.append((node, self.terms[node], term, before, got))
        self.terms[node] = term
        if path == "/health" and status != 200:
            self.violations.append(f"/health of node {node} is {status}")
        if path == "/primary" and status == 200:
            self.primary(node, term, sent, got)

    def primary(self, node: int, term: int, sent: int, got: int) -> None:
        if self.owners.setdefault(term, node) != node:
            self.violations.append(
                f"nodes {self.owners[term]} and {node} were both primary in term {term}")
        before = bisect.bisect_left(self.ends, sent) - 1
        if before >= 0 and self.highest[before] > term:
            self.violations.append(
                f"node {node} was primary in term {term} after "
                f"node {self.owners[self.highest[before]]} in term {self.highest[before]}")
        if not self.highest or term > self.highest[-1]:
            self.ends.append(got)
            self.highest.append(term)

    def listen(self, node: int, now: int) -> None:
        since = self.heard.get(node, now)
        if now - since > SILENCE_S * 1e9:
            self.silences.append((node, since, now))
        self.heard[node] = now

    def report(self) -> dict:
        now = time.monotonic_ns()
        for node in self.heard:
            self.listen(node, now)
        return {"samples": self.samples, "violations": self.violations[:50],
                "falls": self.falls,
                "silences": self.silences, "terms": len(self.owners),
                "owners": self.owners, "stall_s": self.stall_s}


async def follow(watch: Watch, node: int, host: str, port: int, end: asyncio.Event) -> None:
    watch.heard[node] = time.monotonic_ns()
    asked = 0
    while not end.is_set():
        asked += 1
        path = "/primary" if asked % HEALTH_EVERY else "/health"
        sent = time.monotonic_ns()
        status, state = await ask(host, port, path)
        if status:
            watch.take(node, path, status, state, sent, time.monotonic_ns())
        await asyncio.sleep(max(0.001, EVERY_S - (time.monotonic_ns() - sent) / 1e9))


async def pulse(watch: Watch, end: asyncio.Event) -> None:
    while not end.is_set():
        begun = time.monotonic()
        await asyncio.sleep(PULSE_S)
        watch.stall_s = max(watch.stall_s, time.monotonic() - begun - PULSE_S)


async def main(spec: dict) -> dict:
    end, watch = asyncio.Event(), Watch()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    print("ready", flush=True)
    await asyncio.gather(pulse(watch, end), *(follow(watch, int(i), host, port, end)
                                              for i, (host, port) in spec["health"].items()))
    return watch.report()


if __name__ == "__main__":
    chosen = json.loads(Path(sys.argv[1]).read_text())
    Path(chosen["watched"]).write_text(json.dumps(uvloop.run(main(chosen))))
