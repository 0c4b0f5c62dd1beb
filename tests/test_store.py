"""Store as its user sees it: a dict that is durable, one node in this process.

What a user expects of each call, against a dict; from many threads; and after kill -9. Other files
have its directory, and what becomes of a store that is forked, interrupted or forgotten.
"""

import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dengine
from dengine import Store
from dengine._core import boot
from dengine.errors import TooLargeError
from tests.processes import WAIT_S, child, finish

STRATEGIES = ("DiskFirst", "MemFirst")


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def store(tmp_path: Path, strategy: Any) -> Iterator[Store]:
    with dengine.open(tmp_path / "s", strategy=strategy) as opened:
        yield opened


# ------------------------------------------------------------------------------------ like a dict
def test_calls(store: Store) -> None:
    assert len(store) == 0
    assert store.revision == 0
    assert not list(store)
    store[b"k"] = b"v"
    assert store[b"k"] == store.get(b"k") == b"v"
    assert b"k" in store
    assert len(store) == 1
    assert store.put(b"k", b"w") == store.revision == 2
    assert store.put(b"l", b"") == 3
    assert store[b"l"] == b""
    assert dict(store) == {b"k": b"w", b"l": b""}
    assert list(store) == list(store.keys()) == [b"k", b"l"]
    assert list(store.values()) == [b"w", b""]
    assert store.delete(b"l") is True
    assert store.delete(b"l") is False
    assert store.revision == 4
    del store[b"k"]
    assert b"k" not in store
    assert store.get(b"k") is None
    assert store.get(b"k", b"d") == b"d"
    for missing in (lambda: store[b"k"], lambda: store.__delitem__(b"k")):
        with pytest.raises(KeyError) as error:
            missing()
        assert error.value.args == (b"k",)


def test_text_is_utf8_and_bytes_come_back(store: Store) -> None:
    store["schlüssel"] = "wert €"
    assert store["schlüssel"] == store["schlüssel".encode()] == "wert €".encode()
    assert "schlüssel" in store
    assert list(store.items("schl")) == [
        ("schlüssel".encode(), "wert €".encode())]
    store[bytearray(b"a")] = memoryview(b"123")[::2]
    assert store[memoryview(b"a")] == b"13"
    assert type(store[b"a"]) is type(next(store.keys())) is bytes
    with pytest.raises(UnicodeEncodeError):
        store["\ud800"] = b""


@pytest.mark.parametrize("bad", [None, 1, 1.5, (), ["k"], object()])
def test_other_types_are_refused(store: Store, bad: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store[bad], lambda: store.get(bad), lambda: bad in store, lambda: store.delete(bad),
        lambda: store.put(bad, b""), lambda: store.put(b"k", bad), lambda: store.items(bad),
        lambda: store.items(b"", bad), lambda: store.__setitem__(b"k", bad),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="keys and values are bytes or str"):
            call()
    assert len(store) == store.revision == 0


def test_limits(store: Store) -> None:
    store[b"k" * 4096] = b"v" * (1 << 20)
    assert len(store[b"k" * 4096]) == 1 << 20
    for key, value, text in ((b"", b"", "key is empty"), (b"k" * 4097, b"", "4097 bytes"),
                             (b"k", b"v" * ((1 << 20) + 1), "1048577 bytes")):
        with pytest.raises(TooLargeError, match=f"{text}.*nothing was written"):
            store.put(key, value)
    assert store.revision == 1
    for absent in (b"", b"k" * 4097, b"k" * 100_000):
        assert store.get(absent) is None
        assert absent not in store


KEYS = st.one_of(st.binary(min_size=1, max_size=3), st.sampled_from([b"a", b"ab", b"b\0", b"\xff"]))


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_against_a_dict(tmp_path: Path, data: st.DataObject) -> None:
    directory = tmp_path / f"{time.monotonic_ns()}"
    oracle: dict[bytes, bytes] = {}
    kind: Any = data.draw(st.sampled_from(STRATEGIES))
    store = dengine.open(directory, strategy=kind)
    snapshots: list[tuple[Iterator[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]] = []
    changes = 0
    for op in data.draw(st.lists(st.sampled_from("ppppddisr"), max_size=40)):
        key = data.draw(KEYS)
        if op == "p":
            oracle[key] = data.draw(st.binary(max_size=20))
            changes += 1
            assert store.put(key, oracle[key]) == changes
        elif op == "d":
            changes += key in oracle
            assert store.delete(key) is (oracle.pop(key, None) is not None)
        elif op == "i":
            start = data.draw(st.binary(max_size=2))
            want = sorted(i for i in oracle.items() if i[0].startswith(key[:1]) and i[0] >= start)
            assert list(store.items(key[:1], start)) == want
        elif op == "s":
            snapshots.append((store.items(), sorted(oracle.items())))
        else:
            store.close()
            store = dengine.open(directory, strategy=data.draw(st.sampled_from(STRATEGIES)))
        assert store.get(key) == oracle.get(key)
        assert (key in store) is (key in oracle)
        assert len(store) == len(oracle)
        assert store.revision == changes
    for items, want in snapshots:
        assert list(items) == want
    assert list(store.items()) == sorted(oracle.items())
    store.close()
    shutil.rmtree(directory)


def test_items_stay_as_they_were(store: Store) -> None:
    for i in range(200):
        store[b"k%03d" % i] = b"old"
    before = store.items(prefix=b"k")
    first = next(before)
    for i in range(0, 200, 2):
        del store[b"k%03d" % i]
    store[b"k001"] = b"new"
    store[b"k000a"] = b"new"
    assert [first, *before] == [(b"k%03d" % i, b"old") for i in range(200)]
    assert len(list(store.items("k"))) == 101


def test_reopen(tmp_path: Path, strategy: Any) -> None:
    for cycle in range(5):
        with dengine.open(tmp_path / "s", strategy=strategy) as store:
            assert store.revision == len(store) == 10 * cycle
            for i in range(10):
                store[f"{cycle}/{i}"] = f"{i}"
    with dengine.open(str(tmp_path / "s")) as store:
        assert list(store.items("3/")) == [(b"3/%d" % i, b"%d" % i) for i in range(10)]


def test_a_path_of_any_bytes_and_a_directory_that_moves(tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch,
                                                        caplog: pytest.LogCaptureFixture) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
    with caplog.at_level("INFO", "dengine"), dengine.open(odd) as store:
        store["k"] = "v"
        monkeypatch.chdir(tmp_path)
    assert "/\\xff\\xfe: " in caplog.messages[0]
    caplog.text.encode()
    os.rename(odd, tmp_path / "moved")
    with dengine.open("moved") as store:
        monkeypatch.chdir("/")
        store["l"] = store["k"]
    assert not Path("/moved").exists()


# --------------------------------------------------------------------------------------- threads
def test_eight_threads_against_a_locked_dict(store: Store) -> None:
    """Threads own disjoint keys, so each knows what it must read; scans see whole states."""
    oracle: dict[bytes, bytes] = {}
    lock = threading.Lock()
    failed: list[BaseException] = []
    until = time.monotonic() + 1.0

    def hammer(number: int) -> None:
        draw = random.Random(number)
        own: dict[bytes, bytes] = {}
        try:
            while time.monotonic() < until:
                key = b"%d/%d" % (number, draw.randrange(50))
                if draw.random() < 0.6:
                    own[key] = draw.randbytes(draw.randrange(40))
                    store[key] = own[key]
                elif draw.random() < 0.5:
                    assert store.delete(key) is (own.pop(key, None) is not None)
                assert store.get(key) == own.get(key)
                if draw.random() < 0.02:
                    assert dict(store.items(b"%d/" % number)) == own
            with lock:
                oracle.update(own)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=hammer, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert list(store.items()) == sorted(oracle.items())


def test_one_sync_serves_all_who_wait(tmp_path: Path) -> None:
    with dengine.open(tmp_path / "s") as store:
        before = boot.status(store.turn)["counters"]["syncs"]
        start = threading.Barrier(100)

        def write(number: int) -> None:
            start.wait()
            for i in range(5):
                store[b"%d/%d" % (number, i)] = b"v"

        threads = [threading.Thread(target=write, args=(i,)) for i in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert len(store) == 500
        assert boot.status(store.turn)["counters"]["syncs"] - before < 250


SLOW_THREAD = """
import sys, threading
import dengine
with dengine.open(sys.argv[1], strategy=sys.argv[2]) as s:
    s["a"] = "1"
    begin, begins, written = s.turn.on_snapshot, threading.Event(), threading.Event()
    def slowly(work):
        begins.set()
        print(written.wait(10))
        begin(work)
    s.turn.on_snapshot = slowly
    thread = threading.Thread(target=s.snapshot)
    thread.start()
    begins.wait()
    s["b"] = "2"
    written.set()
    thread.join()
"""


def test_writes_wait_for_no_thread_that_starts(tmp_path: Path, strategy: Any) -> None:
    """A snapshot's thread starts outside of the turn, which others run meanwhile."""
    assert finish(child(SLOW_THREAD, tmp_path / "s", strategy)) == (0, "True\n", "")


# ---------------------------------------------------------------------------------------- crashes
WRITER = """
import os, random, sys
import dengine
directory, strategy, cycle = sys.argv[1:]
draw = random.Random(int(cycle))
with dengine.open(directory, strategy=strategy) as s:
    os.write(1, b"open\\n")
    for i in range(10**9):
        key = b"%s/%d" % (cycle.encode(), i)
        s[key] = key * draw.randrange(1, 30 if i % 50 else 3000)
        os.write(1, b"%d\\n" % i)
"""


def test_kill_at_any_moment_loses_nothing_acknowledged(tmp_path: Path, strategy: Any) -> None:
    draw = random.Random(strategy)
    written: list[int] = []                     # by cycle: its newest acknowledged key
    for cycle in range(10):
        process = child(WRITER, tmp_path / "s", strategy, cycle)
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        lines = [process.stdout.readline() for _ in range(draw.choice((1, 3, 10, 40)))]
        time.sleep(draw.random() * 0.002)       # the moment is the test
        process.kill()
        lines += process.stdout.readlines()
        finish(process)
        written.append(int([line for line in lines if line.endswith(b"\n")][-1]))
        with dengine.open(tmp_path / "s", strategy=strategy) as store:
            for name, last in enumerate(written):
                have = [int(key.split(b"/")[1]) for key in store.keys(f"{name}/")]
                assert sorted(have) in (list(range(last + 1)), list(range(last + 2)))
