"""The health port: what a load balancer, a supervisor and Prometheus ask.

It decides what each path means; the node knows the answers. One request per connection, small and
quick, so that nobody can keep it busy; but whoever reaches this port may take a backup.
"""
import asyncio
import os
import re
from collections.abc import Callable, Coroutine
from typing import Protocol, cast
from urllib.parse import parse_qs

import httptools
import msgspec

from dengine.errors import Error, OutcomeUnknownError, RequestError
from dengine.http.metrics import CONTENT_TYPE, Metrics, Requests, Status
from dengine.http.problem import Problem, answer, problem

REQUEST_BYTES = 8192        # a whole request; checks are far smaller
CONNECTIONS = 128           # a few checkers, each one connection at a time
TIMEOUT_S = 5.0             # for the whole connection, but for snapshots
PIECE = 1 << 20             # bytes of a snapshot at once
MEMBER = re.compile(rb"/admin/member/(add|promote|remove|replace)\?([^#]{1,400})")
TRANSFER = re.compile(rb"/admin/transfer(?:\?to=([0-9]{1,18}))?")


class Node(Status, Protocol):
    """A node, as far as it is asked here."""

    def is_primary(self) -> bool: ...

    def is_replica(self) -> bool: ...

    def is_ready(self) -> bool: ...

    async def take_snapshot(self) -> None: ...

    def newest_snapshot(self) -> str: ...

    async def transfer(self, to: int = 0) -> int: ...

    async def change_members(self, what: str, node: int, address: str = "", *,
                             promote: bool = False) -> None: ...

    def overview(self) -> dict[str, object]: ...


def number_of(text: str) -> int:
    """The id that is meant. Raises RequestError."""
    if not text.isdecimal() or len(text) > 9:
        raise RequestError(f"id={text} names no node: nothing was changed; give a number")
    return int(text)


class Health:
    """Answers by path; called by the event loop for each new connection."""

    def __init__(self, node: Node, http: Requests) -> None:
        self.node = node
        self.metrics = Metrics(node, http)
        self.stopping = False           # no new requests, please: only /health is still 200
        self.open: set[HealthConnection] = set()
        self.paths: dict[bytes, Callable[[bool], bytes]] = {
            b"/primary": lambda bare: self.verdict(self.serves(node.is_primary), bare),
            b"/replica": lambda bare: self.verdict(self.serves(node.is_replica), bare),
            b"/ready": lambda bare: self.verdict(self.serves(node.is_ready), bare),
            b"/health": lambda bare: self.health(bare),
            b"/admin/members": lambda bare: answer(
                200, "application/json", msgspec.json.encode(node.overview()["members"]),
                bare=bare),
            b"/admin/status": lambda bare: answer(
                200, "application/json", msgspec.json.encode(node.overview()), bare=bare),
            b"/metrics": lambda bare: answer(200, CONTENT_TYPE, self.metrics.text(), bare=bare),
        }

    def __call__(self) -> "HealthConnection":
        return HealthConnection(self)

    def serves(self, asked: Callable[[], bool]) -> bool:
        return not self.stopping and asked()

    def verdict(self, yes: bool, bare: bool) -> bytes:
        """200 or 503, with the state in the body either way."""
        status = self.node.status()
        body = {name: value for name, value in status.items() if name != "counters"}
        return answer(200 if yes else 503, "application/json", msgspec.json.encode(body), bare=bare)

    def health(self, bare: bool) -> bytes:
        """200 while the process turns; with the counters, longest turn and sync among them."""
        body = self.node.status()
        return answer(200, "application/json", msgspec.json.encode(body), bare=bare)

    def close(self) -> None:
        for connection in list(self.open):
            connection.transport.abort()


class HealthConnection(asyncio.Protocol):
    transport: asyncio.Transport
    timer: asyncio.TimerHandle

    def __init__(self, health: Health) -> None:
        self.health = health
        self.parser = httptools.HttpRequestParser(self)
        self.received = 0
        self.target = b""
        self.hosts = 0
        self.answered = False
        self.writable = asyncio.Event()
        self.writable.set()
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.timer = asyncio.get_running_loop().call_later(TIMEOUT_S, self.transport.abort)
        self.health.open.add(self)
        if len(self.health.open) > CONNECTIONS:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.timer.cancel()
        self.writable.set()
        self.health.open.discard(self)

    def data_received(self, data: bytes) -> None:
        if self.answered:
            return                      # the answer is on its way: the rest is not for us
        self.received += len(data)
        if self.received > REQUEST_BYTES:
            self.answer(problem(Problem.HEADERS_TOO_LARGE))
            return
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.answer(problem(Problem.BAD_REQUEST))

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.hosts += name.lower() == b"host"

    def on_message_complete(self) -> None:
        method = self.parser.get_method()
        bare = method == b"HEAD"
        respond = self.health.paths.get(self.target.partition(b"?")[0])
        if self.hosts != 1 and not (self.hosts == 0 and self.parser.get_http_version() == "1.0"):
            self.answer(problem(Problem.BAD_HOST, bare))
        elif self.target == b"/admin/snapshot" and method in (b"GET", b"POST"):
            self.begin(self.snapshot(method == b"POST"))
        elif method == b"POST" and (asked := TRANSFER.fullmatch(self.target)):
            self.begin(self.transfer(int(asked[1] or 0)))
        elif method == b"POST" and (asked := MEMBER.fullmatch(self.target)):
            self.begin(self.member(asked[1].decode(), asked[2].decode(errors="replace")))
        elif respond is None:
            self.answer(problem(Problem.NO_CHECK, bare))
        elif method not in (b"GET", b"HEAD"):
            self.answer(problem(Problem.METHOD_HEALTH))
        else:
            self.answer(respond(bare))

    def begin(self, work: Coroutine[None, None, None]) -> None:
        """The connection stays open for as long as that takes."""
        self.answered = True
        self.timer.cancel()
        self.task = asyncio.get_running_loop().create_task(work)

    async def transfer(self, to: int) -> None:
        """The lead goes to that node, 0: to the one that is ahead; the answer says to whom."""
        try:
            leader = await self.health.node.transfer(to)
            self.transport.write(answer(200, "application/json",
                                        msgspec.json.encode({"leader": leader})))
        except RequestError as error:
            self.refuse(str(error), "bad_transfer", 400)
        except Error as error:
            self.refuse(str(error), "not_transferred")
        if not self.transport.is_closing():
            self.transport.write_eof()

    async def member(self, what: str, query: str) -> None:
        """id=ID, and with add address=HOST:PORT and promote=1: a member is added, say."""
        node = self.health.node
        try:
            fields = {name: values[0] for name, values in parse_qs(query).items()}
            await node.change_members(what, number_of(fields.get("id", "")),
                                      fields.get("address", ""),
                                      promote=fields.get("promote") == "1")
            self.transport.write(answer(200, "application/json",
                                        msgspec.json.encode(node.overview()["members"])))
        except RequestError as error:
            self.refuse(str(error), "bad_change", 400)
        except OutcomeUnknownError as error:
            self.refuse(str(error), "outcome_unknown", 504)
        except Error as error:
            self.refuse(str(error), "not_changed")
        if not self.transport.is_closing():
            self.transport.write_eof()

    async def snapshot(self, take: bool) -> None:
        """POST: one is taken now. GET: the bytes of the newest."""
        node = self.health.node
        try:
            if take:
                await node.take_snapshot()
                body = {name: value for name, value in node.status().items() if name != "counters"}
                self.transport.write(answer(200, "application/json", msgspec.json.encode(body)))
            elif path := node.newest_snapshot():
                await self.send_file(path)
            else:
                self.refuse("this node has taken no snapshot yet: POST /admin/snapshot first",
                            "no_snapshot")
        except (Error, OSError) as error:
            self.refuse(str(error), "no_snapshot")
        if not self.transport.is_closing():
            self.transport.write_eof()

    def refuse(self, why: str, code: str, status: int = 503) -> None:
        body = {"type": "about:blank", "status": status, "code": code, "detail": why}
        self.transport.write(answer(status, "application/problem+json", msgspec.json.encode(body)))

    async def send_file(self, path: str) -> None:
        loop = asyncio.get_running_loop()
        with await loop.run_in_executor(None, open, path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.transport.write(answer(200, "application/octet-stream", size=size))
            try:
                while not self.transport.is_closing() and (
                        piece := await loop.run_in_executor(None, file.read, PIECE)):
                    self.transport.write(piece)
                    await self.writable.wait()
            except OSError:
                self.transport.abort()  # it has the head already: a short answer tells

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def answer(self, data: bytes) -> None:
        """Writes once and half-closes; the peer closes, or the timer does."""
        if not self.answered:
            self.answered = True
            self.transport.write(data)
            self.transport.write_eof()
