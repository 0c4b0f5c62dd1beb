import asyncio

from dengine._core.turn import Turn

class Connection(asyncio.Protocol):
    """One client; `HttpServer` makes it."""

class HttpServer:
    """A protocol factory for `loop.create_server`, with the limits of all its connections.

    It is made inside the running loop that serves it.
    """

    def __init__(
        self,
        turn: Turn,
        *,
        default_policy: int = 0,
        request_timeout_us: int = 5_000_000,
        idle_timeout_ms: int = 60_000,
        header_timeout_ms: int = 10_000,
        max_connections: int = 1024,
        max_pipeline: int = 64,
        max_line_bytes: int = 16_384,
        max_header_bytes: int = 32_768,
        max_headers: int = 64,
        max_body_bytes: int = 1_572_864,
        max_key_bytes: int = 4096,
        max_value_bytes: int = 1_048_576,
    ) -> None: ...
    def __call__(self) -> Connection: ...
    @property
    def connections(self) -> int:
        """Open connections."""

    def requests(self) -> dict[tuple[str, int, str], int]:
        """Answers since the start by (route, HTTP status, code); code is "ok" for 200."""

    def drain(self) -> asyncio.Future[None]:
        """Closes idle connections and each other one after its answers; done when none is left."""

    def close(self) -> None:
        """Drops all connections."""

    def sweep(self) -> None:
        """Ends what took too long; the server's own timer calls it."""

    def flush(self) -> None:
        """Writes the answers that have come; the event loop calls it."""
