"""The store against a dict, the tree against a sorted list, pins against what they were."""
import gc
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dengine._core.kv import KV, Pin
from dengine.errors import TooLargeError
from tests.sim.store import bytes_used, check, limit_allocations

FANOUT = 32
BUCKET_KEYS = 384

# Keys that meet: prefixes of each other, zero bytes where a prefix is padded, equal first 8 bytes.
keys = st.one_of(
    st.binary(max_size=3),
    st.sampled_from([b"", b"\0", b"\0\0", b"a", b"a\0", b"a\0\0\0\0\0\0\0", b"a\0\0\0\0\0\0\0\0"]),
    st.integers(0, 400).map(lambda n: b"prefix..%03d" % n),
    st.integers(0, 400).map(lambda n: n.to_bytes(2, "big")),
)
values = st.binary(max_size=40)


def contents(pin: Pin) -> list[tuple[bytes, bytes]]:
    return list(pin.scan())


def number(n: int) -> bytes:
    return b"%016d" % n


class Store(RuleBasedStateMachine):
    """Any history of changes and pins, beside a dict of (value, create, mod, version)."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = KV()
        self.twin = KV()            # the same history, other hash seed, no pins
        self.model: dict[bytes, tuple[bytes, int, int, int]] = {}
        self.revision = 0
        self.pins: list[tuple[Pin, list[tuple[bytes, bytes]], int, int]] = []

    @rule(key=keys, value=values)
    def store(self, key: bytes, value: bytes) -> None:
        self.revision += 1
        created, version = self.revision, 1
        if key in self.model:
            created, version = self.model[key][1], self.model[key][3] + 1
        self.model[key] = (value, created, self.revision, version)
        assert self.kv.store(key, value) == self.revision
        self.twin.store(key, value)
        assert self.kv.lookup(key) == self.model[key]

    @rule(key=keys)
    def remove(self, key: bytes) -> None:
        there = self.model.pop(key, None) is not None
        self.revision += there
        assert self.kv.remove(key) is there
        self.twin.remove(key)
        assert self.kv.lookup(key) is None

    @rule(first=st.integers(0, 350), count=st.integers(1, 120), step=st.sampled_from([1, -1]))
    def store_a_run(self, first: int, count: int, step: int) -> None:
        for n in range(first, first + count)[::step]:
            self.store(b"prefix..%03d" % n, b"%d" % n)

    @rule(first=st.integers(0, 350), count=st.integers(1, 300))
    def remove_a_run(self, first: int, count: int) -> None:
        for n in range(first, first + count):
            self.remove(b"prefix..%03d" % n)

    @rule()
    def pin(self) -> None:
        pin = self.kv.pin()
        self.pins.append((pin, self.sorted_items(), self.revision, self.kv.digest()))

    @rule(which=st.integers(0, 10))
    def drop_a_pin(self, which: int) -> None:
        if self.pins:
            del self.pins[which % len(self.pins)]

    @rule(prefix=st.binary(max_size=2), start=keys)
    def scan(self, prefix: bytes, start: bytes) -> None:
        expected = [i for i in self.sorted_items() if i[0].startswith(prefix) and i[0] >= start]
        assert list(self.kv.pin().scan(prefix, start)) == expected

    @invariant()
    def all_is_as_it_must_be(self) -> None:
        check(self.kv)
        assert len(self.kv) == len(self.model)
        assert self.kv.revision == self.revision
        for pin, expected, revision, digest in self.pins:
            assert contents(pin) == expected
            assert (len(pin), pin.revision, pin.digest()) == (len(expected), revision, digest)

    def teardown(self) -> None:
        assert self.kv.digest() == self.twin.digest()
        assert {key: self.kv.lookup(key) for key in self.model} == self.model

    def sorted_items(self) -> list[tuple[bytes, bytes]]:
        return sorted((key, entry[0]) for key, entry in self.model.items())


TestStore = Store.TestCase
TestStore.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, derandomize=True, database=None
)


@pytest.fixture(autouse=True)
def unlimited_memory() -> Iterator[None]:
    yield
    limit_allocations()


def filled(order: list[int], value: bytes = b"v") -> KV:
    kv = KV()
    for n in order:
        kv.store(number(n), value)
    return kv


def shuffled(n: int, seed: int = 1) -> list[int]:
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return order


def test_empty() -> None:
    kv = KV()
    assert kv.lookup(b"") is None
    assert kv.remove(b"") is False
    assert (len(kv), kv.revision) == (0, 0)
    assert contents(kv.pin()) == []
    check(kv)


def test_only_a_change_takes_a_revision() -> None:
    kv = KV()
    assert kv.store(b"a", b"1") == 1
    assert kv.store(b"a", b"1") == 2
    assert kv.remove(b"missing") is False
    assert kv.lookup(b"a") == (b"1", 1, 2, 2)
    assert kv.remove(b"a") is True
    assert kv.revision == 3
    assert kv.store(b"a", b"2") == 4
    assert kv.lookup(b"a") == (b"2", 4, 4, 1)      # a new life, a new create_revision


def test_limits_are_refused_and_change_nothing() -> None:
    kv = KV()
    assert kv.store(b"k" * 4096, b"v" * (1 << 20)) == 1
    for key, value in ((b"k" * 4097, b""), (b"", b"v" * ((1 << 20) + 1))):
        with pytest.raises(TooLargeError, match="nothing was changed"):
            kv.store(key, value)
    assert (kv.revision, len(kv)) == (1, 1)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 72, 73, 200])
@pytest.mark.parametrize("pinned", [False, True])
def test_a_value_of_another_size(size: int, pinned: bool) -> None:
    kv = KV()
    kv.store(b"0123456789abcdef", b"o" * 64)
    pins = [kv.pin()] if pinned else []
    kv.store(b"0123456789abcdef", b"n" * size)
    assert kv.lookup(b"0123456789abcdef") == (b"n" * size, 1, 2, 2)
    assert [contents(pin) for pin in pins] == [[(b"0123456789abcdef", b"o" * 64)]] * pinned
    check(kv)


def test_ascending_inserts_leave_full_leaves() -> None:
    n = 100 * FANOUT
    ascending, random_order = filled(list(range(n))), filled(shuffled(n))
    check(ascending)
    assert contents(ascending.pin()) == contents(random_order.pin())
    leaf = 8 + 16 * FANOUT
    items = n * 72                              # 48 + 16 + 1, as malloc rounds it
    table = bytes_used(ascending) - items - 100 * leaf
    assert 0 < table < 16 * 6160 + 100 * 72 + 6 * 780 + 128


@pytest.mark.parametrize("seed", range(3))
def test_random_churn_keeps_memory_bounded(seed: int) -> None:
    rng = random.Random(seed)
    kv = KV()
    oracle: dict[bytes, bytes] = {}
    for target in (6_000, 300, 4_000, 50, 5_000):
        while len(oracle) != target:
            key = number(rng.randrange(20_000))
            if len(oracle) < target:
                oracle[key] = rng.randbytes(rng.randrange(20))
                kv.store(key, oracle[key])
            else:
                assert kv.remove(key) is (oracle.pop(key, None) is not None)
        check(kv)
        assert contents(kv.pin()) == sorted(oracle.items())
        # An item, its share of a node a third full, its share of a table that does not shrink.
        assert bytes_used(kv) < target * (48 + 16 + 20 + 16 + 3 * 20) + 6_000 * 36 + 8_192


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_removing_everything_leaves_nothing(order: str) -> None:
    kv = filled(shuffled(3_000))
    pin = kv.pin()
    expected = contents(pin)
    doomed = shuffled(3_000, seed=2)
    if order != "random":
        doomed.sort(reverse=order == "descending")
    for n in doomed:
        assert kv.remove(number(n)) is True
    assert (len(kv), contents(kv.pin())) == (0, [])
    check(kv)
    assert contents(pin) == expected
    assert bytes_used(kv) < 3_000 * 36         # the table


@pytest.mark.parametrize("step", [1, -1])
def test_leaves_that_shrink_merge_with_the_neighbour_that_shrank_before(step: int) -> None:
    n = 200 * FANOUT
    kv = filled(list(range(n)))
    for key in range(n)[::step]:
        if key % FANOUT:
            kv.remove(number(key))
    check(kv)
    sparse = bytes_used(kv)
    for key in range(0, n, FANOUT):
        kv.remove(number(key))
    nodes = sparse - bytes_used(kv) - 200 * 72
    assert nodes < 200 / 10 * (8 + 16 * FANOUT + 72)        # ten items in a leaf, not one


def test_pins_stay_as_they_were_and_go_in_any_order() -> None:
    rng = random.Random(7)
    kv = KV()
    oracle: dict[bytes, bytes] = {}
    pins: list[tuple[Pin, list[tuple[bytes, bytes]]]] = []
    for step in range(6_000):
        key = number(rng.randrange(700))
        if rng.random() < 0.6:
            oracle[key] = b"%d" % step
            kv.store(key, oracle[key])
        elif oracle.pop(key, None) is not None:
            kv.remove(key)
        if step % 100 == 0:
            pins.append((kv.pin(), sorted(oracle.items())))
        if len(pins) > 12:
            pin, expected = pins.pop(rng.randrange(len(pins)))
            assert contents(pin) == expected
    check(kv)
    del kv                                      # pins outlive the store
    for pin, expected in pins:
        assert contents(pin) == expected


def test_a_scan_keeps_its_generation() -> None:
    kv = filled(list(range(1_000)))
    scan = kv.pin().scan(start=number(500))
    for n in range(1_000):
        kv.remove(number(n))
    del kv
    gc.collect()
    assert [key for key, _ in scan] == [number(n) for n in range(500, 1_000)]
    assert list(scan) == []


def test_a_pin_is_walked_on_another_thread_while_the_store_changes() -> None:
    kv = filled(shuffled(20_000), b"x" * 20)
    expected = kv.digest()
    found: list[int] = []
    pins = [kv.pin() for _ in range(3)]

    def walk() -> None:
        while pins:
            found.append(pins[-1].digest())
            pins.pop()                          # the last reference may go on this thread

    thread = threading.Thread(target=walk)
    thread.start()
    n = 0
    while thread.is_alive() or n < 20_000:
        kv.store(number(n % 20_000), b"y" * 20)
        kv.remove(number((n * 7919) % 20_000))
        n += 1
    thread.join()
    assert found == [expected] * 3
    check(kv)


def test_equal_histories_have_equal_digests_and_others_have_not() -> None:
    def history(last: bytes = b"v", extra: bool = False) -> int:
        kv = filled(list(range(100)))
        if extra:
            kv.store(b"x", b"")
            kv.remove(b"x")
        kv.store(number(50), last)
        return kv.digest()

    assert history() == history()
    assert len({history(), history(b"w"), history(b""), history(extra=True), KV().digest()}) == 5


def siphash_1_3(k0: int, k1: int, data: bytes) -> int:
    mask = 2**64 - 1
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D,
         k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotate(x: int, n: int) -> int:
        return (x << n | x >> 64 - n) & mask

    def mix() -> None:
        for a, b, c, d, s, t in ((0, 1, 2, 3, 13, 16), (2, 1, 0, 3, 17, 21)):
            v[a] = v[a] + v[b] & mask
            v[c] = v[c] + v[d] & mask
            v[b] = rotate(v[b], s) ^ v[a]
            v[d] = rotate(v[d], t) ^ v[c]
            v[a] = rotate(v[a], 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at:at + 8], "little")
        v[3] ^= word
        mix()
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(3):
        mix()
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_the_digest_is_a_chain_of_siphash_1_3() -> None:
    kv = KV()
    for n in range(60):
        kv.store(b"k" * (n % 31), b"v" * n)
    digest = kv.revision
    for key, value in kv.pin().scan():
        _, created, modified, version = kv.lookup(key) or (b"", 0, 0, 0)
        head = b"".join(x.to_bytes(8, "little") for x in (created, modified, version, 0))
        digest = siphash_1_3(digest, len(key) << 32 | len(value), head + key + value)
    assert kv.digest() == digest


def test_a_shifted_border_of_key_and_value_changes_the_digest() -> None:
    one, other = KV(), KV()
    one.store(b"ab", b"c")
    other.store(b"a", b"bc")
    assert one.digest() != other.digest()


def test_chosen_keys_do_not_collide() -> None:
    def crowded(kv: KV) -> int:
        """Bytes of table and nodes: buckets split until no bucket is too full."""
        return bytes_used(kv) - sum(len(key) + 120 for key, _ in kv.pin().scan())

    families = [
        [n.to_bytes(16, "little") for n in range(4_000)],
        [(n << 48).to_bytes(16, "big") for n in range(4_000)],
        [b"\0" * n for n in range(4_000)],
        [bytes([n % 256]) * 8 + bytes([n // 256]) * 8 for n in range(4_000)],
    ]
    for family in families:
        kv = KV()
        for key in family:
            kv.store(key, b"")
        check(kv)
        assert crowded(kv) < 4_000 * 48


def failures_until_done(kv: KV, change: Callable[[], object]) -> int:
    """Makes the change with 0, 1, 2, ... allocations allowed, until they are enough."""
    before = kv.revision, kv.digest(), contents(kv.pin())
    for allowed in range(100):
        limit_allocations(allowed)
        try:
            change()
        except MemoryError:
            limit_allocations()
            check(kv)
            assert (kv.revision, kv.digest(), contents(kv.pin())) == before
        else:
            limit_allocations()
            check(kv)
            return allowed
    raise AssertionError("no change needs so many allocations")


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("size", [0, 1, FANOUT, BUCKET_KEYS, FANOUT * FANOUT + FANOUT, 1_500])
def test_a_failed_allocation_changes_nothing(size: int, pinned: bool) -> None:
    # Nodes full along the right edge, a table about to grow: many allocations in one change.
    rng = random.Random(size)
    kv = filled(list(range(0, 2 * size, 2)))
    failures = 0
    for n in [2 * size, *(rng.randrange(2 * size + 1) for _ in range(6))]:
        pins = [(kv.pin(), contents(kv.pin()))] if pinned else []
        failures += failures_until_done(kv, partial(kv.store, number(n), b"w" * 40))
        failures += failures_until_done(kv, partial(kv.remove, number(n)))
        assert all(contents(pin) == expected for pin, expected in pins)
    assert failures >= 7


def test_a_new_store_without_memory() -> None:
    for allowed in range(2):
        limit_allocations(allowed)
        with pytest.raises(MemoryError):
            KV()


LEAKS = """
import ctypes, gc, random
from dengine._core.kv import KV
from tests.sim.store import bytes_used, check, limit_allocations

class Info(ctypes.Structure):
    # uordblks, bytes in use, is the eighth of ten
    _fields_ = [(name, ctypes.c_size_t) for name in "a b c d e f g uordblks i j".split()]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Info

def churn():
    rng = random.Random(5)
    kv, pins = KV(), []
    for step in range(40_000):                  # it grows, shrinks, and grows again
        key = b"%016d" % rng.randrange(3_000)
        growing = step % 10_000 < 5_000
        try:
            limit_allocations(rng.randrange(20))
            kv.store(key, bytes(rng.randrange(80))) if growing else kv.remove(key)
        except MemoryError:
            pass
        if step % 500 == 0:
            pins.append(kv.pin())
        if len(pins) > 5:
            del pins[rng.randrange(6)]
    limit_allocations()
    for order in (1, -1):                       # leaves are emptied beside full ones
        kv = KV()
        for n in range(3_000):
            kv.store(b"%016d" % n, b"")
        for n in range(3_000)[::order]:
            kv.remove(b"%016d" % n)

churn()
gc.collect()
before = mallinfo2().uordblks
churn()
churn()
gc.collect()
print(mallinfo2().uordblks - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallinfo2 is glibc's")
def test_nothing_leaks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAKS], capture_output=True, text=True, check=False
    )
    if "mallinfo2" in done.stderr:
        pytest.skip("no mallinfo2 in this libc")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4_096             # one item in a hundred changes would be 60 KB


def test_refuses_what_is_not_bytes() -> None:
    kv = KV()
    wrong: Any
    for wrong in (None, "text", 1, bytearray(b"key")):
        for call in (kv.lookup, kv.remove, partial(kv.store, b""), lambda key: kv.store(key, b"")):
            with pytest.raises(TypeError):
                call(wrong)
        for arguments in ({"prefix": wrong}, {"start": wrong}):
            with pytest.raises(TypeError):
                kv.pin().scan(**arguments)
