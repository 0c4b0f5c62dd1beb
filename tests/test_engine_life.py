"""The life of an Engine: started, closed, cancelled, forgotten, forked, failed, beside a busy loop.

Whatever happens to it, its directory is closed and unlocked, and each call says what became of it.
"""

import asyncio
import contextlib
import os
import threading
import time
from pathlib import Path

import pytest

import dengine
from dengine import Engine, config, errors
from dengine.errors import (
    ClosedError,
    LockedError,
    OutcomeUnknownError,
    StorageError,
)
from tests.engines import Loop, others, run, three
from tests.processes import in_fork


@pytest.fixture(params=["own", "current"])
def loop(request: pytest.FixtureRequest) -> Loop:
    return request.param


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
