"""A Store whose disk is full, or that is forked, closed, interrupted or forgotten.

Each error says what happened and what it means for the data; nothing acknowledged is lost.
"""

import contextlib
import gc
import os
import resource
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dengine
from dengine import Store, config
from dengine._core import boot
from dengine.errors import (
    ClosedError,
    Error,
    ForkedError,
    LockedError,
    OutcomeUnknownError,
    StorageError,
)
from dengine.storage import Directory, setup_of
from tests.cluster import eventually
from tests.processes import WAIT_S, child, finish, in_fork
from tests.test_store_directory import change, filled, segments


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture(params=("DiskFirst", "MemFirst"))
def store(directory: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    with dengine.open(directory, strategy=request.param) as opened:
        yield opened


# ---------------------------------------------------------------------------------------- full disk
FULL = """
import resource, sys, time
import dengine
from dengine.errors import NoSpaceError
directory, strategy = sys.argv[1:]
def allow(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def refused(*calls):
    for call in calls * 3:
        try:
            call()
        except NoSpaceError as error:
            assert "nothing was written" in str(error), error
        else:
            raise AssertionError(call)
allow(4 << 20)
s = dengine.open(directory, strategy=strategy)
n = 0
try:
    while n < 2000:
        s[b"%d" % n] = b"v" * 10000
        n += 1
except NoSpaceError:
    allow(1 << 20)
assert 50 < n < 2000, n
refused(lambda: s.put(b"k", b""), lambda: s.delete(b"0"), lambda: s.__setitem__(b"k", b""))
assert len(s) == n and b"k" not in s and s[b"0"] == b"v" * 10000
allow(resource.RLIM_INFINITY)
until = time.monotonic() + 10
while True:
    try:
        s[b"%d" % n] = b"v" * 10000
        break
    except NoSpaceError:
        assert time.monotonic() < until, "the room is not noticed"
        time.sleep(0.01)
for n in range(n + 1, n + 1001):
    s[b"%d" % n] = b"v" * 10000
s.close()
print(n + 1)
"""


@pytest.mark.parametrize("strategy", ["DiskFirst", "MemFirst"])
def test_a_full_disk_refuses_writes_until_it_has_room(directory: Path, strategy: Any) -> None:
    code, out, err = finish(child(FULL, directory, strategy))
    assert (code, err) == (0, "")
    with dengine.open(directory) as store:
        assert len(store) == int(out)
        assert all(store[b"%d" % i] == b"v" * 10000 for i in range(int(out)))


def test_a_store_that_cannot_even_begin_says_so(directory: Path) -> None:
    code, _, err = finish(child("""
import resource, sys
import dengine
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    dengine.open(sys.argv[1])
except dengine.errors.StorageError as error:
    assert "given a new segment: " in str(error), error
    sys.exit(3)
""", directory))
    assert (code, err) == (3, "")
    with dengine.open(directory) as store:
        store["a"] = "1"


# --------------------------------------------------------------------------------------------- fork
def every_call(s: Store) -> list[Callable[[], object]]:
    return [lambda: s[b"k"], lambda: s.get(b"k"), lambda: b"k" in s, lambda: len(s), s.items,
            lambda: list(s), lambda: s.put(b"k", b""), lambda: s.__setitem__(b"k", b""),
            lambda: s.delete(b"k"), lambda: s.__delitem__(b"k"), lambda: s.revision, s.__enter__]


def test_a_fork_is_told_and_its_parent_goes_on(store: Store, directory: Path) -> None:
    store["before"] = "1"

    def use() -> None:
        for call in every_call(store):
            with pytest.raises(ForkedError, match="opened in the parent"):
                call()
        store.close()
        with pytest.raises(LockedError):
            dengine.open(directory)
        with dengine.open(directory.parent / "child") as own:
            own["k"] = "v"

    in_fork(use)
    store["after"] = "2"
    assert len(store) == 2


def test_a_fork_does_not_keep_the_directory(directory: Path) -> None:
    store = dengine.open(directory)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"!")
        signal.pause()
        os._exit(0)
    try:
        os.read(reader, 1)                      # it runs: what it shared is closed
        store.close()
        dengine.open(directory).close()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def test_fork_in_the_middle_of_writes(store: Store) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            store["k"] = "v"

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            def use() -> None:
                with pytest.raises(ForkedError):
                    store["k"] = "child"
            in_fork(use)
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)
    assert store["k"] == b"v"


# -------------------------------------------------------------------------------- close and forget
def test_close(store: Store, directory: Path) -> None:
    store["k"] = "v"
    held = store.items()
    store.close()
    store.close()
    for call in every_call(store):
        with pytest.raises(ClosedError, match="the store is closed") as error:
            call()
        assert type(error.value) is ClosedError
    assert list(held) == [(b"k", b"v")]
    dengine.open(directory).close()


def test_close_while_threads_write(directory: Path) -> None:
    """Each gets an acknowledgement, or an error that says what became of its write."""
    store = dengine.open(directory)
    acknowledged: list[bytes] = []
    ended: list[type[BaseException]] = []

    def write(number: int) -> None:
        i = 0
        try:
            while True:
                key = b"%d/%d" % (number, i)
                store[key] = b"v"
                acknowledged.append(key)
                i += 1
        except Error as error:
            ended.append(type(error))

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    eventually("some are written", lambda: len(acknowledged) > 50, WAIT_S)
    store.close()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(ended) == 8
    assert set(ended) <= {ClosedError, OutcomeUnknownError}
    with dengine.open(directory) as again:
        assert not [key for key in acknowledged if key not in again]


def test_an_exception_inside_with(directory: Path) -> None:
    with contextlib.suppress(ZeroDivisionError), dengine.open(directory) as store:
        store["k"] = "v"
        raise ZeroDivisionError
    with dengine.open(directory) as store:
        assert store["k"] == b"v"


@pytest.mark.parametrize("ending", ["pass", "raise SystemExit(3)", "1 / 0", "del s"])
@pytest.mark.parametrize("strategy", ["DiskFirst", "MemFirst"])
def test_exit_without_close_leaves_a_clean_directory(directory: Path, ending: str,
                                                     strategy: str) -> None:
    code, _, err = finish(child(
        "import dengine, sys\ns = dengine.open(sys.argv[1], strategy=sys.argv[2])\n"
        f"for i in range(100): s[str(i)] = 'v'\n{ending}", directory, strategy))
    assert code == {"pass": 0, "del s": 0, "1 / 0": 1}.get(ending, 3)
    assert "ZeroDivisionError" in err if code == 1 else err == ""
    assert sorted(p.name for p in directory.iterdir()) == ["lock", "log", "meta", "snapshot"]
    with contextlib.closing(Directory(directory)) as opened:
        turn = opened.open_turn(setup_of(config.single(directory), from_directory=True))
        assert not turn.notes
        assert boot.status(turn)["last"] == 102
        boot.close(turn)


def test_exit_while_daemon_threads_write(directory: Path) -> None:
    code, out, err = finish(child(
        "import dengine, sys, threading\ns = dengine.open(sys.argv[1])\n"
        "def write():\n    while True: s['k'] = 'v'\n"
        "threads = [threading.Thread(target=write, daemon=True) for _ in range(4)]\n"
        "threading.excepthook = lambda a: None\n"
        "[t.start() for t in threads]\nwhile s.revision < 10: pass\nprint('end')", directory))
    assert (code, out, err) == (0, "end\n", "")
    dengine.open(directory).close()


# ------------------------------------------------------------------------------------------ signals
INTERRUPTED = """
import os, signal, sys, threading, time
import dengine
s = dengine.open(sys.argv[1])
armed, hits, done = False, 0, 0
stop = threading.Event()

def on_interrupt(number, frame):            # else it might strike where this program is not ready
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, on_interrupt)

def interrupt():
    while not stop.wait(0.002):
        os.kill(os.getpid(), signal.SIGINT)

def write():
    while not stop.is_set():
        s[b"o"] = b"v"

threads = [threading.Thread(target=t) for t in [interrupt] + [write] * int(sys.argv[2])]
for t in threads: t.start()
while hits < 20 or done < 50:
    try:
        armed = True
        s[b"k"] = b"%d" % done
        armed = False
        done += 1
    except KeyboardInterrupt:
        hits += 1
stop.set()
for t in threads: t.join()
s[b"k"] = b"after"
assert s[b"k"] == b"after"
s.close()
print("ok")
"""


@pytest.mark.parametrize("others", [0, 3])
def test_interrupts_raise_and_the_store_stays_usable(directory: Path, others: int) -> None:
    assert finish(child(INTERRUPTED, directory, others)) == (0, "ok\n", "")


def test_a_signal_handler_may_use_the_store(directory: Path) -> None:
    with dengine.open(directory) as store:
        handled = 0

        def on_alarm(_number: int, _frame: object) -> None:
            nonlocal handled
            store[b"handled"] = b"%d" % handled
            handled += 1

        before = signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.005)
        try:
            deadline = time.monotonic() + WAIT_S
            while handled < 20 and time.monotonic() < deadline:
                store[b"k"] = b"v"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert handled >= 20
        assert b"handled" in store


# ------------------------------------------------------------------------------------------ garbage
def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_opening_leaves_nothing_behind(directory: Path, tmp_path: Path) -> None:
    def use(number: int) -> None:
        with dengine.open(directory, strategy="MemFirst") as store:
            store["k"] = "v"
            for refused in (directory, tmp_path / "damaged")[number % 10:]:
                with pytest.raises(StorageError):
                    dengine.open(refused)

    filled(tmp_path / "damaged")
    file = segments(tmp_path / "damaged")[0]
    change(file, file.read_bytes().index(b"key 050"), b"K")
    for i in range(20):
        use(i)
    gc.collect()
    fds = len(os.listdir("/proc/self/fd"))
    threads = len(os.listdir("/proc/self/task"))
    memory = resident()
    for i in range(200):
        use(i)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == fds
    assert len(os.listdir("/proc/self/task")) == threads
    assert resident() - memory < 8 << 20


def test_a_forgotten_store_closes_itself(directory: Path) -> None:
    store = dengine.open(directory)
    store["k"] = "v"
    gone = weakref.ref(store)
    del store
    assert gone() is None
    with dengine.open(directory) as again:
        assert again["k"] == b"v"


BROKEN = """
import os, sys
import dengine
from dengine import errors
s = dengine.open(sys.argv[1])
s["a"] = "1"
null = os.open("/dev/null", os.O_RDONLY)
for fd in map(int, os.listdir("/proc/self/fd")):
    try:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".seg"):
            os.dup2(null, fd)
    except FileNotFoundError:
        pass
try:
    s["b"] = "2"
except errors.OutcomeUnknownError as error:
    assert isinstance(error.__cause__, errors.StorageError), error.__cause__
    assert "may be applied" in str(error), error
def call():
    try:
        s.get(b"a")
    except errors.StorageError as error:
        assert "the node stops" in str(error), error
    else:
        raise AssertionError
for other in (lambda: s.put(b"k", b""), lambda: len(s), s.items, s.check, lambda: s.revision,
              lambda: s.delete(b"a"), lambda: b"a" in s):
    try:
        other()
    except errors.StorageError:
        continue
    raise AssertionError(other)
call()
"""


def test_a_store_whose_disk_failed_refuses_every_call(directory: Path) -> None:
    assert finish(child(BROKEN, directory)) == (0, "", "")


def test_an_error_that_is_raised_often_keeps_no_frames(directory: Path) -> None:
    code, out, err = finish(child(BROKEN + """
import gc, tracemalloc
tracemalloc.start()
for _ in range(100): call()
before = tracemalloc.get_traced_memory()[0]
for _ in range(10000): call()
print(tracemalloc.get_traced_memory()[0] - before < 100000)
""", directory))
    assert (code, err) == (0, "")
    assert out.endswith("True\n")
