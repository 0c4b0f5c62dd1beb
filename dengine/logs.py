"""The log of a server: stderr, one line per event with time, level, node and term.

Decides how a line looks and from which level on. Knows nothing of the events. An application that
embeds dengine sets up the logger "dengine" as it likes and calls nothing here.
"""

import logging
import os
import sys
import time

from dengine.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")
VARIABLE = "DENGINE_LOG"


class Lines(logging.Formatter):
    """One process is one node: its id and current term stand in every line."""

    node = 0
    term = 0

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        head = f"{at}.{int(record.msecs):03} {record.levelname:<7} "
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return f"{head}node={self.node} term={self.term} " + text.replace("\n", "\\n")


class Stderr(logging.Handler):
    """Writes to what sys.stderr is now."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


LINES = Lines()
HANDLER = Stderr()
HANDLER.setFormatter(LINES)


def setup(level: str | None = None, node_id: int = 0) -> str:
    """`level`, else $DENGINE_LOG, else info: returned. Called again when the node is known."""
    origin = "--log-level" if level else f"${VARIABLE}"
    name = (level or os.environ.get(VARIABLE) or "info").lower()
    if name not in LEVELS:
        raise ConfigError(f"{origin}: log level = {name!r}: unknown; use {', '.join(LEVELS)}")
    LINES.node = node_id
    logger = logging.getLogger("dengine")
    logger.setLevel(name.upper())
    logger.addHandler(HANDLER)  # adding it twice is adding it once
    return name


def set_term(term: int) -> None:
    """The term that lines show from now on."""
    LINES.term = term
