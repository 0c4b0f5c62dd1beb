"""Logs on a fake disk for tests that go step by step."""
from dengine._core.crc import checksum
from tests.core.histories import COMMAND, DISK_FIRST
from tests.sim.bench_log import LogBench
from tests.sim.disk import Disk

KB, MB = 1 << 10, 1 << 20
FIRST_CRC = checksum((7).to_bytes(8, "little"))     # of the cluster id: a log starts with it


def opened(strategy: int = DISK_FIRST, *, segment: int = 16 * KB, capacity: int = 0,
           **options: int) -> tuple[Disk, LogBench]:
    disk = Disk(3, capacity or 2 * max(segment, 64 * KB))
    return disk, LogBench(disk, strategy=strategy, segment_bytes=segment, **options)


def add(log: LogBench, *sizes: int, term: int = 1, kind: int = COMMAND) -> None:
    for size in sizes:
        log.append(term, kind, b"x" * size)


def write_all(log: LogBench, commit: int = 0) -> None:
    """Until nothing is left to do but late syncs that are not due."""
    while True:
        log.write(commit)
        if log.run() + log.reap() == 0:
            return
