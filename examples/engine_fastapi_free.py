"""An asyncio web application that is a node of its own cluster. No web framework is needed.

    python examples/engine_fastapi_free.py WHERE PORT

WHERE is a node's configuration (config/n1.toml: start one process for each of the three), or a
directory for one node alone. Then, on any of the processes:

    curl http://127.0.0.1:PORT/page              how often /page was visited
    curl -X POST http://127.0.0.1:PORT/page      one visit more

A visit that was answered with a number is counted, and counted once, whichever process answered.
"""
import asyncio
import sys

import dengine
from dengine.errors import ConflictError, NotProposedError, OutcomeUnknownError, UnavailableError

LINE_BYTES = 4096


async def add_visit(engine: dengine.Engine, page: str) -> int:
    """Compare and swap: the write is refused if another one came between reading and writing."""
    revision = 0                        # of the key, 0: it does not exist
    while True:
        count = int(await engine.get(page, b"0")) + 1
        try:
            await engine.put(page, str(count), if_revision=revision)
            return count
        except ConflictError as conflict:
            revision = conflict.revision        # read again, after this revision


async def answer(engine: dengine.Engine, method: str, page: str) -> tuple[int, str]:
    try:
        if method == "POST":
            return 200, f"{await add_visit(engine, page)}\n"
        if method == "GET":
            return 200, f"{int(await engine.get(page, b'0'))}\n"
        return 405, "GET or POST\n"
    except NotProposedError:            # nothing was changed
        return 503, "no leader: try again\n"
    except OutcomeUnknownError:         # not repeated here: it may have been counted
        return 504, "it may or may not have been counted\n"
    except UnavailableError:
        return 503, "no leader: try again\n"


class Application:
    """One request per connection, to keep the example short."""

    def __init__(self, engine: dengine.Engine) -> None:
        self.engine = engine

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = (await reader.readline()).decode("latin-1").split()
            while (await reader.readline()).strip():
                pass                    # headers
            if len(request) != 3:
                return
            status, text = await answer(self.engine, request[0], request[1])
            writer.write(f"HTTP/1.1 {status} -\r\nContent-Length: {len(text)}\r\n"
                         f"Connection: close\r\n\r\n{text}".encode())
            await writer.drain()
        except (ConnectionError, ValueError):
            pass                        # the client left, or sent a longer line than LINE_BYTES
        finally:
            writer.close()


async def main(where: str, port: int) -> None:
    async with dengine.Engine.open(where) as engine:
        await engine.wait_leader(30)
        server = await asyncio.start_server(Application(engine), "127.0.0.1", port,
                                            limit=LINE_BYTES)
        print(f"node {engine.status()['node_id']} serves on http://127.0.0.1:{port}", flush=True)
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
