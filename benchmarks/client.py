"""The load generator for HTTP: `wrk` where it is installed, else the client in this file.

A closed loop: each connection sends its next request when it has read the last one's answer. The
bundled client builds all requests before it starts and reads only status and length of an answer;
it runs on one core and may limit a fast server: wrk is up to a fifth faster. `--keys` keys of 8
bytes are visited in a fixed, scattered order.
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import cast

import uvloop

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from benchmarks.common import Figure

STRIDE = 7919           # a prime: visits all keys, not in the order in which they were inserted
GRACE_S = 30.0          # to start, connect and print; a load generator that needs longer is ended
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Load:
    """What is asked of a node: `op` is put, linearizable, lease or eventual."""

    op: str
    clients: int
    seconds: float
    keys: int = 10_000
    value_bytes: int = 256
    rate: float = 0.0           # of an open loop, a second; 0: a closed one

    @property
    def method(self) -> str:
        return "POST" if self.op == "put" else "GET"

    @property
    def value(self) -> str:
        return ("dengine-" * (self.value_bytes // 8 + 1))[: self.value_bytes]

    def path(self, key: str) -> str:
        return "/kv" if self.op == "put" else f"/kv/{key}?consistency={self.op}"

    def body(self, key: str) -> str:
        return f'{{"key":"{key}","value":"{self.value}"}}' if self.op == "put" else ""

    def names(self) -> Iterator[str]:
        """Each key once."""
        return (f"k{i * STRIDE % self.keys:07d}" for i in range(self.keys))

    def requests(self) -> list[bytes]:
        return [
            f"{self.method} {self.path(key)} HTTP/1.1\r\nHost: {HOST}\r\n"
            f"Content-Type: application/json\r\n"
            f"Content-Length: {len(self.body(key))}\r\n\r\n{self.body(key)}".encode()
            for key in self.names()
        ]


# ---------------------------------------------------------------- which generator
def name() -> str:
    return "wrk" if shutil.which("wrk") else "the bundled client (wrk is not installed)"


def measure(port: int, load: Load) -> Figure:
    """Runs the generator in a process of its own."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        if wrk := shutil.which("wrk"):
            script.write(lua(load))
            script.flush()
            command = [wrk, "-t1", f"-c{load.clients}", f"-d{max(1, round(load.seconds))}s",
                       "--timeout", "10s", "-s", script.name, f"http://{HOST}:{port}"]
        else:
            command = bundled(Path(__file__), port, load)
        return measured(command, load)


def bundled(script: Path, port: int, load: Load) -> list[str]:
    """The command that runs a generator in Python."""
    options = (f"--{k.replace('_', '-')}={v}" for k, v in asdict(load).items() if k != "rate")
    return [sys.executable, str(script), f"--port={port}", *options]


def measured(command: list[str], load: Load) -> Figure:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=load.seconds + GRACE_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-1000:]}")
    return Figure(**json.loads(done.stdout.splitlines()[-1]))


def lua(load: Load) -> str:
    """wrk's script: prepared requests in, one line of JSON out. Times are in microseconds."""
    return f"""
local requests, at = {{}}, 0
function init(arguments)
  for i = 0, {load.keys} - 1 do
    local key = string.format("k%07d", i * {STRIDE} % {load.keys})
    requests[i] = wrk.format("{load.method}", {_lua(load.path("KEY"))},
                             {{["Content-Type"] = "application/json"}}, {_lua(load.body("KEY"))})
  end
end
function request()
  at = (at + 1) % {load.keys}
  return requests[at]
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{{"requests":%d,"errors":%d,"seconds":%f,"p50_us":%f,"p99_us":%f,"max_us":%f}}\\n',
    summary.requests, e.connect + e.read + e.write + e.status + e.timeout,
    summary.duration / 1e6, latency:percentile(50), latency:percentile(99), latency.max))
end
"""


def _lua(template: str) -> str:
    """A Lua expression for the text, KEY replaced by the variable."""
    return " .. key .. ".join(f"'{part}'" for part in template.split("KEY")) if template else "nil"


# ---------------------------------------------------------------- the bundled client
class Loop:
    """The state that all connections share."""

    def __init__(self, requests: Iterator[bytes], connections: int) -> None:
        self.requests = requests
        self.latencies = array("Q")             # nanoseconds
        self.errors = 0
        self.stopped = False
        self.open = connections
        self.closed = asyncio.get_running_loop().create_future()


class Connection(asyncio.Protocol):
    """One request at a time, until the loop stops or the requests end."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.pending = b""
        self.began = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.send()

    def send(self) -> None:
        request = None if self.loop.stopped else next(self.loop.requests, None)
        if request is None:
            self.began = 0
            self.transport.close()
        else:
            self.began = time.perf_counter_ns()
            self.transport.write(self.prepared(request))

    def prepared(self, request: bytes) -> bytes:
        """As it goes out on this connection."""
        return request

    def data_received(self, data: bytes) -> None:
        if self.pending:
            data = self.pending + data
        end = data.find(b"\r\n\r\n")
        if end < 0 or len(data) < end + 4 + body_bytes(data, end):
            self.pending = data
            return
        self.pending = b""
        self.answered(data)

    def answered(self, data: bytes) -> None:
        self.completed(data[9] == 0x32)         # the status of "HTTP/1.1 2xx"

    def completed(self, well: bool) -> None:
        self.loop.latencies.append(time.perf_counter_ns() - self.began)
        self.loop.errors += not well
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        self.loop.errors += self.began != 0     # a request was under way
        self.loop.open -= 1
        if not self.loop.open:
            self.loop.closed.set_result(None)


def body_bytes(data: bytes, end: int) -> int:
    at = data.lower().find(b"content-length:", 0, end)
    return int(data[at + 15 : data.index(b"\r", at)]) if at >= 0 else 0


async def drive(port: int, clients: int, requests: Iterator[bytes], seconds: float,
                protocol: Callable[[Loop], Connection] = Connection) -> Figure:
    """`clients` connections share the requests, for at most `seconds`."""
    running = asyncio.get_running_loop()
    loop = Loop(requests, clients)
    began = time.perf_counter()
    connect = partial(running.create_connection, lambda: protocol(loop), HOST, port)
    await asyncio.gather(*(connect() for _ in range(clients)))
    running.call_later(seconds, setattr, loop, "stopped", True)
    await asyncio.wait_for(loop.closed, seconds + GRACE_S / 2)
    return Figure.of(loop.latencies, time.perf_counter() - began, loop.errors)


def preload(port: int, load: Load, clients: int = 64, seconds: float = 60.0) -> None:
    """Puts every key once."""
    requests = Load("put", clients, seconds, load.keys, load.value_bytes).requests()
    figure = uvloop.run(drive(port, clients, iter(requests), seconds))
    if figure.errors or figure.requests < load.keys:
        raise RuntimeError(f"preload: {figure.requests} of {load.keys}, {figure.errors} errors")


def run(protocol: Callable[[Loop], Connection],
        requests: Callable[[Load], Iterable[bytes]]) -> None:
    parser = argparse.ArgumentParser(description="A closed loop; prints one line of JSON.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--op", default="put")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--value-bytes", type=int, default=256)
    options = vars(parser.parse_args())
    port = options.pop("port")
    load = Load(**options)
    print(json.dumps(asdict(uvloop.run(
        drive(port, load.clients, cycle(requests(load)), load.seconds, protocol)))))


if __name__ == "__main__":
    run(Connection, Load.requests)
