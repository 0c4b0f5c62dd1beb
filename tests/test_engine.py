"""Engine as its user sees it: one node, then three in one process, from any loop and thread.

The calls, their deadlines and cancellation, and leadership. How an engine lives and ends is in
test_engine_life.py, kill -9 of processes in test_engine_processes.py.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dengine import Engine, Leadership
from dengine.engine import CHANGES
from dengine.errors import (
    ClosedError,
    ConfigError,
    ConflictError,
    NotProposedError,
    OutcomeUnknownError,
    StorageError,
    TooLargeError,
    UnavailableError,
)
from tests.cluster import Cluster
from tests.engines import Loop, others, run, three, until


@pytest.fixture(params=["own", "current"])
def loop(request: pytest.FixtureRequest) -> Loop:
    return request.param


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
