"""An HttpServer over socketpairs in the running loop, and a client that reads one answer at a time.

It decides how a test speaks to the server; the store behind it is `FakeTurn`.
"""
import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from dengine._core.http import HttpServer
from tests.sim.fake_turn import FakeTurn

PATIENCE_S = 10             # a test that waits longer has failed
HOST = b"Host: x\r\n"


class Answer:
    """One answer: status, headers by lower-case name, body."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The code of a problem; None: not a problem."""
        if self.headers.get("content-type") != "application/problem+json":
            return None
        assert self.json["status"] == self.status
        return str(self.json["code"])


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def ask(self, data: bytes, *, bare: bool = False) -> Answer:
        self.send(data)
        return await self.answer(bare=bare)

    async def answer(self, *, bare: bool = False) -> Answer:
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:-2])
            status = int(head[0].split()[1])
            size = 0 if bare or status == 100 else int(headers["content-length"])
            return Answer(status, headers, await self.reader.readexactly(size))

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def turns(self, n: int = 4) -> None:
        """Lets the loop deliver what was sent."""
        for _ in range(n):
            await asyncio.sleep(0)


class Server:
    def __init__(self, **limits: int) -> None:
        self.turn = FakeTurn()
        self.turn.put(b"a", b"one")
        self.http = HttpServer(self.turn, **{"default_policy": 2, **limits})
        self.failures: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: self.failures.append(context))

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self.http, ours)
        client = Client(*await asyncio.open_connection(sock=theirs))
        try:
            yield client
        finally:
            client.writer.transport.abort()

    async def eventually(self, holds: Callable[[], bool]) -> None:
        """Runs the loop until it holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():          # noqa: ASYNC110 - each pass is one turn of the loop
                await asyncio.sleep(0)


def serving(test: Callable[[Server], Awaitable[None]], **limits: int) -> None:
    """Runs one test against a fresh server; fails if anything reached the loop's handler."""

    async def run() -> None:
        server = Server(**limits)
        try:
            await test(server)
        finally:
            server.http.close()
            await server.eventually(lambda: server.http.connections == 0)
        assert not server.failures

    uvloop.run(run())


def get(path: bytes, *headers: bytes) -> bytes:
    return request(b"GET", path, *headers)


def request(method: bytes, path: bytes, *headers: bytes, body: bytes | None = None) -> bytes:
    """A complete HTTP/1.1 request."""
    lines = [b"%s %s HTTP/1.1" % (method, path), b"Host: x", *headers]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body or b""])
