"""`dengine serve`: one node, its HTTP port and its health port, from start to stop.

It decides the order of starting and stopping and what a signal means. It does not know how a node
works or what is asked over HTTP.
"""
import asyncio
import contextlib
import logging
import signal
import socket

import uvloop

from dengine import logs
from dengine._core.http import HttpServer
from dengine.config import Config
from dengine.errors import ConfigError, Error, RemovedError
from dengine.http.health import Health
from dengine.join import cluster_to_join
from dengine.node import Node

POLICIES = {"LinearizableRead": 0, "LeaseRead": 1, "EventualRead": 2}
DRAIN_S = 1.0               # beyond the longest request: for its answer to reach the client
CLOSE_S = 10.0              # for the node to flush what it has; its log survives less
BACKLOG = 1024              # connections that wait to be accepted

logger = logging.getLogger("dengine.server")


def run(config: Config, log_level: str) -> int:
    """Serves until a signal or a fatal error; returns the exit status."""
    logs.setup(log_level, config.cluster.node_id)
    return uvloop.run(serve(config))


async def serve(config: Config) -> int:
    host, http = config.http.host, config.http
    with contextlib.ExitStack() as ports:
        try:
            business = ports.enter_context(listen(host, http.port, "--port", "http.port"))
            health = ports.enter_context(
                listen(host, http.health_port, "--health-port", "http.health_port"))
            node = Node(config, asyncio.get_running_loop(), to_join=await cluster_to_join(config))
            await Service(config, node).run(business, health)
        except RemovedError as error:
            logger.warning("%s", error)             # as its operator wanted: no supervisor restarts
        except (Error, OSError) as error:
            logger.error("%s", error)
            return 2 if isinstance(error, ConfigError) else 1
    return 0


def listen(host: str, port: int, flag: str, key: str) -> socket.socket:
    """A listening socket; OSError names the port and what changes it."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(
            f"cannot listen on {host} port {port}: {error.strerror}; nothing was started; "
            f"choose another with {flag}, or {key} in the configuration") from error


class Service:
    """A node that serves, until it is stopped or fails."""

    def __init__(self, config: Config, node: Node) -> None:
        self.config = config
        self.node = node
        self.loop = asyncio.get_running_loop()
        self.stop: asyncio.Future[None] = self.loop.create_future()         # the first signal
        self.stop_now: asyncio.Future[None] = self.loop.create_future()     # the second
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self.on_signal)

    def on_signal(self) -> None:
        for future in (self.stop, self.stop_now):
            if not future.done():
                future.set_result(None)
                return

    async def run(self, business: socket.socket, health: socket.socket) -> None:
        """Returns after a graceful stop; raises what made the node fail."""
        starting = self.loop.create_task(self.node.start())
        await first(starting, self.stop)
        try:
            if starting.done():
                starting.result()
                await self.answer(business, health)
        finally:
            starting.cancel()
            closing = self.loop.create_task(self.node.close())
            await first(closing, self.stop_now, within_s=CLOSE_S)
        if not closing.done():
            closing.cancel()
            logger.warning("stopped without closing the node: its log is read at the next start")
        elif closing.exception():
            closing.result()

    async def answer(self, business: socket.socket, health: socket.socket) -> None:
        http = http_server(self.node, self.config)
        checks = Health(self.node, http)
        listeners = [await self.loop.create_server(http, sock=business),
                     await self.loop.create_server(checks, sock=health)]
        logger.info("serving on http://%s:%d, health on port %d", self.config.http.host,
                    business.getsockname()[1], health.getsockname()[1])
        try:
            await first(self.node.failed, self.stop)
            if not self.node.failed.done():
                logger.info("stopping: requests under way are answered")
                checks.stopping = True
                await first(self.loop.create_task(self.node.hand_over()), self.stop_now)
                listeners[0].close()
                await first(http.drain(), self.node.failed, self.stop_now,
                            within_s=self.config.http.request_timeout_ms / 1000 + DRAIN_S)
        finally:
            for listener in listeners:
                listener.close()
            http.close()
            checks.close()
        if self.node.failed.done():
            self.node.failed.result()


async def first(*futures: "asyncio.Future[None]", within_s: float | None = None) -> None:
    """Waits until one of them is done, or the time is over."""
    await asyncio.wait(futures, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)


def http_server(node: Node, config: Config) -> HttpServer:
    http, limits = config.http, config.limits
    return HttpServer(
        node.turn,
        default_policy=POLICIES[config.raft.read_consistency.default_policy],
        request_timeout_us=http.request_timeout_ms * 1000,
        idle_timeout_ms=http.idle_timeout_ms,
        header_timeout_ms=http.header_timeout_ms,
        max_connections=http.max_connections,
        max_pipeline=http.max_pipeline,
        max_line_bytes=http.max_line_bytes,
        max_header_bytes=http.max_header_bytes,
        max_headers=http.max_headers,
        max_body_bytes=http.max_body_bytes,
        max_key_bytes=limits.key_bytes,
        max_value_bytes=limits.value_bytes,
    )
