"""A guard for speed: how many instructions the core's operations take, against tests/guard.json.

    python -m tests.guard               compares; fails when one takes 3 % more or less
    python -m tests.guard --update      writes the file; its commit says why the figures changed

It decides what is counted and how it is judged. Callgrind counts, so the figures do not depend on
the machine's load: each operation runs n and 3n times, the difference is what 2n of them take, and
the median of three such rounds is taken.
They do depend on compiler, interpreter and C library: with others than the file's it says so and
passes. The C library is made to copy and compare as on the oldest x86-64, so the processor matters
only where it has no CRC instruction. The operations themselves are in tests/sim/work.pyx, and below
where they need Python.
"""
import argparse
import asyncio
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

FILE = Path(__file__).with_suffix(".json")
TOLERANCE = 0.03
PAYLOAD = b"p" * 256            # of a record of 288 bytes
KEY, VALUE = b"k" * 16, b"v" * 64
REQUEST = b"GET /kv/a HTTP/1.1\r\nHost: x\r\nUser-Agent: guard\r\nAccept: */*\r\n\r\n"
MARK = "dengine_mark"
ROUNDS = 3                      # the median of them counts
TIMEOUT_S = 600
# Which of its functions glibc picks, and from how many bytes on, follows from the processor.
FIXED = ":".join([
    "glibc.cpu.hwcaps=" + ",".join(f"-{name}" for name in (
        "AVX2", "AVX", "AVX512F", "AVX512VL", "AVX512BW", "ERMS", "FSRM", "SSSE3", "SSE4_1",
        "SSE4_2", "BMI2", "LZCNT", "MOVBE", "RTM")),
    "glibc.cpu.x86_non_temporal_threshold=0xc0000",
    "glibc.cpu.x86_rep_movsb_threshold=0x1000",
    "glibc.cpu.x86_rep_stosb_threshold=0x1000",
])
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "GLIBC_TUNABLES": FIXED,
               "LC_ALL": "C"}
Work = Callable[[int], object]


# ---------------------------------------------------------------------------- under the counter
class Transport:
    """What an HTTP connection writes to."""

    def __init__(self) -> None:
        self.answers = 0

    def write(self, data: bytes) -> None:
        self.answers += 1


def compiled() -> Iterator[tuple[str, int, Work]]:
    """(name, n, what does n of it), in C alone."""
    from tests.sim import work

    shop, applying, logging, rounds = work.Shop(), work.Applying(), work.Logging(), work.Rounds()
    page = bytes(range(256)) * 16
    yield "crc 288 B", 2000, lambda n: work.crc(page[:288], n)
    yield "crc 4 KiB", 400, lambda n: work.crc(page, n)
    yield "record encode 288 B", 2000, lambda n: work.encode_records(PAYLOAD, n)
    yield "record check 288 B", 2000, lambda n: work.check_records(PAYLOAD, n)
    yield "frame check 4 KiB", 400, lambda n: work.check_frames(page, n)
    yield "encode_put", 2000, lambda n: work.encode_puts(KEY, VALUE, n)
    yield "append, batches of 30", 1500, lambda n: logging.append(PAYLOAD, n)
    yield "raft round of 100, 3 nodes", 200, rounds.rounds
    yield "apply a put", 2000, applying.puts
    yield "kv get", 2000, shop.get
    yield "kv put", 2000, shop.put
    yield "kv put and delete of a new key", 2000, shop.put_and_delete
    yield "scan an item", 4000, shop.scan


async def measure(directory: Path) -> None:
    """All operations between marks, in the order of their names' listing."""
    import dengine
    from dengine._core.http import HttpServer
    from tests.sim import work
    from tests.sim.fake_turn import FakeTurn

    # Python's allocator has free pages from here on, and each round begins at another place of
    # each: at the edge of one, every operation would take and return it.
    held: list[object] = [bytes(400) for _ in range(8000)][::1000]

    def count(name: str, n: int, operate: Work) -> None:
        operate(n)                      # whatever happens only once has happened
        for _ in range(ROUNDS):
            held.extend(bytes(size) for size in range(16, 480, 16))
            print(f"{name}\t{n}", flush=True)
            work.mark()
            operate(n)
            work.mark()
            operate(3 * n)
            work.mark()

    gc.disable()
    for name, n, operate in compiled():
        count(name, n, operate)

    # A threshold and an interval that are not reached: the flusher has nothing to do.
    lazy = {"Batch": {"threshold": 1_000_000, "interval_ms": 10_000}}
    with dengine.open(directory / "store", strategy="MemFirst", flush_policy=lazy) as store:
        store[KEY] = VALUE
        count("Store.get", 2000, lambda n: [store.get(KEY) for _ in range(n)])
        count("Store.put, MemFirst", 500, lambda n: [store.put(KEY, VALUE) for _ in range(n)])

    async with dengine.Engine.open(directory / "engine") as engine:
        await engine.put(KEY, VALUE)
        count("Engine.get_eventual", 2000,
              lambda n: [engine.get_eventual(KEY) for _ in range(n)])

    turn, transport = FakeTurn(), Transport()
    turn.put(b"a", VALUE)
    connection = HttpServer(turn, default_policy=2)()
    connection.connection_made(transport)
    count("HTTP GET", 500, lambda n: [connection.data_received(REQUEST) for _ in range(n)])
    assert transport.answers == 500 * (1 + 4 * ROUNDS)
    connection.connection_lost(None)


# ---------------------------------------------------------------------------- the counter
def counted(*measuring: str) -> dict[str, float]:
    """Instructions of one operation each, by name. `measuring` is what Python runs."""
    with tempfile.TemporaryDirectory(prefix="dengine-guard-") as scratch:
        out = Path(scratch, "out")
        command = ["valgrind", "--tool=callgrind", "--separate-threads=yes",
                   f"--callgrind-out-file={out}", f"--dump-before={MARK}",
                   sys.executable, *(measuring or ("-m", "tests.guard", "--measure")), scratch]
        env = {name: value for name, value in os.environ.items() if not name.startswith("DENGINE")}
        env |= ENVIRONMENT
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=env,
                              cwd=FILE.parents[1])
        if done.returncode:
            sys.exit(f"the operations failed under valgrind:\n{done.stdout}{done.stderr}")
        parts = {}
        for file in Path(scratch).glob("out.*"):        # out.<part>-<thread>
            head = file.read_text(errors="replace")
            if "thread: 1\n" in head:
                part = re.search(r"^part: (\d+)$", head, re.MULTILINE)
                total = re.search(r"^(?:summary|totals): (\d+)", head, re.MULTILINE)
                assert part is not None
                assert total is not None
                parts[int(part.group(1))] = int(total.group(1))
        return figures(done.stdout, parts)


def figures(said: str, parts: dict[int, int]) -> dict[str, float]:
    """A round of an operation has three parts: what came before, n of it, 3n of it."""
    found: dict[str, list[float]] = {}
    for number, line in enumerate(said.splitlines()):
        name, n = line.split("\t")
        once, thrice = parts[3 * number + 2], parts[3 * number + 3]
        found.setdefault(name, []).append((thrice - once) / (2 * int(n)))
    return {name: round(median(rounds), 1) for name, rounds in found.items()}


def tools() -> dict[str, str]:
    """What the figures depend on besides the code."""
    import Cython

    def first_line(*command: str) -> str:
        out = subprocess.run(command, capture_output=True, text=True, check=True)
        return out.stdout.splitlines()[0]

    return {
        "python": sys.version.replace("\n", " "),
        "compiler": first_line(os.environ.get("CC", "gcc"), "--version"),
        "cython": Cython.__version__,
        "valgrind": first_line("valgrind", "--version"),
        "libc": os.confstr("CS_GNU_LIBC_VERSION") or "",
        "machine": f"{os.uname().machine}, {'' if has_crc() else 'no '}CRC instruction",
    }


def has_crc() -> bool:
    """Without it CRC-32C is computed from tables."""
    known = Path("/proc/cpuinfo").read_text().split()
    return {"sse4_2", "pclmulqdq"} <= {*known} or {"crc32", "pmull"} <= {*known}


# ---------------------------------------------------------------------------- the judgement
def compare(before: dict[str, float], now: dict[str, float]) -> tuple[list[str], list[str]]:
    """(the table, what is wrong). An operation that comes or goes needs the file to say so too."""
    table = [f"{'operation':34} {'before':>10} {'now':>10} {'change':>8}"]
    wrong = []
    for name in {**before, **now}:
        if name not in before or name not in now:
            wrong.append(f"{name}: only {'counted' if name in now else 'in the file'}")
            continue
        change = now[name] / before[name] - 1
        table.append(f"{name:34} {before[name]:>10.1f} {now[name]:>10.1f} {change:>+8.1%}")
        if change > TOLERANCE:
            wrong.append(f"{name}: {change:+.1%} instructions")
        elif change < -TOLERANCE:
            table[-1] += "  better: update the file, so that it stays"
    return table, wrong


def skipped(update: bool = False) -> str:
    """Why nothing can be counted or compared here; "" if it can."""
    from tests.sim.live import COUNTED

    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    if COUNTED:
        return "this is a debug build"
    if update:
        return ""
    before, now = json.loads(FILE.read_text())["tools"], tools()
    others = [f"\n  {name} is {now.get(name)!r}, not {before.get(name)!r}"
              for name in {**before, **now} if before.get(name) != now.get(name)]
    return f"the figures are of other tools:{''.join(others)}" if others else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--update", action="store_true", help=f"write {FILE.name}")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        asyncio.run(measure(args.measure))
        return 0
    if why := skipped(args.update):
        print(f"guard: skipped: {why}")
        return 0
    before = json.loads(FILE.read_text())["instructions"] if FILE.exists() else {}
    now = counted()
    table, wrong = compare(before, now)
    print(*table, sep="\n")
    if args.update:
        FILE.write_text(json.dumps({"tools": tools(), "instructions": now}, indent=1) + "\n")
        print(f"guard: {FILE.name} is written: say in its commit why the figures changed")
        return 0
    for line in wrong:
        print(f"guard: {line}", file=sys.stderr)
    if wrong:
        print(f"guard: worse than {TOLERANCE:.0%}: make it faster, or `make guard UPDATE=1` and "
              "give the reason in the commit", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
