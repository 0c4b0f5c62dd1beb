"""The ceiling that the HTTP figures are divided by: uvloop and httptools in plain Python, no store.

GET answers a small JSON body, POST parses {"key","value"} and answers {"revision":N}. It parses
every header through httptools' callbacks and keeps connections alive, and does nothing else.

    python benchmarks/bare.py [--host 127.0.0.1] [--port 8090]
"""
import argparse
import asyncio
import contextlib
from typing import cast

import httptools
import msgspec
import uvloop


class Post(msgspec.Struct):
    key: str
    value: str


decode = msgspec.json.Decoder(Post).decode
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: %s\r\n"
    b"Content-Length: %d\r\n\r\n%s"
)
VALUE = b'{"value":"0123456789abcdef"}'
revision = 0


class Bare(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        global revision
        keep = self.parser.should_keep_alive()
        if self.parser.get_method() == b"POST":
            decode(self.body)
            revision += 1
            answer = b'{"revision":%d}' % revision
        else:
            answer = VALUE
        self.transport.write(HEAD % (b"keep-alive" if keep else b"close", len(answer), answer))
        self.body = self.url = b""
        self.headers = []
        if not keep:
            self.transport.close()


async def serve(host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Bare, host, port)
    print(f"bare server on http://{host}:{port}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(args.host, args.port))


if __name__ == "__main__":
    main()
