"""`dengine cluster`: several nodes on this machine, each a process of its own.

Decides when they start and stop, and whose line is whose. A node that fails at its start stops all;
a node that dies later is named, and the others go on: that is what a cluster is for.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress

import click

from dengine import config
from dengine.cli.serve import require_free_ports
from dengine.errors import ConfigError

STOP_SECONDS = 10.0  # then what still runs is killed
POLL_SECONDS = 0.1  # between two looks whether a node is up
LINE_BYTES = 1 << 20


@click.command()
@click.option("--config", "files", required=True, multiple=True, metavar="FILE",
              help="One node; give it once for each.")
@click.option("--log-level", metavar="LEVEL", help="Of each node.")
def cluster(files: tuple[str, ...], log_level: str | None) -> None:
    """Run several nodes on this machine, until SIGINT or SIGTERM.

    Their lines are prefixed [Node1] and so on. Exit status 1 if one fails at its start.
    """
    nodes = [Node(file, config.load(file)) for file in files]
    if len({n.name for n in nodes}) < len(nodes):
        raise ConfigError(f"--config = {', '.join(files)}: one node_id twice; give each its own")
    for node in nodes:
        require_free_ports(node.config)
    arguments = ["--log-level", log_level] if log_level else []
    click.get_current_context().exit(asyncio.run(supervise(nodes, arguments)))


class Node:
    """One child: `python -m dengine serve`."""

    process: asyncio.subprocess.Process | None = None

    def __init__(self, file: str, settings: config.Config) -> None:
        self.file = file
        self.config = settings
        self.name = f"Node{settings.cluster.node_id}"

    async def start(self, arguments: list[str]) -> None:
        """In a session of its own: a Ctrl-C of the terminal reaches it once, through us."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dengine", "serve", "--config-path", self.file, *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, limit=LINE_BYTES, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"})

    async def relay(self) -> None:
        """Its lines until it closes them, then how it ended."""
        assert self.process is not None
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.say(line.decode(errors="replace").rstrip("\n"))
        status = await self.process.wait()
        how = f"status {status}" if status >= 0 else signal.Signals(-status).name
        again = f"; to start it: dengine serve --config-path {self.file}" if status else ""
        self.say(f"ended: {how}{again}")

    async def up(self) -> None:
        """Returns when its health port takes connections."""
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(
                    self.config.http.host, self.config.http.health_port)
                writer.close()
                return
            await asyncio.sleep(POLL_SECONDS)

    def signal(self, number: int) -> None:
        if self.process and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    def say(self, text: str) -> None:
        print(f"[{self.name}] {text}", flush=True)


async def supervise(nodes: list[Node], arguments: list[str]) -> int:
    """0 if asked to stop and all stopped well, else 1."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, asked.set)
    stop = loop.create_task(asked.wait())
    up = loop.create_task(_all_up(nodes))
    ends: list[asyncio.Task[None]] = []
    try:
        for node in nodes:
            await node.start(arguments)
            ends.append(loop.create_task(node.relay()))
        await asyncio.wait({stop, up, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if up.done():  # until then one that ends has failed to start
            all_ended = loop.create_task(asyncio.wait(ends))
            await asyncio.wait({stop, all_ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        up.cancel()
        for node in nodes:
            node.signal(signal.SIGTERM)
            loop.call_later(STOP_SECONDS, node.signal, signal.SIGKILL)
        await asyncio.gather(*ends)
    good = (0, -signal.SIGTERM)  # SIGTERM: before it could handle it
    well = all(node.process and node.process.returncode in good for node in nodes)
    return 0 if asked.is_set() and well else 1


async def _all_up(nodes: list[Node]) -> None:
    await asyncio.gather(*(node.up() for node in nodes))
