"""The health port, and the order of starting and stopping around both ports."""
import asyncio
import os
import signal
import socket
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from dengine import server as serving_module
from dengine.errors import RequestError, StorageError
from dengine.http.health import Health
from tests.http.harness import Client, Server, get, request, serving
from tests.sim.fake_turn import FakeTurn


class FakeNode:
    """Answers what the health port asks; fails when told to."""

    def __init__(self, config: object = None, loop: object = None) -> None:
        self.role = "leader"
        self.turn = FakeTurn()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = False

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True

    def is_primary(self) -> bool:
        return self.role == "leader"

    def is_replica(self) -> bool:
        return self.role == "follower"

    def is_ready(self) -> bool:
        return True

    async def take_snapshot(self) -> None:
        raise StorageError("no room")

    async def transfer(self, to: int = 0) -> int:
        raise RequestError(f"node {to} is no voter")

    def overview(self) -> dict[str, object]:
        return self.status() | {"members": [], "events": []}

    async def hand_over(self) -> None:
        pass

    def newest_snapshot(self) -> str:
        return ""

    def status(self) -> dict[str, object]:
        return {
            "node_id": 1, "role": self.role, "term": 7, "leader": 1, "commit": 9, "applied": 8,
            "first": 1, "last": 9, "snapshot": 0, "recovering": False, "disk_full": False,
            "lease_ms": 400, "counters": {"turns": 3}}


def test_paths() -> None:
    async def test(server: Server) -> None:
        node = FakeNode()
        server.http.requests()
        health = Health(node, server.http)

        async def ask(data: bytes, *, bare: bool = False) -> Any:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(health, ours)
            client = Client(*await asyncio.open_connection(sock=theirs))
            answer = await client.ask(data, bare=bare)
            assert await client.rest() == b""
            client.writer.transport.abort()
            return answer

        assert (await ask(get(b"/primary"))).status == 200
        assert (await ask(get(b"/replica"))).status == 503
        node.role = "follower"
        assert (await ask(get(b"/primary"))).status == 503
        assert (await ask(get(b"/replica"))).json["term"] == 7
        assert (await ask(request(b"HEAD", b"/health"), bare=True)).status == 200
        assert (await ask(b"GET /ready HTTP/1.0\r\n\r\n")).status == 200
        metrics = (await ask(get(b"/metrics"))).body.decode()
        assert 'dengine_role{role="follower"} 1.0' in metrics
        refused = await ask(request(b"POST", b"/admin/snapshot"))
        assert (refused.status, refused.json["code"]) == (503, "no_snapshot")
        assert refused.json["detail"] == "no room"
        assert "POST" in (await ask(get(b"/admin/snapshot"))).json["detail"]
        assert (await ask(get(b"/admin/status"))).json["events"] == []
        for to in (b"", b"?to=7"):
            refused = await ask(request(b"POST", b"/admin/transfer" + to))
            assert (refused.status, refused.json["code"]) == (400, "bad_transfer")
        for target in (b"/admin/transfer?to=x", b"/admin/transfer?to=-1", b"/admin/transfers"):
            assert (await ask(request(b"POST", target))).status == 404
        assert "dengine_lag 1.0" in metrics
        assert "dengine_turns_total 3.0" in metrics
        assert (await ask(get(b"/x"))).code == "not_found"
        assert (await ask(request(b"POST", b"/primary"))).code == "method_not_allowed"
        assert (await ask(b"GET /primary HTTP/1.1\r\n\r\n")).code == "bad_host"
        assert (await ask(get(b"/primary", b"A: " + b"x" * 9000))).code == "headers_too_large"
        assert (await ask(b"\x16\x03\x01")).code == "bad_request"
        health.stopping = True
        assert (await ask(get(b"/replica"))).status == 503
        assert (await ask(get(b"/health"))).status == 200
        health.close()

    serving(test)


def configuration(port: int = 0) -> Any:
    return SimpleNamespace(
        cluster=SimpleNamespace(node_id=1, me=SimpleNamespace(role=1)),
        raft=SimpleNamespace(read_consistency=SimpleNamespace(default_policy="EventualRead")),
        limits=SimpleNamespace(key_bytes=4096, value_bytes=1 << 20),
        http=SimpleNamespace(
            host="127.0.0.1", port=port, health_port=0, request_timeout_ms=5000,
            idle_timeout_ms=60000, header_timeout_ms=10000, max_connections=10, max_pipeline=64,
            max_line_bytes=8192, max_header_bytes=8192, max_headers=64, max_body_bytes=1 << 20))


def serve(monkeypatch: pytest.MonkeyPatch, act: Any, config: Any = None) -> tuple[int, Any]:
    """Runs `serve` and `act` beside it, which gets the node and the bound port."""
    nodes: list[FakeNode] = []

    def make(config: object, loop: object, *, to_join: int) -> FakeNode:
        nodes.append(FakeNode())
        return nodes[0]

    ports: list[int] = []
    listen = serving_module.listen

    def remember(*args: Any) -> socket.socket:
        made = listen(*args)
        ports.append(made.getsockname()[1])
        return made

    monkeypatch.setattr(serving_module, "Node", make)
    monkeypatch.setattr(serving_module, "listen", remember)

    async def run() -> int:
        served = asyncio.ensure_future(serving_module.serve(config or configuration()))
        if act is not None:
            while not ports:                # noqa: ASYNC110 - each pass is one turn of the loop
                await asyncio.sleep(0)
            client = Client(*await asyncio.open_connection("127.0.0.1", ports[0]))
            await act(nodes[0], client)
            assert await client.rest() == b""
            client.writer.close()
        return await asyncio.wait_for(served, 20)

    return uvloop.run(run()), nodes[0] if nodes else None


def test_graceful_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(node: FakeNode, client: Client) -> None:
        assert (await client.ask(request(b"PUT", b"/kv/k", body=b"v"))).json == {"revision": 1}
        node.turn.hold = True
        client.send(request(b"PUT", b"/kv/k", body=b"v"))
        while not node.turn.submitted:      # noqa: ASYNC110 - each pass is one turn of the loop
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await client.turns(20)
        node.turn.release()
        assert (await client.answer()).json == {"revision": 2}

    status, node = serve(monkeypatch, act)
    assert status == 0
    assert node.closed


def test_second_signal_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(node: FakeNode, client: Client) -> None:
        assert (await client.ask(get(b"/kv/k"))).status == 404
        node.turn.hold = True
        client.send(request(b"PUT", b"/kv/k", body=b"v"))
        while not node.turn.submitted:      # noqa: ASYNC110 - each pass is one turn of the loop
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGINT)
        await client.turns(20)
        os.kill(os.getpid(), signal.SIGINT)

    assert serve(monkeypatch, act)[0] == 0


def test_fatal_error(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def act(node: FakeNode, client: Client) -> None:
        assert (await client.ask(get(b"/kv/k"))).status == 404
        node.failed.set_exception(StorageError("the disk failed a sync"))

    assert serve(monkeypatch, act)[0] == 1
    lines = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert lines == ["the disk failed a sync"]


def test_taken_port(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve(monkeypatch, None, configuration(port))[0] == 1
    message = caplog.text
    assert f"port {port}" in message
    assert "--port" in message
    assert "http.port" in message
