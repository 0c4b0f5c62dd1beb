"""Random histories of one log on a fake disk, beside a list of what was appended: from a seed.

A history is a number of lives. In each, records are appended, cut, written, synced, until a crash;
the next life must find what the one before was promised.
"""
import errno
import random
import struct
from contextlib import suppress

from dengine._core.crc import checksum
from dengine.errors import StorageError
from tests.sim.bench_log import LogBench
from tests.sim.disk import Disk

DISK_FIRST, MEM_FIRST = 0, 1
NOOP, COMMAND = 1, 2
PAGE = 4096
DATA = 3 * PAGE
ERRORS = [errno.EIO, errno.ENOSPC]
HEADER = struct.Struct("<QIIQQQQQQII")
MARK = struct.Struct("<IIQQQQQQII")


def term_of(record: bytes) -> int:
    return struct.unpack_from("<Q", record, 8)[0]


def crc_of(record: bytes) -> int:
    return struct.unpack_from("<I", record, 4)[0]


def marks(data: bytes) -> list[tuple[int, ...]]:
    """(sequence, epoch, offset, index, term, commit, crc) of the valid marks of a segment."""
    found = []
    for page in (data[PAGE:2 * PAGE], data[2 * PAGE:3 * PAGE]):
        if len(page) == PAGE and page[:4] == b"mark":
            _, crc, *fields, record_crc, zero = MARK.unpack_from(page)
            if crc == checksum(page[8:MARK.size]) and zero == 0:
                found.append((*fields, record_crc))
    return found


def chain(data: bytes) -> dict[int, tuple[int, int, int]]:
    """The valid records of a segment: the offset behind each -> its (index, term, crc)."""
    *_, index, term, crc, _ = HEADER.unpack_from(data)
    ends, at = {DATA: (index, term, crc)}, DATA
    while at + 32 <= len(data):
        length, stored, term, index = struct.unpack_from("<IIQQ", data, at)
        if length < 32 or stored != checksum(data[at + 8:at + length], crc):
            break
        at += (length + 7) & ~7
        crc = stored
        ends[at] = (index, term, crc)
    return ends


def newest_mark(disk: Disk, tier: str = "durable") -> tuple[int, ...] | None:
    every = [m for name in disk.names("log") for m in marks(getattr(disk, tier)(f"log/{name}"))]
    return max(every, default=None)


class History:
    """One log through crashes. `model` is the log as its user knows it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.disk = Disk(seed, 1 << 17)
        self.strategy = self.random.randrange(2)
        self.segment_bytes = self.random.choice([16, 20, 32]) << 10
        self.largest = self.random.choice([40, 600, 5000])
        self.model: list[bytes] = []
        self.accepted: dict[tuple[int, int], bytes] = {}
        self.open()

    def open(self, only_kill: bool = False) -> None:
        """Sometimes the disk fails a call of recovery, and the machine goes down once more."""
        again = [self.disk.kill] if only_kill else [self.disk.kill, self.disk.power_cut]
        if self.random.random() < 0.2:
            call = self.random.choice(["sync_dir", "unlink", "write", "open", "read"])
            self.disk.fail(call, self.random.randrange(1, 6), errno.EIO)
            with suppress(StorageError):
                self.recover()
            self.random.choice(again)()
        self.recover()

    def recover(self) -> None:
        self.strategy ^= self.random.random() < 0.1     # a user may change it between two starts
        self.log = LogBench(self.disk, strategy=self.strategy, segment_bytes=self.segment_bytes,
                            threshold=self.random.choice([1, 5, 100]),
                            interval_us=self.random.choice([0, 20000]))
        self.found = self.log.records()
        self.versions = [self.found]
        self.model = list(self.found)
        self.promised = 0
        self.term = self.log.last_term + 1

    def live(self, steps: int) -> None:
        """One life up to its crash; sometimes the disk fails, and the node stops."""
        faulty = self.random.random() < 0.2
        if faulty:
            call = self.random.choice(["write", "sync", "sync", "sync_dir", "open", "rename"])
            self.disk.fail(call, self.random.randrange(1, 12), self.random.choice(ERRORS))
        try:
            for _ in range(steps):
                self.step()
        except StorageError:
            assert faulty
            self.crash(["kill", "power"])
        else:
            self.crash(["kill", "power"] if faulty else ["kill", "power", "power", "stop"])

    # ------------------------------------------------------------------------------- one step
    def step(self) -> None:
        self.random.choices(
            [self.append, self.write, self.run_job, self.cut, self.copy, self.prepare, self.idle],
            [30, 25, 30, 4, 4, 5, 3])[0]()
        assert self.log.last == len(self.model)
        durable = self.log.durable()
        assert durable <= self.log.written <= self.log.last
        self.promised = max(self.promised, durable)

    def append(self) -> None:
        for _ in range(self.random.choice([1, 1, 2, 5])):
            self.term += self.random.random() < 0.05
            kind = NOOP if self.random.random() < 0.1 else COMMAND
            size = 0 if kind == NOOP else self.random.randrange(self.largest)
            index = self.log.append(self.term, kind, self.random.randbytes(size))
            assert index == len(self.model) + 1
            self.model.append(self.log.record(index))

    def copy(self) -> None:
        """A record that was cut comes back from another leader, byte for byte."""
        for version in reversed(self.versions[:-1]):
            n = len(self.model)
            if version[:n] == self.model and len(version) > n:
                self.log.append_record(version[n])
                self.model.append(version[n])
                self.term = max(self.term, term_of(version[n]))
                return

    def cut(self) -> None:
        to = self.random.randrange(max(0, len(self.model) - 6), len(self.model) + 1)
        self.versions[-1] = list(self.model)
        self.promised = min(self.promised, to)
        self.log.cut(to)
        del self.model[to:]
        self.versions.append(self.model)
        self.term += 1

    def write(self) -> None:
        self.log.write(self.random.choice([0, len(self.model)]))

    def run_job(self) -> None:
        self.log.run(self.random.choice([1, 1, 2, 100]))
        if self.random.random() < 0.7:
            self.log.reap()

    def prepare(self) -> None:
        self.log.run_preparer()

    def idle(self) -> None:
        self.disk.advance(self.random.choice([10_000, 100_000, 1_000_000]))
        if self.log.jobs == 0:
            error = self.log.refresh()
            if error:
                raise StorageError(f"errno {error}")

    # ------------------------------------------------------------------------------- a crash
    def crash(self, ways: list[str]) -> None:
        """Kill, power cut, or a clean stop; then the next life."""
        how = self.random.choice(ways)
        self.versions[-1] = list(self.model)
        floor = self.promised
        if how == "stop":
            self.log.settle(0)
            floor = len(self.model)
            self.log.close()
            self.disk.kill()
        elif how == "power":
            if self.strategy == MEM_FIRST:
                floor = self.log.synced
            self.disk.power_cut()
        else:
            floor = self.log.written if "stop" in ways else min(floor, self.log.synced)
            self.disk.kill()
        self.marks_are_true()
        kept = self.model[:floor]
        versions = self.versions
        self.open(only_kill=how == "kill" and self.strategy == MEM_FIRST)
        assert self.model[:floor] == kept, f"{how} lost what was promised"
        assert any(v[:len(self.model)] == self.model for v in versions), f"{how} made up a log"
        self.unchanged()

    def marks_are_true(self) -> None:
        """What a mark on the platter proves is on the platter."""
        names = self.disk.names("log")
        for name in names:
            for _, epoch, offset, index, term, _, crc in marks(self.disk.durable(f"log/{name}")):
                if f"{epoch:016x}.seg" in names:
                    data = self.disk.durable(f"log/{epoch:016x}.seg")
                    assert chain(data)[offset] == (index, term, crc)

    def unchanged(self) -> None:
        """Nothing readable was overwritten: what was accepted stays while its file does."""
        names = set(self.disk.names("log"))
        for (epoch, offset), record in list(self.accepted.items()):
            name = f"{epoch:016x}.seg"
            if name in names:
                data = self.disk.read(f"log/{name}")
                assert data[offset:offset + len(record)] == record
            else:
                del self.accepted[epoch, offset]
        for i, record in enumerate(self.model, 1):
            epoch, offset, size, count = self.log.place(i, i, 1)
            assert (size, count) == (len(record), 1)
            self.accepted[epoch, offset] = record
