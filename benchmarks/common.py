"""What all benchmarks share: figures of a closed loop, and the machine they hold for."""

import argparse
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Literal, Self

from rich import box
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("dengine", "uvloop", "httptools")
WIDTH = 170             # of the output where it is not a terminal
console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)


@dataclass(frozen=True)
class Figure:
    """One measured closed loop."""

    requests: int
    errors: int
    seconds: float
    p50_us: float
    p99_us: float
    max_us: float
    p999_us: float = math.nan

    @classmethod
    def of(cls, latencies_ns: Sequence[int], seconds: float, errors: int = 0) -> Self:
        ordered = sorted(latencies_ns)
        p50, p99, p999, most = (quantile(ordered, q) / 1000 for q in (0.5, 0.99, 0.999, 1.0))
        return cls(len(ordered), errors, seconds, p50, p99, most, p999)

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @classmethod
    def merged(cls, rounds: Sequence[Self]) -> Self:
        """The median of each column; of errors the sum and of maxima the largest."""
        middle = {
            name: median(getattr(figure, name) for figure in rounds)
            for name in ("requests", "seconds", "p50_us", "p99_us", "p999_us")
        }
        return cls(
            int(middle["requests"]), sum(f.errors for f in rounds), middle["seconds"],
            middle["p50_us"], middle["p99_us"], max(f.max_us for f in rounds), middle["p999_us"],
        )


def quantile(ordered: Sequence[float], q: float) -> float:
    """The nearest rank: a value that was measured."""
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else math.nan


def machine() -> str:
    """One line: processor, cores, kernel, versions."""
    info = Path("/proc/cpuinfo").read_text()
    models = [line.split(":")[1].strip() for line in info.splitlines() if "model name" in line]
    model = models[0] if models else platform.machine()
    versions = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} from the checkout")
    return f"{model}, {os.cpu_count()} cores · Linux {platform.release()} · {', '.join(versions)}"


def table(title: str, *columns: str) -> Table:
    """Columns whose name starts with `-` are words, all others are numbers."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        justify: Literal["left", "right"] = "left" if name.startswith("-") else "right"
        made.add_column(name.removeprefix("-"), justify=justify, no_wrap=True)
    return made


def arguments(text: str, **listed: Any) -> argparse.ArgumentParser:
    """A parser with the first paragraph of a module's text, and the options of all benchmarks."""
    parser = argparse.ArgumentParser(
        description=text.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        **listed,
    )
    parser.add_argument("--dir", type=Path, help="parent of the temporary data directories")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser


@contextmanager
def scratch(options: argparse.Namespace) -> Iterator[Path]:
    """A directory that is removed at the end; its file system is what syncs are measured on."""
    with tempfile.TemporaryDirectory(prefix="dengine-bench-", dir=options.dir) as directory:
        yield Path(directory)


def report(options: argparse.Namespace, figures: Sequence[Any]) -> None:
    """Writes --json."""
    if options.json:
        content = {
            "benchmark": Path(sys.argv[0]).stem,
            "machine": machine(),
            "arguments": {k: str(v) for k, v in vars(options).items()},
            "figures": [f if isinstance(f, dict) else asdict(f) for f in figures],
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
        console.print(f"written: {options.json}")


def comma(kind: type) -> Any:
    """An option's type: a list, separated by commas."""
    return lambda text: [kind(part) for part in text.split(",")]

