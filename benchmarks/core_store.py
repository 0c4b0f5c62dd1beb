"""What the checksum and the store cost when they are called from Python, without log and consensus.

    pytest benchmarks/core_store.py --benchmark-enable

One round makes a batch of calls on keys in random order: divide the figures by BATCH. About 30 ns
of each call are the interpreter's.
"""
import random
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from dengine._core.crc import checksum
from dengine._core.kv import KV

BATCH = 1_000
VALUE = b"v" * 64
SIZES = pytest.mark.parametrize("count", [1_000, 1_000_000])


def key_of(n: int) -> bytes:
    return random.Random(n).randbytes(16)


@pytest.fixture(scope="module")
def stores() -> dict[int, KV]:
    return {}


@pytest.fixture
def kv(stores: dict[int, KV], count: int) -> KV:
    if count not in stores:
        stores[count] = KV()
        for n in range(count):
            stores[count].store(key_of(n), VALUE)
    return stores[count]


def batches(count: int) -> Callable[[], tuple[tuple[list[bytes]], dict[str, object]]]:
    """For each round other keys: a batch that is repeated would be in the cache."""
    rng = random.Random(1)
    return lambda: (([key_of(rng.randrange(count)) for _ in range(BATCH)],), {})


def run(benchmark: BenchmarkFixture, count: int, work: Callable[[list[bytes]], None]) -> None:
    benchmark.extra_info["calls"] = BATCH
    benchmark.pedantic(work, setup=batches(count), rounds=200)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("portable", [False, True], ids=["hardware", "portable"])
@pytest.mark.parametrize("size", [64, 288, 4_096, 1 << 20])
def test_crc(benchmark: BenchmarkFixture, size: int, portable: bool) -> None:
    benchmark(checksum, bytes(size), 0, portable)


@SIZES
def test_get(benchmark: BenchmarkFixture, kv: KV, count: int) -> None:
    def work(keys: list[bytes]) -> None:
        for key in keys:
            kv.lookup(key)

    run(benchmark, count, work)


@SIZES
def test_put_of_an_existing_key(benchmark: BenchmarkFixture, kv: KV, count: int) -> None:
    def work(keys: list[bytes]) -> None:
        for key in keys:
            kv.store(key, VALUE)

    run(benchmark, count, work)


@SIZES
def test_put_under_a_pin(benchmark: BenchmarkFixture, kv: KV, count: int) -> None:
    """The first change of a key after a pin copies what they share."""

    def work(keys: list[bytes]) -> None:
        pin = kv.pin()
        for key in keys:
            kv.store(key, VALUE)
        del pin

    run(benchmark, count, work)


@pytest.mark.parametrize("count", [1_000_000])
def test_scan(benchmark: BenchmarkFixture, kv: KV, count: int) -> None:
    pin = kv.pin()

    def work(keys: list[bytes]) -> None:
        for _ in zip(keys, pin.scan(start=keys[0]), strict=False):
            pass

    run(benchmark, count, work)
