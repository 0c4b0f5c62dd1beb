"""The load generator for etcd's native API: unary calls of gRPC over HTTP/2, a closed loop.

Prepared frames go out and the frames of the answers are counted; nothing is decoded, so that the
generator takes less of the processor than a client library would. Each connection has one call
under way. An answer without a message (gRPC's way to say an error) is counted as one.

    python benchmarks/grpc.py --port 2379 --op put --clients 64 --seconds 3
"""

import asyncio
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from benchmarks.client import HOST, Connection, Load, Loop, run

# RFC 9113
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS = 4
HEAD = struct.Struct(">HBBBI")          # length (high, low), type, flags, stream
WINDOW_BYTES = (1 << 31) - 1            # as large as it may be: it is never given back


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return HEAD.pack(len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


def fields(path: str) -> bytes:
    """A block of headers (RFC 7541), each spelled out but for what the static table has."""
    def text(value: str) -> bytes:
        return bytes([len(value)]) + value.encode()

    return (b"\x83\x86"                                             # POST, http
            + b"\x04" + text(path) + b"\x01" + text(HOST)
            + b"\x0f\x10" + text("application/grpc")                # content-type
            + b"\x00" + text("te") + text("trailers"))


def varint(n: int) -> bytes:
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def message(load: Load, key: bytes) -> bytes:
    """PutRequest or RangeRequest of etcdserverpb, in protobuf, behind gRPC's five bytes."""
    said = b"\x0a" + varint(len(key)) + key
    if load.op == "put":
        value = load.value.encode()
        said += b"\x12" + varint(len(value)) + value
    elif load.op == "serializable":
        said += b"\x38\x01"
    return b"\0" + len(said).to_bytes(4, "big") + said


def calls(load: Load) -> Iterator[bytes]:
    """The two frames of each call, for stream 0."""
    path = f"/etcdserverpb.KV/{'Put' if load.op == 'put' else 'Range'}"
    head = frame(HEADERS, END_HEADERS, 0, fields(path))
    for key in load.names():
        yield head + frame(DATA, END_STREAM, 0, message(load, key.encode()))


class Stub(Connection):
    """One connection: the streams 1, 3, 5, ... one after the other."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.stream = -1
        self.message = False            # did this call's answer have one?

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(
            PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, WINDOW_BYTES))
            + frame(WINDOW, 0, 0, (WINDOW_BYTES - 65535).to_bytes(4, "big")))
        super().connection_made(transport)

    def prepared(self, request: bytes) -> bytes:
        self.stream += 2
        self.message = False
        both = bytearray(request)
        second = 9 + int.from_bytes(both[:3], "big")
        for at in (0, second):
            struct.pack_into(">I", both, at + 5, self.stream)
        return bytes(both)

    def data_received(self, data: bytes) -> None:
        if self.pending:
            data = self.pending + data
        at = 0
        while len(data) >= at + 9:
            high, low, kind, flags, stream = HEAD.unpack_from(data, at)
            end = at + 9 + (high << 8) + low
            if end > len(data):
                break
            self.arrived(kind, flags, stream, data[at + 9 : end])
            at = end
        self.pending = data[at:]

    def arrived(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self.transport.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.transport.write(frame(PING, ACK, 0, payload))
        elif kind == DATA:
            self.message = True
        elif kind == GOAWAY:
            self.transport.close()
        if stream and stream == self.stream and (
                kind == RESET or (kind in (DATA, HEADERS) and flags & END_STREAM)):
            self.completed(self.message)


if __name__ == "__main__":
    run(Stub, calls)
