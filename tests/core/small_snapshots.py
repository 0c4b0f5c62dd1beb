"""Stores, and snapshots of them on a fake disk, for tests that go step by step."""
import random

from dengine._core.kv import KV
from tests.sim.bench_snapshot import LIMITS, ReaderBench, WriterBench, put
from tests.sim.disk import Disk
from tests.sim.store import check

PAGE, FRAME_HEADER = 4096, 16
NAME = "snapshot/0000000000000005.snap"
NEW = NAME + ".new"           # until it is complete
Entry = tuple[bytes, bytes, int, int, int, int]


def store_of(seed: int, keys: int, value_bytes: int) -> tuple[KV, list[Entry]]:
    """A store after puts, overwrites and deletes, and what a dict says that it holds."""
    chance = random.Random(seed)
    kv, model, revision = KV(), {}, 0
    while len(model) < keys or revision < 1.3 * keys:
        key = b"%05d" % chance.randrange(2 * keys)
        revision += 1
        if key in model and chance.random() < 0.5:
            kv.remove(key)
            del model[key]
            continue
        create, version = (model[key][2], model[key][4] + 1) if key in model else (revision, 1)
        value = chance.choice([b"", b"v", chance.randbytes(chance.randrange(value_bytes)),
                               b"x" * chance.randrange(value_bytes)])
        lease = chance.choice([0, 0, 2**64 - 1])
        put(kv, key, value, lease)
        model[key] = (key, value, create, revision, version, lease)
    return kv, [model[key] for key in sorted(model)]


def small() -> tuple[Disk, KV, bytes]:
    """A disk with one small snapshot of a frame of each kind."""
    disk, kv = Disk(1, 64 << 10), store_of(1, 9, 30)[0]
    WriterBench(disk, "snapshot", kv, b"engine").run()
    return disk, kv, disk.read(NAME)


def several() -> tuple[Disk, KV, bytes]:
    """A disk with a small file of three engine frames and several of the store."""
    disk, kv = Disk(1, 128 << 10), KV()
    for n in range(40):
        kv.store(b"%d" % n, bytes(LIMITS["frame"] // 8))
    WriterBench(disk, "snapshot", kv, b"".join(
        bytes([n]) * LIMITS["frame"] for n in range(3))).run()
    return disk, kv, disk.read(NAME)


def loaded(disk: Disk | None, path: str = NAME) -> tuple[KV, bytes]:
    kv = KV()
    engine = ReaderBench(disk, path, kv).run()
    check(kv)
    return kv, engine
