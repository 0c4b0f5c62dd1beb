"""What a node measures of itself: that it counts what happened, and that users are told of it.

The figures are the product's own; what they mean is in docs/operations.md.
"""
import re
import threading
import time
from pathlib import Path

import dengine
from dengine import Store
from dengine._core import boot
from dengine.http.metrics import COUNTERS, NOW, Metrics
from tests.chaos import report
from tests.chaos.run import Verdict, take_metrics
from tests.cluster import ROOT

PAGE = 4096
MIB = 1 << 20


class NoRequests:
    connections = 0

    def requests(self) -> dict[tuple[str, int, str], int]:
        return {}


class Watched:
    """A store as /metrics looks at it."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def status(self) -> dict[str, object]:
        return boot.status(self.store.turn)


def counters(store: Store) -> dict[str, int]:
    return boot.status(store.turn)["counters"]


def text_of(store: Store) -> str:
    return Metrics(Watched(store), NoRequests()).text().decode()


def test_every_counter_has_a_name_a_meaning_and_a_line_in_the_manual(tmp_path: Path) -> None:
    manual = (ROOT / "docs" / "operations.md").read_text()
    with dengine.open(tmp_path / "s") as store:
        assert {*counters(store)} == {*COUNTERS, *NOW}
        text = text_of(store)
    for name, meaning in (COUNTERS | NOW).items():
        full = f"{name}_total" if name in COUNTERS else name
        assert re.search(rf"^dengine_{full} [\d.e+]+$", text, re.MULTILINE), full
        assert f"# HELP dengine_{full} {meaning}\n" in text
        assert f"`{full}`" in manual, f"docs/operations.md does not tell of {full}"


def test_a_sync_tells_how_long_it_took_and_what_it_brought_to_the_device(tmp_path: Path) -> None:
    with dengine.open(tmp_path / "s", strategy="DiskFirst") as store:
        before = counters(store)
        for n in range(10):
            store.put(b"k%d" % n, b"v" * 10_000)
        now = counters(store)
    syncs = now["syncs"] - before["syncs"]
    brought = now["sync_bytes"] - before["sync_bytes"]
    assert syncs == 10
    # three pages of a record, or four where it crosses a border, and the mark of the sync before
    assert (10 * 3 + 9) * PAGE <= brought <= 10 * 5 * PAGE
    assert 0 < now["longest_sync_us"] <= now["sync_us"]


def test_a_write_that_waits_for_space_is_a_stall_and_a_long_turn(tmp_path: Path) -> None:
    with dengine.open(tmp_path / "s", strategy="MemFirst") as store:
        assert counters(store)["log_stalls"] == 0
        for _ in range(6):                      # of 1 MiB, in segments of 1 MiB at first
            store.put(b"k", b"v" * (MIB - 100))
        now = counters(store)
    assert now["log_stalls"] >= 1
    assert now["log_stall_us"] > 0
    # the longest turn had at least as much of them as they have on average
    assert now["longest_turn_us"] >= now["log_stall_us"] // now["log_stalls"]
    assert now["longest_turn_us"] <= now["longest_turn_wall_us"]


def test_a_turn_is_not_blamed_for_what_the_machine_gave_to_others(tmp_path: Path) -> None:
    """Threads that hold the interpreter make turns long by the clock, not by their own time."""
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(20_000))

    with dengine.open(tmp_path / "s", strategy="MemFirst") as store:
        others = [threading.Thread(target=spin) for _ in range(4)]
        for thread in others:
            thread.start()
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            store.put(b"k", b"v")
        stop.set()
        for thread in others:
            thread.join()
        now = counters(store)
    assert now["longest_turn_us"] <= now["longest_turn_wall_us"]
    assert now["longest_turn_us"] < 20_000


def test_chaos_takes_the_longest_and_the_sums(tmp_path: Path) -> None:
    with dengine.open(tmp_path / "s", strategy="DiskFirst") as store:
        store.put(b"k", b"v")
        text, now = text_of(store), counters(store)
    verdict = Verdict(1, 3, "DiskFirst", "")
    take_metrics(verdict, text)
    take_metrics(verdict, text)
    assert verdict.syncs == 2 * now["syncs"]
    assert verdict.sync_bytes == 2 * now["sync_bytes"]
    assert verdict.longest_turn_us == now["longest_turn_us"]
    assert verdict.longest_sync_us == now["longest_sync_us"]
    sums = report.total([verdict, Verdict(2, 3, "DiskFirst", "", longest_sync_us=10**9)])
    assert sums["longest_sync_us"] == 10**9
    assert sums["syncs"] == verdict.syncs
    table = report.table([verdict])
    for row in ("longest turn, sync", "device bytes per sync", "stalls for space"):
        assert row in table
