"""How far a long reading is: a bar on stderr, on a terminal only, and only after a second."""
from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

AFTER_S = 1.0


class Bar:
    """Called with the bytes that were read. `total` bytes; `hidden` never shows it."""

    def __init__(self, what: str, total: int, *, hidden: bool = False) -> None:
        self.console = Console(stderr=True)
        self.hidden = hidden or not self.console.is_terminal
        self.progress = Progress(TextColumn(what), BarColumn(), DownloadColumn(),
                                 TransferSpeedColumn(), console=self.console, transient=True)
        self.task = self.progress.add_task(what, total=total)
        self.begun = time.monotonic()

    def __call__(self, n: int) -> None:
        self.progress.advance(self.task, n)
        late = time.monotonic() - self.begun > AFTER_S
        if late and not (self.hidden or self.progress.live.is_started):
            self.progress.start()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self.progress.live.is_started:
            self.progress.stop()
