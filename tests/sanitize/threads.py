"""Store from 8 threads against a dict behind a lock: reads, writes, deletes, scans, pins.

It decides what a store that many threads use must keep:
- a key that one thread changes at a time reads as it was left;
- a pin taken while nobody writes equals the dict of that moment, whenever it is walked;
- a scan beside writers is in order, and each value is of its key and not older than the scan;
- what is closed is what is opened again.
It knows nothing of sanitizers: the same run is made in each build.
"""
import argparse
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast

import dengine
from dengine import Store
from dengine._core import boot

THREADS = 8
KEYS = 400
SHORTEST_S = 1.0
STRATEGIES = ("DiskFirst", "MemFirst")
JOIN_S = 60.0           # a thread that does not end by then hangs


class Gate:
    """Many writers, or one that pins: nobody writes while it is held alone."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.writers = 0
        self.alone = False

    def enter(self) -> None:
        with self.changed:
            while self.alone:
                self.changed.wait()
            self.writers += 1

    def leave(self) -> None:
        with self.changed:
            self.writers -= 1
            self.changed.notify_all()

    def __enter__(self) -> None:
        with self.changed:
            while self.alone:
                self.changed.wait()
            self.alone = True
            while self.writers:
                self.changed.wait()

    def __exit__(self, *error: object) -> None:
        with self.changed:
            self.alone = False
            self.changed.notify_all()


class Run:
    def __init__(self, store: Store, seed: int) -> None:
        self.store = store
        self.seed = seed
        self.model: dict[bytes, bytes] = {}
        self.locks = [threading.Lock() for _ in range(KEYS)]
        self.written = [0] * KEYS       # the newest number that was given to the key
        self.gate = Gate()
        self.stop = threading.Event()
        self.failures: list[BaseException] = []
        self.done = dict.fromkeys(("put", "delete", "get", "scan", "pin", "compared"), 0)
        self.count = threading.Lock()

    def work(self, number: int) -> None:
        rng = random.Random(f"{self.seed} {number}")
        try:
            done = dict.fromkeys(self.done, 0)
            while not self.stop.is_set():
                self.step(rng, done)
            with self.count:
                for name, n in done.items():
                    self.done[name] += n
        except BaseException as error:
            self.failures.append(error)
            self.stop.set()

    def step(self, rng: random.Random, done: dict[str, int]) -> None:
        action = rng.choices(("change", "get", "scan", "pin"), (60, 38, 1, 0.5))[0]
        if action == "change":
            self.change(rng, done)
        elif action == "get":
            self.get(rng)
            done["get"] += 1
        elif action == "scan":
            self.scan(rng)
            done["scan"] += 1
        else:
            done["compared"] += self.pin(rng)
            done["pin"] += 1

    def change(self, rng: random.Random, done: dict[str, int]) -> None:
        """One key, by this thread alone; others are changed meanwhile."""
        n = rng.randrange(KEYS)
        key = name_of(n)
        self.gate.enter()
        try:
            with self.locks[n]:
                assert self.store.get(key) == self.model.get(key), key
                if rng.random() < 0.7:
                    self.written[n] += 1
                    value = value_of(n, self.written[n], rng.randrange(300))
                    self.store.put(key, value)
                    self.model[key] = value
                    done["put"] += 1
                else:
                    assert self.store.delete(key) is (self.model.pop(key, None) is not None), key
                    done["delete"] += 1
                assert self.store.get(key) == self.model.get(key), key
        finally:
            self.gate.leave()

    def get(self, rng: random.Random) -> None:
        """No lock: the value is the key's, and not older than what was written before."""
        n = rng.randrange(KEYS)
        before = self.written[n]
        value = self.store.get(name_of(n))
        if value is not None:
            # a put that has not returned is one ahead of nothing: its number is taken first
            assert before - 1 <= number_in(n, value) <= self.written[n], (n, before, value)

    def scan(self, rng: random.Random) -> None:
        before = list(self.written)
        last = b""
        for key, value in self.store.items():
            n = int(key[1:])
            assert key > last, (key, last)
            assert before[n] - 1 <= number_in(n, value) <= self.written[n], (key, value)
            last = key
            if rng.random() < 0.01:
                time.sleep(0)           # let writers in between

    def pin(self, rng: random.Random) -> int:
        """The store at one moment; walked later, it is still that."""
        with self.gate:
            model = dict(self.model)
            pinned = [self.store.items(), self.store.items(prefix=b"k1")]
            assert len(self.store) == len(model)
        everything = self.slowly(pinned[0], rng)
        assert dict(everything) == model
        some = {key: value for key, value in model.items() if key.startswith(b"k1")}
        assert dict(self.slowly(pinned[1], rng)) == some
        return len(model)

    def slowly(self, items: Iterator[tuple[bytes, bytes]],
               rng: random.Random) -> Iterator[tuple[bytes, bytes]]:
        for item in items:
            yield item
            if rng.random() < 0.05:
                self.stop.wait(0.0005)

    def watch(self) -> None:
        """What `/metrics` reads, beside all of it."""
        while not self.stop.wait(0.01):
            assert boot.status(self.store.turn)["keys"] <= KEYS


def name_of(n: int) -> bytes:
    return b"k%03d" % n


def value_of(n: int, number: int, size: int) -> bytes:
    return b"%d:%d:" % (n, number) + bytes([number & 0xFF]) * size


def number_in(n: int, value: bytes) -> int:
    """Which write of key n this is; every byte of it."""
    key, number, rest = value.split(b":", 2)
    assert int(key) == n, (n, value)
    assert rest == bytes([int(number) & 0xFF]) * len(rest), (n, value)
    return int(number)


def stress(directory: Path, strategy: str, seconds: float, seed: int) -> dict[str, int]:
    """One run; AssertionError or what a call raised if the store differs."""
    named = cast(Literal["DiskFirst", "MemFirst"], strategy)
    with dengine.open(directory, strategy=named) as store:
        run = Run(store, seed)
        threads = [threading.Thread(target=run.work, args=(i,)) for i in range(THREADS)]
        threads.append(threading.Thread(target=run.watch))
        for thread in threads:
            thread.start()
        run.stop.wait(seconds)
        run.stop.set()
        for thread in threads:
            thread.join(JOIN_S)
            assert not thread.is_alive(), "a thread hangs"
        if run.failures:
            raise run.failures[0]
        assert dict(store.items()) == run.model
    with dengine.open(directory, strategy=named) as store:
        assert dict(store.items()) == run.model, "the store that was opened again differs"
    return run.done


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300, help="for both strategies together")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for strategy in STRATEGIES:
        directory = Path(tempfile.mkdtemp(prefix="dengine-threads-"))
        try:
            seconds = max(SHORTEST_S, args.seconds / len(STRATEGIES))
            done = stress(directory / "s", strategy, seconds, args.seed)
        finally:
            shutil.rmtree(directory)
        print(f"{strategy}:", *(f"{n} {name}," for name, n in done.items()), flush=True)
        empty = [name for name, n in done.items() if not n]
        assert not empty, f"nothing of {empty} happened: the run proves nothing"


if __name__ == "__main__":
    main()
