"""The peer port against strangers: each is told why in one line and closed; the node goes on.

One node of three runs in this process; the test speaks the peer protocol over a raw socket.
"""
import asyncio
import logging
import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dengine import Engine
from dengine._core.peer import Peer, answered, question
from dengine.config import loads
from dengine.storage import cluster_id
from tests.cluster import free_ports
from tests.engines import until
from tests.sim import views
from tests.sim.cluster import Cluster

HELLO, VOTE, APPEND, FORWARD, PING, BYE, OFFER, FETCH, PIECE = 1, 2, 4, 7, 11, 12, 13, 14, 15
BULK = OUTDATED = 1
WAIT_S = 5.0


def settings(tmp_path: Path, ports: list[int]) -> str:
    members = ",".join(f'{{ id = {i}, address = "127.0.0.1:{p}", role = 1, status = 3 }}'
                       for i, p in zip((1, 2, 3), ports, strict=False))
    return f"""
[cluster]
name = "strangers"
node_id = 3
initial_cluster = [{members}]
db_root_dir = "{tmp_path / 'n3'}"
[http]
port = {ports[3]}
health_port = {ports[4]}
"""


@asynccontextmanager
async def node(tmp_path: Path) -> AsyncIterator[tuple[Engine, int]]:
    ports = list(free_ports(5))
    async with Engine.open(loads(settings(tmp_path, ports), "test")) as engine:
        yield engine, ports[2]


def hello(*, protocol: int = 1, cluster: int | None = None, node: int = 1, to: int = 3,
          flags: int = 0) -> bytes:
    cluster = cluster_id("strangers", [1, 2, 3]) if cluster is None else cluster
    body = struct.pack("<HQQQQQQQQ", protocol, cluster, node, 77, to, 0, 1, 1, 0)
    return views.build_frame(HELLO, flags, 0, body)


async def talk(port: int, *pieces: bytes) -> bytes:
    """Sends the pieces; returns all that comes until the node closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
        try:
            async with asyncio.timeout(WAIT_S):
                return await reader.read()
        except ConnectionResetError:
            return b""
    finally:
        writer.close()


BAD_FRAME = bytearray(views.build_frame(PING, 0, 0, b""))
BAD_FRAME[9] ^= 1
STRANGERS = {
    "http": ((b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",), "not a dengine peer"),
    "rubbish": ((bytes(range(256)) * 8,), "not a dengine peer"),
    "huge length": ((struct.pack("<I", 1 << 31),), "not a dengine peer"),
    "long first frame": ((struct.pack("<I", 1 << 20) + bytes(4096),), "not a dengine peer"),
    "no hello": ((views.build_frame(PING, 0, 0, b""),), "no handshake"),
    "short hello": ((views.build_frame(HELLO, 0, 0, b"\1\0"),), "no handshake"),
    "version": ((hello(protocol=2),), "protocol version 2"),
    "cluster": ((hello(cluster=5),), "another cluster"),
    "unknown node": ((hello(node=9),), "node id 9"),
    "ourselves": ((hello(node=3),), "node id 3"),
    "wrong address": ((hello(to=2),), "looks for node 2"),
    "bad crc": ((hello(), bytes(BAD_FRAME)), "checksum is wrong"),
    "unknown kind": ((hello(), views.build_frame(99, 0, 0, b"")), "does not know"),
    "a snapshot on the first connection": (
        (hello(), views.build_frame(FETCH, 0, 1, struct.pack("<QIQ", 1, 2, 0))),
        "wrong one of two"),
    "an append on the second": (
        (hello(flags=BULK), views.build_frame(VOTE, 0, 9, struct.pack("<QQ", 0, 0))),
        "wrong one of two"),
    "short fetch": ((hello(flags=BULK), views.build_frame(FETCH, 0, 1, b"abc")), "do not fit"),
    "short piece": ((hello(flags=BULK), views.build_frame(PIECE, 0, 1, b"abc")), "do not fit"),
    "short offer": ((hello(), views.build_frame(OFFER, 0, 1, b"abc")), "do not fit"),
    "unknown flag": ((hello(flags=2),), "no handshake"),
    "second hello": ((hello(), hello()), "second handshake"),
    "short vote": ((hello(), views.build_frame(VOTE, 0, 9, b"abc")), "do not fit"),
    "forwarded rubbish": ((hello(), views.build_frame(FORWARD, 0, 1, struct.pack(
        "<II", 1, 3) + b"abc")), "no command"),
    "append without its records": ((hello(), views.build_frame(APPEND, 0, 1, struct.pack(
        "<QQIQQQI", 0, 0, 0, 0, 1, 3, 3) + b"abcdefgh")), "does not continue"),
    "goodbye": ((hello(), views.build_frame(BYE, 0, 0, b"see you")), "see you"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_are_told_and_closed(name: str, tmp_path: Path,
                                       caplog: pytest.LogCaptureFixture) -> None:
    pieces, reason = STRANGERS[name]

    async def run() -> None:
        async with node(tmp_path) as (engine, port):
            told = await talk(port, *pieces)
            assert reason.encode() in told or told == b""
            assert engine.status()["role"] in ("follower", "precandidate")
            assert engine.get_eventual(b"k") is None

    with caplog.at_level(logging.WARNING, "dengine"):
        asyncio.run(run())
    lines = [r.getMessage() for r in caplog.records if reason in r.getMessage()]
    assert len(lines) == 1


def test_an_empty_node_is_told_which_cluster_this_is(tmp_path: Path,
                                                     caplog: pytest.LogCaptureFixture) -> None:
    """It need not be a member yet; nothing is noted of it, and nothing logged."""
    async def run() -> None:
        async with node(tmp_path) as (_, port):
            told = await talk(port, question(9, 3))
            assert answered(told) == cluster_id("strangers", [1, 2, 3])
            assert answered(told[:-1]) is None
            with pytest.raises(ValueError, match="no dengine peer"):
                answered(b"HTTP/1.1 400 Bad Request\r\n" * 20)

    with caplog.at_level(logging.WARNING, "dengine"):
        asyncio.run(run())
    assert not caplog.records


def test_every_byte_alone_is_a_handshake_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with node(tmp_path) as (engine, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for byte in hello():
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            answer = await reader.readexactly(len(hello()))
            fault, kind, *_ = views.check_frame(answer)
            assert (fault, kind) == (0, HELLO)
            await until("connected", lambda: engine.status()["connected"] == [1])
            writer.close()

    asyncio.run(run())


def test_random_bytes_never_stop_the_node(tmp_path: Path) -> None:
    seeded = random.Random(7)

    async def run() -> None:
        async with node(tmp_path) as (engine, port):
            for _ in range(150):
                kind, flags = seeded.randrange(1, 13), seeded.randrange(256)
                if kind == BYE:
                    flags &= ~OUTDATED          # a member may say that, and is obeyed
                good = bytearray(hello() + views.build_frame(
                    kind, flags, seeded.randrange(1 << 60),
                    seeded.randbytes(seeded.randrange(80))))
                if seeded.random() < 0.3:
                    good[seeded.randrange(len(good))] ^= 1 << seeded.randrange(8)
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(bytes(good))
                writer.write_eof()
                try:
                    async with asyncio.timeout(WAIT_S):
                        await reader.read()
                except ConnectionResetError:
                    pass
                writer.close()
                assert engine.status()["commit"] == 0
            assert engine.get_eventual(b"k") is None

    asyncio.run(run())


def test_a_connection_given_up_before_it_was_made_is_closed() -> None:
    """Between accept and connection_made there is no transport yet, at the latest in a close."""
    class Transport(asyncio.Transport):
        aborted = 0

        def abort(self) -> None:
            self.aborted += 1

    transport = Transport()
    cluster = Cluster(1)
    cluster.start([0])
    peer = Peer(cluster.nodes[0].turn, 0, print, print, print)
    peer.abort()
    peer.connection_made(transport)
    cluster.close()
    assert transport.aborted == 1


def test_idle_strangers_are_bounded(tmp_path: Path) -> None:
    async def run() -> None:
        async with node(tmp_path) as (engine, port):
            clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
            async with asyncio.timeout(WAIT_S):
                for reader, writer in clients[:100]:
                    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                        await reader.readexactly(1)     # the oldest make room for the newest
                    writer.close()
            assert engine.get_eventual(b"k") is None
            for _, writer in clients:
                writer.close()

    asyncio.run(run())
