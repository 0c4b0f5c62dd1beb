"""The shipped proxy configurations, run by the real servers.

Before fake nodes that record what reaches them: which node gets what, and what is sent twice.
Before three real nodes: the leader dies, reading and writing go on. Without the binary a test is
skipped, or fails where DENGINE_CI=1 says that it must be there.
"""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Self

import pytest

from tests.cluster import ROOT, Answer, Cluster, eventually, free_ports, get, put, request

SHIPPED = [8081, 8082, 8083, 10001, 10002, 10003]
FRONT = {"nginx": 8080, "haproxy": 8090}
FAILOVER_S = 5.0
WRITES = ("POST", "PUT", "DELETE")
proxies = pytest.mark.parametrize("name", ["nginx", "haproxy"])


@contextmanager
def proxy(name: str, ports: list[int], folder: Path) -> Iterator[int]:
    """Runs the shipped configuration before `ports` (as SHIPPED); yields the port in front."""
    binary = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if binary is None:
        missing = f"{name} is not installed (apt install {name})"
        if os.environ.get("DENGINE_CI") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    (front,) = free_ports(1)
    source = ROOT / "config" / {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[name]
    text = source.read_text()
    for old, new in zip([FRONT[name], *SHIPPED], [front, *ports], strict=True):
        text = re.sub(rf"\b{old}\b", str(new), text)
    config = folder / source.name
    config.write_text(text)
    (folder / "logs").mkdir()
    command = {
        "nginx": [binary, "-p", str(folder), "-c", str(config), "-e", "stderr"],
        "haproxy": [binary, "-f", str(config)],
    }[name]
    process = subprocess.Popen(command)
    try:
        eventually(f"{name} listens", lambda: request(front, "GET", "/kv/none").status, 5.0)
        yield front
        assert process.poll() is None, f"{name} ended with {process.returncode}"
    finally:
        process.terminate()
        try:
            process.wait(5.0)
        finally:
            process.kill()
            process.wait()


class FakeNode:
    """A business port that records what reaches it, and a health port: 200 for the paths in `up`.
    With `drop` set it reads a request and closes the connection: the outcome is unknown. `keys`:
    the Idempotency-Keys of all requests."""

    def __init__(self, kv_port: int, health_port: int) -> None:
        self.ports = {kv_port: self._kv, health_port: self._health}
        self.up = {"/health", "/ready"}
        self.drop = False
        self.seen: list[str] = []
        self.keys: list[str] = []
        self.servers: list[asyncio.Server] = []
        self.open: set[asyncio.StreamWriter] = set()

    def _kv(self, line: str) -> int:
        self.seen.append(line)
        return 0 if self.drop else 200

    def _health(self, line: str) -> int:
        return 200 if line.split()[1] in self.up else 503

    async def start(self) -> None:
        for port, answer in self.ports.items():
            serve = partial(self._serve, answer)
            self.servers.append(await asyncio.start_server(serve, "127.0.0.1", port))

    async def stop(self) -> None:
        """As a killed process: its ports refuse, its connections are reset."""
        for server in self.servers:
            server.close()
        self.servers.clear()
        for writer in self.open:
            writer.transport.abort()

    async def _serve(
        self,
        answer: Callable[[str], int],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.open.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = re.search(r"content-length: (\d+)", head, re.I)
                self.keys += re.findall(r"^idempotency-key: (.+)\r$", head, re.I | re.M)
                await reader.readexactly(int(length[1]) if length else 0)
                if not (status := answer(head.split("\r\n", 1)[0])):
                    break
                writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % status)
        except (EOFError, OSError):
            pass
        finally:
            self.open.discard(writer)
            writer.close()


class FakeCluster:
    """Three fake nodes on a loop in a thread of their own. Node 1 starts as the primary."""

    def __init__(self) -> None:
        self.ports = free_ports(6)
        self.nodes = [FakeNode(*pair) for pair in zip(self.ports[:3], self.ports[3:], strict=True)]
        self.nodes[0].up.add("/primary")
        self.loop = asyncio.new_event_loop()
        self.thread = Thread(target=self.loop.run_forever)

    def _run(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(5.0)

    def __enter__(self) -> Self:
        self.thread.start()
        for node in self.nodes:
            self._run(node.start())
        return self

    def __exit__(self, *_: object) -> None:
        for i in range(3):
            self.kill(i)
        self._run(asyncio.sleep(0.05))      # the handlers see their connections end
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def kill(self, i: int) -> None:
        self._run(self.nodes[i].stop())

    def seen(self, method: str) -> list[int]:
        """How many requests of this method each node got, but for those that ask for /kv/none."""
        return [
            sum(line.startswith(method) and "/kv/none " not in line for line in node.seen)
            for node in self.nodes
        ]


@pytest.fixture
def fakes() -> Iterator[FakeCluster]:
    with FakeCluster() as cluster:
        yield cluster


def write(front: int, method: str) -> Answer:
    return request(front, method, "/kv" if method == "POST" else "/kv/a", b"x")


# ---------------------------------------------------------------- before fake nodes
@proxies
def test_reads_reach_every_node(name: str, fakes: FakeCluster, tmp_path: Path) -> None:
    with proxy(name, fakes.ports, tmp_path) as front:
        assert {get(front, "a").status for _ in range(30)} == {200}
    assert min(fakes.seen("GET")) > 0


def test_nginx_shares_writes_among_all(fakes: FakeCluster, tmp_path: Path) -> None:
    with proxy("nginx", fakes.ports, tmp_path) as front:
        for method in WRITES:
            assert {write(front, method).status for _ in range(9)} == {200}
            assert min(fakes.seen(method)) > 0


def test_haproxy_sends_writes_to_the_primary(fakes: FakeCluster, tmp_path: Path) -> None:
    with proxy("haproxy", fakes.ports, tmp_path) as front:
        eventually("node 2 and 3 are known as replicas", lambda: settled(front, fakes, 0), 5.0)
        fakes.nodes[0].up.discard("/primary")
        fakes.nodes[2].up.add("/primary")
        eventually("node 3 is known as the primary", lambda: settled(front, fakes, 2), 5.0)


def settled(front: int, fakes: FakeCluster, primary: int) -> bool:
    """Do twelve writes in a row all go to this node?"""
    before = fakes.seen("PUT")[primary]
    assert {write(front, "PUT").status for _ in range(12)} == {200}
    return fakes.seen("PUT")[primary] == before + 12


def test_haproxy_without_primary_or_ready_node(fakes: FakeCluster, tmp_path: Path) -> None:
    """In an election writes go to any living node, which waits for the leader; and so do reads:
    an eventual one needs no leader."""
    for node in fakes.nodes:
        node.up = {"/health"}
    with proxy("haproxy", fakes.ports, tmp_path) as front:
        for method in ("GET", *WRITES):
            assert {write(front, method).status for _ in range(9)} == {200}


@proxies
@pytest.mark.parametrize("method", WRITES)
def test_a_write_that_was_sent_is_sent_again_under_its_key(
    name: str, method: str, fakes: FakeCluster, tmp_path: Path
) -> None:
    def keys() -> list[str]:
        found = [key for node in fakes.nodes for key in node.keys]
        for node in fakes.nodes:
            node.keys.clear()
        return found

    path = "/kv" if method == "POST" else "/kv/a"
    with proxy(name, fakes.ports, tmp_path) as front:
        keys()
        assert {write(front, method).status for _ in range(3)} == {200}
        assert len(set(keys())) == 3, "each request has its own"
        assert request(front, method, path, b"x", {"Idempotency-Key": "mine"}).status == 200
        assert keys() == ["mine"]
        for node in fakes.nodes:
            node.drop = True
        assert write(front, method).status == 502
    sent = keys()
    assert len(sent) >= 3
    assert len(set(sent)) == 1, "one for all attempts"


@proxies
@pytest.mark.parametrize("method", ["GET", *WRITES])
def test_a_dead_node_is_hidden(
    name: str, method: str, fakes: FakeCluster, tmp_path: Path
) -> None:
    """The next node gets the request."""
    with proxy(name, fakes.ports, tmp_path) as front:
        fakes.kill(0)
        statuses = [write(front, method).status for _ in range(12)]
    assert statuses == [200] * 12


@proxies
def test_keys_pass_untouched(name: str, fakes: FakeCluster, tmp_path: Path) -> None:
    long = "%FF" * 4096
    with proxy(name, fakes.ports, tmp_path) as front:
        for path in ("/kv/a%2Fb%20c", "/kv/a//b/../c", f"/kv/{long}?consistency=eventual"):
            for method in ("GET", "PUT"):
                assert request(front, method, path, b"").status == 200
                assert any(f"{method} {path} HTTP/1.1" in node.seen for node in fakes.nodes)


@proxies
def test_large_bodies(name: str, fakes: FakeCluster, tmp_path: Path) -> None:
    with proxy(name, fakes.ports, tmp_path) as front:
        assert request(front, "PUT", "/kv/a", bytes(1536 * 1024)).status == 200


# ---------------------------------------------------------------- before three real nodes
@proxies
def test_killing_the_leader(name: str, tmp_path: Path) -> None:
    with Cluster(tmp_path / "nodes") as cluster:
        nodes = cluster.nodes.values()
        ports = [n.http for n in nodes] + [n.health for n in nodes]
        with proxy(name, ports, tmp_path) as front:
            for i in range(30):
                assert put(front, f"k{i}", f"v{i}").status == 200
                assert get(front, f"k{i}").json == {"value": f"v{i}"}
            cluster.kill(cluster.wait_leader())
            assert put(front, "after", "1").status == 200, "it waits for the next leader"
            for i in range(30):
                assert get(front, f"k{i}").json == {"value": f"v{i}"}
                assert put(front, f"k{i}", "new").status == 200
            assert get(front, "after").json == {"value": "1"}
