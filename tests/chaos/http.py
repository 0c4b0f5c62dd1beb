"""A small HTTP/1.1 client for asyncio: one request at a time on a connection that stays open.

It decides what was certainly not sent, which is what an honest history needs: `NotSent` means that
no byte left, any other OSError or TimeoutError that the server may have acted.
"""

import asyncio
import contextlib
from dataclasses import dataclass

BODY_BYTES = 4 << 20


class NotSent(OSError):
    """The connection could not be made."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]         # names in lower case
    body: bytes


class Connection:
    """To one port; made when it is needed, given up after each failure."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: bytes = b"",
                  headers: dict[str, str] | None = None, *, within_s: float) -> Answer:
        """The answer. Raises NotSent, OSError, TimeoutError; the connection is closed then."""
        lines = "".join(f"{k}: {v}\r\n" for k, v in (headers or {}).items())
        head = (f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\n{lines}"
                f"Content-Length: {len(body)}\r\n\r\n")
        sent = False
        try:
            async with asyncio.timeout(within_s):
                if self.writer is None or self.writer.is_closing() or self.stale():
                    self.close()
                    self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
                sent = True
                self.writer.write(head.encode() + body)
                return await self.answer()
        except (OSError, TimeoutError, ValueError, EOFError) as error:
            self.close()
            if not sent:
                raise NotSent(str(error)) from error
            if isinstance(error, OSError | TimeoutError):
                raise
            raise OSError(f"no answer: {error!r}") from error
        except BaseException:
            self.close()
            raise

    def stale(self) -> bool:
        """Did the server take its leave of an idle connection?"""
        return self.reader is None or self.reader.at_eof()

    async def answer(self) -> Answer:
        assert self.reader is not None
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {}
        for line in head[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        size = int(headers.get("content-length", 0))
        if size > BODY_BYTES:
            raise ValueError("an answer too large")
        body = await self.reader.readexactly(size)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(head[0].split()[1]), headers, body)

    def close(self) -> None:
        if self.writer is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self.writer.transport.abort()
        self.reader = self.writer = None
