"""Real `dengine serve` processes on free ports, for tests and benchmarks.

    with Cluster(tmp_path) as cluster:
        leader = cluster.wait_leader()
        assert cluster.put(leader, "k", "v").status == 200
        cluster.kill(leader)

Decides how nodes are configured, started, awaited and ended. It knows a node only by what a user
sees: its configuration file, its ports and its process. Nodes are numbered by id, from 1. Every
wait has a deadline; a failure inside the `with` prints the end of each node's log.
"""

import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
POLL_S = 0.01
START_S = 15.0          # importing Python on a busy machine, then an election
STOP_S = 10.0
LOG_LINES = 40          # of each node, shown when a test fails
T = TypeVar("T")


def eventually(what: str, probe: Callable[[], T], seconds: float) -> T:
    """Polls until `probe` returns something true, and returns it."""
    deadline = time.monotonic() + seconds
    while not (value := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(POLL_S)
    return value


@dataclass(frozen=True)
class Answer:
    """One HTTP response. `status` is 0 where the connection was refused or broke."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 10.0,
) -> Answer:
    """One request on a connection of its own; a broken connection is an answer too."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    except (OSError, http.client.HTTPException):
        return Answer(0)
    finally:
        connection.close()


def kv_path(key: str) -> str:
    return "/kv/" + quote(key, safe="")


def put(port: int, key: str, value: str, timeout: float = 10.0) -> Answer:
    body = json.dumps({"key": key, "value": value}).encode()
    return request(port, "POST", "/kv", body, {"Content-Type": "application/json"}, timeout)


def get(port: int, key: str, consistency: str | None = None, timeout: float = 10.0) -> Answer:
    query = f"?consistency={consistency}" if consistency else ""
    return request(port, "GET", kv_path(key) + query, timeout=timeout)


_taken: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Ports below the ephemeral range, so that no outgoing connection takes one while its node
    is down, and never the same twice in one process, nor in another that tests beside it."""
    found: list[int] = []
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while len(found) < count:
        port = random.SystemRandom().randrange(15_000 + worker, 32_000, workers)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _taken:
            _taken.add(port)
            found.append(port)
    return found


def toml(value: object) -> str:
    """A TOML value; nested tables inline. JSON's scalars are TOML's too."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(toml(v) for v in value) + "]"
    return json.dumps(value)


def shipped_with(settings: Mapping[str, object]) -> str:
    """The shipped configuration with other values, each named by its dotted path."""
    config = tomllib.loads((ROOT / "config" / "n1.toml").read_text())
    for path, value in settings.items():
        *sections, key = path.split(".")
        table = config
        for section in sections:
            table = table.setdefault(section, {})
        table[key] = value
    return "".join(f"{section} = {toml(table)}\n" for section, table in config.items())


@dataclass
class Node:
    """One node: its ports, its files and, while it runs, its process."""

    id: int
    http: int
    health: int
    raft: int
    directory: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def config(self) -> Path:
        return self.directory / "node.toml"

    @property
    def data(self) -> Path:
        return self.directory / "db"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Cluster:
    """`n` nodes under `root`. `settings` go into each file: {"http.request_timeout_ms": 500}."""

    def __init__(
        self,
        root: Path,
        n: int = 3,
        strategy: str = "MemFirst",
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.root, self.settings = root, dict(settings or {})
        if strategy != "MemFirst":              # as shipped
            self.settings = {"raft.persistence": {"strategy": strategy}, **self.settings}
        self.nodes: dict[int, Node] = {}
        for i in range(1, n + 1):
            self._make(i)
        for node in self.nodes.values():
            self._write_config(node, self.nodes.values())

    def _make(self, i: int) -> Node:
        self.nodes[i] = node = Node(i, *free_ports(3), self.root / f"n{i}")
        node.directory.mkdir(parents=True)
        return node

    def _write_config(self, node: Node, founders: Iterable[Node], *others: Node) -> None:
        """Of a node that forms the cluster, or is to join it."""
        named = [(n, 1) for n in founders] + [(n, 4) for n in others]
        node.config.write_text(shipped_with({
            "cluster.node_id": node.id,
            "cluster.listen_address": f"127.0.0.1:{node.raft}",
            "cluster.initial_cluster": [
                {"id": n.id, "address": f"127.0.0.1:{n.raft}", "role": role, "status": 3}
                for n, role in named],
            "cluster.db_root_dir": str(node.data),
            "http.port": node.http,
            "http.health_port": node.health,
            **self.settings,
        }))

    def join(self, i: int) -> Node:
        """The files of a node that is to be taken in, or again; it is not started."""
        founders = [node for node in self.nodes.values() if node.id != i]
        node = self.nodes[i] if i in self.nodes else self._make(i)
        self._write_config(node, founders, node)
        return node

    # ------------------------------------------------------------ processes
    def __enter__(self) -> Self:
        try:
            self.start(*self.nodes)
            self.wait_leader()
        except BaseException:
            self.print_logs()
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.print_logs()
        self.stop()

    def spawn(self, i: int) -> "subprocess.Popen[bytes]":
        """A process on node i's configuration, its output in node i's log."""
        node = self.nodes[i]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DENGINE__")}
        environment["PYTHONPATH"] = str(ROOT)
        command = [sys.executable, "-m", "dengine", "serve", "--config-path", str(node.config)]
        with node.log.open("ab") as log:
            return subprocess.Popen(
                command, cwd=node.directory, env=environment, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def start(self, *ids: int) -> None:
        """Starts each node and waits until its health port answers."""
        for i in ids:
            assert not self.nodes[i].alive, f"node {i} runs already"
            self.nodes[i].process = self.spawn(i)
        for i in ids:
            probe = partial(self._started, i)
            assert eventually(f"node {i} starts", probe, START_S) == "up", f"node {i} ended"

    restart = start

    def _started(self, i: int) -> str:
        if not self.nodes[i].alive:
            return "ended"
        return "up" if self.health(i) else ""

    def kill(self, *ids: int) -> None:
        """kill -9 of each, all at once, then waits for their ends."""
        for i in ids:
            process = self.nodes[i].process
            assert process is not None
            process.kill()
        for i in ids:
            self._reap(i)

    def terminate(self, i: int) -> int:
        """SIGTERM; returns the exit code."""
        process = self.nodes[i].process
        assert process is not None
        process.terminate()
        return self._reap(i)

    def _reap(self, i: int) -> int:
        node = self.nodes[i]
        assert node.process is not None
        try:
            return node.process.wait(STOP_S)
        finally:
            node.process.kill()
            node.process.wait()
            node.process = None

    def stop(self) -> None:
        """Ends every process: SIGTERM first, SIGKILL for what does not obey in time."""
        running = [node.process for node in self.nodes.values() if node.process]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_S
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for node in self.nodes.values():
            node.process = None

    def print_logs(self) -> None:
        for node in self.nodes.values():
            if node.log.exists():
                with node.log.open(errors="replace") as lines:
                    tail = "".join(deque(lines, LOG_LINES))
                print(f"---- node {node.id}: {node.log}\n{tail}", file=sys.stderr)

    # ------------------------------------------------------------ state
    def alive(self) -> list[int]:
        return [i for i, node in self.nodes.items() if node.alive]

    def check(self, i: int, path: str) -> int:
        """The status of one path of node i's health port; 0: no answer."""
        return request(self.nodes[i].health, "GET", path, timeout=1.0).status

    def health(self, i: int) -> dict[str, Any] | None:
        answer = request(self.nodes[i].health, "GET", "/health", timeout=1.0)
        return answer.json if answer.status == 200 else None

    def metrics(self, i: int) -> dict[str, float]:
        """What node i counts, by name: without labels, `dengine_` and `_total`."""
        text = request(self.nodes[i].health, "GET", "/metrics").body.decode()
        found = re.findall(r"^dengine_(\w+?)(?:_total)? ([\d.e+-]+)$", text, re.M)
        return {name: float(value) for name, value in found}

    def leader(self) -> int | None:
        """The node whose /primary is 200."""
        return next((i for i in self.alive() if self.check(i, "/primary") == 200), None)

    def wait_leader(self, seconds: float = START_S, other_than: Iterable[int] = ()) -> int:
        banned = frozenset(other_than)

        def probe() -> int | None:
            leader = self.leader()
            return None if leader in banned else leader

        return eventually("a leader", probe, seconds)  # type: ignore[return-value]

    def wait_caught_up(self, i: int, seconds: float = START_S) -> None:
        """Until node i has applied what the leader had committed when this was called."""
        leader = self.health(self.wait_leader())
        assert leader is not None
        goal = leader["commit"]
        eventually(
            f"node {i} applies {goal}",
            lambda: (self.health(i) or {}).get("applied", -1) >= goal,
            seconds,
        )

    # ------------------------------------------------------------ requests to node i
    def put(self, i: int, key: str, value: str, timeout: float = 10.0) -> Answer:
        return put(self.nodes[i].http, key, value, timeout)

    def get(
        self, i: int, key: str, consistency: str | None = None, timeout: float = 10.0
    ) -> Answer:
        return get(self.nodes[i].http, key, consistency, timeout)

    def delete(self, i: int, key: str, timeout: float = 10.0) -> Answer:
        return request(self.nodes[i].http, "DELETE", kv_path(key), timeout=timeout)
