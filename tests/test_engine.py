"""Engine as its user sees it: one node, then three in one process, from any loop and thread.

The calls, their deadlines and cancellation, leadership, and the life of an engine. Leaders die here
by being closed; kill -9 of processes is in test_engine_processes.py.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

import dengine
from dengine import Engine, Leadership, config, errors
from dengine.engine import CHANGES
from dengine.errors import (
    ClosedError,
    ConfigError,
    ConflictError,
    LockedError,
    NotProposedError,
    OutcomeUnknownError,
    StorageError,
    TooLargeError,
    UnavailableError,
)
from tests.cluster import Cluster
from tests.processes import in_fork

WAIT_S = 20.0
T = TypeVar("T")
Loop = Any  # "own" or "current"


def run(main: Coroutine[Any, Any, T], uv: bool = True) -> T:
    """In a new loop, with a limit; fails if a task is left behind or an error went unseen."""
    unseen: list[dict[str, Any]] = []

    async def bounded() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
        async with asyncio.timeout(WAIT_S):
            result = await main
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    result = uvloop.run(bounded()) if uv else asyncio.run(bounded())
    assert not unseen
    return result


async def until(what: str, probe: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (value := probe()):
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.005)
    return value


@pytest.fixture(params=["own", "current"])
def loop(request: pytest.FixtureRequest) -> Loop:
    return request.param


@contextlib.asynccontextmanager
async def three(root: Path, loop: Loop = "own", **settings: object) -> AsyncIterator[list[Engine]]:
    """Three engines in this process, with a leader that all know; closed at the end."""
    names = {name.replace("__", "."): value for name, value in settings.items()}
    engines = [Engine.open(node.config, loop=loop) for node in
               Cluster(root, settings=names).nodes.values()]
    await asyncio.gather(*[e.start() for e in engines])
    try:
        await until("a leader", lambda: leader_of(engines))
        yield engines
    finally:
        await asyncio.gather(*[e.close() for e in engines])


def leader_of(engines: list[Engine]) -> Engine | None:
    """The one that leads under a lease, known to all that are open."""
    for engine in engines:
        if engine.is_leader and all(e.leader in (engine.leader, None) for e in engines):
            return engine
    return None


def others(engines: list[Engine]) -> tuple[Engine, list[Engine]]:
    leader = leader_of(engines)
    assert leader is not None
    return leader, [e for e in engines if e is not leader]


# ------------------------------------------------------------------------------------------- calls
@pytest.mark.parametrize("uv", [True, False])
def test_one_node(tmp_path: Path, loop: Loop, uv: bool) -> None:
    async def main() -> None:
        async with Engine.open(tmp_path / "n", loop=loop) as e:
            assert await e.wait_leader() == 1
            assert await e.put("k", "v") == 1
            assert await e.get(b"k") == e.get_eventual("k") == b"v"
            for consistency in ("linearizable", "lease", "eventual"):
                kind: Any = consistency
                assert await e.get("k", consistency=kind) == b"v"
                assert await e.get("none", consistency=kind) is None
                assert await e.get("none", b"default", consistency=kind) == b"default"
            assert e.get_eventual("none", b"d") == b"d"
            assert await e.put("k", "w", if_revision=1) == 2
            for call in (e.put("k", "x", if_revision=1), e.delete("k", if_revision=0)):
                with pytest.raises(ConflictError) as conflict:
                    await call
                assert conflict.value.revision == 2
            with pytest.raises(ConflictError) as conflict:
                await e.put("absent", "x", if_revision=7)
            assert conflict.value.revision == 0
            assert await e.put("new", "", if_revision=0) == 3
            assert await e.delete("new", if_revision=3) is True
            assert await e.delete("new") is False
            assert e.status()["revision"] == 4
        async with Engine.open(tmp_path / "n", loop=loop) as e:
            assert await e.get("k") == b"w"

    run(main(), uv)


def test_what_is_refused_at_once(tmp_path: Path, loop: Loop) -> None:
    async def main() -> None:
        async with Engine.open(tmp_path / "n", loop=loop) as e:
            bad: Any
            for bad in (None, 1, object()):
                for call in (e.put, e.get, e.delete, e.get_eventual):
                    with pytest.raises(TypeError):
                        call(bad, b"") if call == e.put else call(bad)
                with pytest.raises(TypeError):
                    e.put("k", bad)
            for bad in (-1, float("nan"), float("inf"), -0.5, 1e9):
                for call in (e.get, e.delete):
                    with pytest.raises(ValueError, match="timeout is a number of seconds"):
                        call("k", timeout=bad) if call == e.delete else e.put("k", "", timeout=bad)
            bad = "strong"
            with pytest.raises(ValueError, match="consistency is one of linearizable, lease"):
                e.get("k", consistency=bad)
            for key, value in (("", ""), ("k" * 4097, ""), ("k", "v" * ((1 << 20) + 1))):
                with pytest.raises(TooLargeError):
                    e.put(key, value)
            with pytest.raises(OverflowError):
                e.put("k", "", if_revision=-1)
            assert e.status()["revision"] == 0
            with pytest.raises(StorageError):  # LockedError
                async with Engine.open(tmp_path / "n", loop=loop):
                    pass

    run(main())


def test_where_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text(
        '[cluster]\nnode_id = 1\ndb_root_dir = "db"\n'
        'initial_cluster = [{ id = 1, address = "127.0.0.1:9081" }]\n')
    for where in ("c", "c.toml", Path("c.toml")):
        assert Engine.open(where).config.cluster.db_root_dir == "db"
    (tmp_path / "c").mkdir()  # a directory of that name is the node's own
    assert Engine.open("c").config.cluster.db_root_dir == "c"
    assert Engine.open(".").config.cluster.db_root_dir == "."
    changed = Engine.open("c.toml", overrides={"http.request_timeout_ms": 77}).config
    assert changed.http.request_timeout_ms == 77
    with pytest.raises(ConfigError, match="overrides belong to a file"):
        Engine.open(changed, overrides={"http.port": 1})
    with pytest.raises(ConfigError, match=r"none\.toml"):
        Engine.open("none.toml")
    wrong: Any = "mine"
    with pytest.raises(ValueError, match="loop is 'own' or 'current'"):
        Engine.open("c", loop=wrong)


def test_three_nodes(tmp_path: Path, loop: Loop) -> None:
    async def main() -> None:
        async with three(tmp_path, loop) as engines:
            for i, writer in enumerate(engines):
                revision = await writer.put("k", f"{i}")
                assert revision == i + 1
                for reader in engines:
                    assert await reader.get("k") == b"%d" % i
                    assert await reader.get("k", consistency="lease") == b"%d" % i
                assert writer.get_eventual("k") == b"%d" % i  # it reads its own write
            for e in engines:
                with pytest.raises(ConflictError) as conflict:
                    await e.put("k", "x", if_revision=1)
                assert conflict.value.revision == 3
            revisions = await asyncio.gather(*[e.put(f"{i}", "v")
                                               for i in range(100) for e in engines])
            assert sorted(revisions) == list(range(4, 304))

    run(main())


def test_calls_from_several_loops_and_threads(tmp_path: Path, loop: Loop) -> None:
    """Two threads with loops of their own, one of each kind, and one without."""
    failed: list[BaseException] = []
    done: list[int] = []

    async def use(e: Engine, name: str) -> None:
        for i in range(100):
            await asyncio.gather(*[e.put(f"{name}/{j}", f"{i}") for j in range(5)])
            assert await e.get(f"{name}/0") == b"%d" % i
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(e.put(f"{name}/x", "v"), 0)
        done.append(1)

    def look(e: Engine) -> None:
        while len(done) < 2 and not failed:
            value = e.get_eventual("uv/0")
            assert value is None or 0 <= int(value) < 100

    def caught(target: Callable[[], Any]) -> Callable[[], None]:
        def call() -> None:
            try:
                target()
            except BaseException as error:
                failed.append(error)
        return call

    async def main() -> None:
        async with Engine.open(tmp_path / "n", loop=loop,
                               overrides={"raft.persistence.strategy": "MemFirst"}) as e:
            threads = [threading.Thread(target=caught(target)) for target in (
                lambda: run(use(e, "uv"), True), lambda: run(use(e, "std"), False),
                lambda: look(e))]
            for thread in threads:
                thread.start()
            await until("all end", lambda: not any(t.is_alive() for t in threads))
            assert not failed
            assert await e.get("std/4") == b"99"

    run(main())


def test_loops_that_call_for_the_first_time_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with Engine.open(tmp_path / "n") as e:
            start = threading.Barrier(16)

            def first(number: int) -> None:
                async def call() -> None:
                    start.wait()
                    await e.put(f"{number}", "v", timeout=5)
                for _ in range(5):
                    asyncio.run(call())

            await asyncio.gather(*[asyncio.to_thread(first, i) for i in range(16)])
            assert e.status()["keys"] == 16

    async def with_a_thread_for_each() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(16))
        await main()

    run(with_a_thread_for_each())


# ------------------------------------------------------------------------ deadlines, cancellation
def test_cancellation(tmp_path: Path, loop: Loop) -> None:
    async def main() -> None:
        async with Engine.open(tmp_path / "n", loop=loop) as e:
            for i in range(50):
                call: Awaitable[Any] = e.get("k") if i % 3 == 0 else e.put("k", f"{i}")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(call, (0, 0.0005, 0.002)[i % 3])
            cancelled = [e.put(f"c{i}", "v") for i in range(20)]
            for future in cancelled:
                future.cancel()
            for future in cancelled:
                with pytest.raises(asyncio.CancelledError):
                    await future
            with contextlib.suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    writing = group.create_task(forever(e))
                    group.create_task(fail())
            assert writing.cancelled()
            gathered = asyncio.gather(*[forever(e) for _ in range(5)])
            await asyncio.sleep(0)
            gathered.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gathered
            kept = asyncio.ensure_future(e.put("kept", "v"))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(kept), 0)
            assert await kept
            assert await e.get("kept") == b"v"
            await until("nothing is left", lambda: not any(
                e.status()["counters"][name] for name in
                ("writes_in_flight", "writes_waiting", "reads_waiting")))

    async def forever(e: Engine) -> None:
        while True:
            await e.put("k", "v")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    run(main())


def test_without_a_leader(tmp_path: Path, loop: Loop) -> None:
    """Two of three are away: what was not proposed says so at its deadline."""
    async def main() -> None:
        node = Cluster(tmp_path).nodes[1]
        async with Engine.open(node.config, loop=loop,
                               overrides={"http.request_timeout_ms": 300}) as e:
            start = time.monotonic()
            calls = [e.put("k", "v"), e.delete("k"), e.put("k", "v", timeout=0.1), e.get("k"),
                     e.get("k", consistency="lease", timeout=0.1)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert 0.28 < time.monotonic() - start < 3
            assert [type(r) for r in results] == [NotProposedError] * 3 + [UnavailableError] * 2
            assert "repeating it is safe" in str(results[0])
            assert await e.get("k", consistency="eventual") is e.get_eventual("k") is None
            assert e.leader is None
            assert not e.is_leader
            with pytest.raises(TimeoutError):
                await e.wait_leader(0.05)
            with pytest.raises(NotProposedError):
                await e.put("k", "v", timeout=0)

    run(main())


def test_the_leader_goes(tmp_path: Path) -> None:
    """Writes under way end as done or as unknown, and what was acknowledged stays."""
    async def main() -> None:
        async with three(tmp_path, http__request_timeout_ms=2000) as engines:
            leader, rest = others(engines)
            acknowledged: dict[str, int] = {}
            unknown = 0
            stop = asyncio.Event()

            async def write(e: Engine, name: str) -> None:
                nonlocal unknown
                i = 0
                while not stop.is_set():
                    try:
                        await e.put(name, f"{i}")
                        acknowledged[name] = i
                    except OutcomeUnknownError:
                        unknown += 1
                    i += 1

            writers = [asyncio.create_task(write(e, f"{n}/{i}"))
                       for n, e in enumerate(rest) for i in range(10)]
            await until("all wrote", lambda: len(acknowledged) == 20)
            await leader.close()
            acknowledged.clear()
            await until("all write again", lambda: len(acknowledged) == 20)
            stop.set()
            await asyncio.gather(*writers)
            for name, newest in acknowledged.items():
                for e in rest:
                    value = await e.get(name)
                    assert value is not None
                    assert int(value) >= newest
            assert unknown <= 40

    run(main())


# -------------------------------------------------------------------------------------- leadership
def test_leadership(tmp_path: Path, loop: Loop) -> None:
    async def main() -> None:
        async with three(tmp_path, loop) as engines:
            leader, rest = others(engines)
            seen: list[Leadership] = []
            ended = asyncio.Event()

            async def listen() -> None:
                async for change in rest[0].leadership():
                    seen.append(change)
                ended.set()

            listener = asyncio.create_task(listen())
            before = await rest[0].wait_leader()
            await until("the first", lambda: seen)
            assert seen[0] == Leadership(seen[0].term, before, False)
            async for change in leader.leadership():
                assert change == Leadership(seen[0].term, before, True)
                break
            await leader.close()
            await until("a new leader", lambda: seen[-1].leader not in (None, before))
            assert seen[-1].term > seen[0].term
            assert [c.term for c in seen] == sorted(c.term for c in seen)
            await rest[0].close()
            await ended.wait()
            await listener
            with pytest.raises(ClosedError):
                await rest[0].wait_leader()
            assert rest[0].leader is None
            assert not rest[0].is_leader

    run(main())


def test_a_late_listener_keeps_little(tmp_path: Path) -> None:
    async def main() -> None:
        async with Engine.open(tmp_path / "n") as e:
            listener = e.leadership()
            await anext(listener)
            told = threading.Event()

            def change() -> None:
                for _ in range(10 * CHANGES):
                    e._role_changed()
                told.set()

            assert e._home is not None
            e._home.call_soon_threadsafe(change)
            told.wait()  # this loop stands still meanwhile: it is late
            assert len(e._listeners[0]._changes) == CHANGES
            for _ in range(CHANGES):
                await anext(listener)
            assert not e._listeners[0]._changes
            await listener.aclose()  # type: ignore[attr-defined]
            assert not e._listeners

    run(main())


# -------------------------------------------------------------------------------------------- life
def test_close_while_calls_are_in_flight(tmp_path: Path, loop: Loop) -> None:
    async def main() -> None:
        e = Engine.open(tmp_path / "n", loop=loop)
        await e.start()
        writes = [e.put(f"{i}", "v") for i in range(200)]
        waiting = asyncio.create_task(e.wait_leader(None))
        await asyncio.gather(e.close(), e.close())
        results = await asyncio.gather(*writes, return_exceptions=True)
        await asyncio.gather(waiting, return_exceptions=True)
        for result in results:
            assert isinstance(result, (int, ClosedError, OutcomeUnknownError))
        await e.close()
        for call in (lambda: e.put("k", ""), lambda: e.get("k"), lambda: e.delete("k"),
                     lambda: e.get_eventual("k"), e.status):
            with pytest.raises(ClosedError, match="the engine is closed"):
                call()
        async with Engine.open(tmp_path / "n", loop=loop) as again:
            await again.wait_leader()
            for i, result in enumerate(results):
                if isinstance(result, int):
                    assert await again.get(f"{i}") == b"v"

    run(main())


def test_calls_before_the_start_and_two_starts(tmp_path: Path, loop: Loop) -> None:
    async def main() -> None:
        e = Engine.open(tmp_path / "n", loop=loop)
        with pytest.raises(ClosedError, match="not started"):
            e.put("k", "v")
        with pytest.raises(ClosedError, match="not started"):
            await e.wait_leader()
        assert e.leader is None
        results = await asyncio.gather(e.start(), e.start(), return_exceptions=True)
        assert results[0] is None
        assert isinstance(results[1], ClosedError)
        assert await e.put("k", "v")
        await e.close()
        with pytest.raises(ClosedError, match="started before"):
            await e.start()
        unused = Engine.open(tmp_path / "n", loop=loop)
        await unused.close()
        with pytest.raises(ClosedError):
            await unused.start()

    run(main())


def test_a_failed_or_cancelled_start_leaves_nothing(tmp_path: Path, loop: Loop) -> None:
    async def main() -> None:
        directory = tmp_path / "n"
        async with Engine.open(directory, loop=loop) as e:
            await e.put("k", "v")
            second = Engine.open(directory, loop=loop)
            with pytest.raises(LockedError):
                await second.start()
        threads = threading.active_count()
        for delay in (0, 0, 0.001, 0.01):
            cancelled = Engine.open(directory, loop=loop)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(cancelled.start(), delay)
                await cancelled.close()
        task = asyncio.create_task(Engine.open(directory, loop=loop).start())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert threading.active_count() == threads
        async with Engine.open(directory, loop=loop) as e:
            assert await e.get("k") == b"v"

    run(main())


def test_a_cancelled_close_goes_on(tmp_path: Path, loop: Loop) -> None:
    async def main() -> None:
        e = Engine.open(tmp_path / "n", loop=loop)
        await e.start()
        closing = asyncio.create_task(e.close())
        await asyncio.sleep(0)
        closing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await closing
        await e.close()
        async with Engine.open(tmp_path / "n", loop=loop):
            pass

    run(main())


def test_close_from_another_loop(tmp_path: Path, loop: Loop) -> None:
    async def main() -> None:
        e = Engine.open(tmp_path / "n", loop=loop)
        await e.start()
        await e.put("k", "v")
        await asyncio.to_thread(lambda: asyncio.run(e.close()))
        with pytest.raises(ClosedError):
            e.put("k", "v")
        async with Engine.open(tmp_path / "n") as again:
            assert await again.get("k") == b"v"

    run(main())


def test_a_loop_that_ends_takes_its_node_along(tmp_path: Path) -> None:
    """loop="current" without close: cancelled with the loop, or closed from another one."""
    async def start(e: Engine) -> None:
        await e.start()
        await e.put("k", "v")

    e = Engine.open(tmp_path / "n", loop="current")
    asyncio.run(start(e))
    with pytest.raises(ClosedError):
        asyncio.run(start(e))
    asyncio.run(e.close())
    e = Engine.open(tmp_path / "n", loop="current")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(start(e))
    loop.call_exception_handler = lambda context: None  # type: ignore[method-assign]
    loop.close()
    asyncio.run(e.close())

    async def read() -> None:
        async with Engine.open(tmp_path / "n") as again:
            assert await again.get("k") == b"v"

    asyncio.run(read())


def test_an_exception_inside_async_with(tmp_path: Path, loop: Loop) -> None:
    async def main() -> None:
        with contextlib.suppress(ZeroDivisionError):
            async with Engine.open(tmp_path / "n", loop=loop) as e:
                await e.put("k", "v")
                raise ZeroDivisionError
        async with Engine.open(tmp_path / "n", loop=loop) as e:
            assert await e.get("k") == b"v"

    run(main())


def test_a_fatal_error_is_raised_by_every_later_call(tmp_path: Path, loop: Loop) -> None:
    async def main() -> None:
        e = Engine.open(tmp_path / "n", loop=loop)
        await e.start()
        await e.put("k", "v")
        listener = asyncio.create_task(drain(e))
        await asyncio.sleep(0)
        for file in (tmp_path / "n" / "log").iterdir():
            close_behind_its_back(file)
        results = await asyncio.gather(*[e.put(f"{i}", "v" * 1000) for i in range(5)],
                                       return_exceptions=True)
        assert all(isinstance(r, (OutcomeUnknownError, StorageError)) for r in results)
        for call in (lambda: e.put("k", ""), lambda: e.get("k"), lambda: e.delete("k"),
                     lambda: e.get_eventual("k"), lambda: e.get("k", consistency="eventual"),
                     e.status) * 2:
            with pytest.raises(StorageError, match=r"Bad file descriptor.*the node stops"):
                call()
        with pytest.raises(StorageError):
            await listener
        with pytest.raises(StorageError):
            await e.wait_leader()
        assert e.leader is None
        await e.close()
        with pytest.raises(StorageError):
            e.get_eventual("k")

    async def drain(e: Engine) -> None:
        async for _ in e.leadership():
            pass

    run(main())


def close_behind_its_back(file: Path) -> None:
    """What the node holds open on `file` becomes something that cannot be written."""
    null = os.open("/dev/null", os.O_RDONLY)
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}") == str(file):
                os.dup2(null, int(fd), inheritable=False)
    os.close(null)


def test_a_handler_that_blocks_keeps_the_leadership(tmp_path: Path) -> None:
    """With the node's own thread. Ten times longer than a heartbeat, half a lease."""
    async def main() -> None:
        async with three(tmp_path) as engines:
            leader, _ = others(engines)
            term = leader.status()["term"]
            for _ in range(4):
                time.sleep(0.3)  # noqa: ASYNC251
                assert leader.is_leader
                assert await leader.put("k", "v")
            assert leader.status()["term"] == term

    run(main())


def test_a_fork_is_told(tmp_path: Path, loop: Loop) -> None:
    async def main() -> None:
        async with Engine.open(tmp_path / "n", loop=loop) as e:
            await e.put("k", "v")

            def use() -> None:
                for call in (lambda: e.put("k", ""), lambda: e.get("k"), lambda: e.delete("k"),
                             lambda: e.get_eventual("k"), e.status):
                    with pytest.raises(errors.ForkedError, match="opened in the parent"):
                        call()
                assert e.leader is None

            in_fork(use)
            assert await e.put("k", "w")
            assert await e.get("k") == b"w"

    run(main())


def test_directory_of_one_node_is_a_store_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with Engine.open(tmp_path / "n") as e:
            await e.put("from", "engine")

    run(main())
    with dengine.open(tmp_path / "n") as store:
        assert store["from"] == b"engine"
        store["from"] = "store"
    single = config.single(tmp_path / "n")

    async def again() -> None:
        async with Engine.open(single) as e:
            assert await e.get("from") == b"store"

    run(again())
