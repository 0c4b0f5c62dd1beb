"""A program that uses the whole public API; `mypy --strict` must accept it (tests/test_typing.py).

It also runs: `python -m tests.typed_program DIRECTORY`.
"""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import dengine
from dengine import Engine, Entry, Leadership, Store, errors
from dengine.client import Client
from dengine.config import Config, load, single


def with_a_store(directory: Path) -> None:
    with dengine.open(directory) as store:
        assert_type(store, Store)
        store[b"k"] = b"v"
        store["text"] = "is UTF-8"
        assert_type(store[b"k"], bytes)
        assert_type(store.get("k"), bytes | None)
        assert_type(store.get("none", b""), bytes)
        assert_type(store.get("none", 0), bytes | int)
        assert_type(store.put("k", b"w"), int)
        assert_type(store.delete("none"), bool)
        assert_type(store.revision, int)
        assert_type(len(store), int)
        assert_type("k" in store, bool)
        pairs: Iterator[tuple[bytes, bytes]] = store.items(prefix="k", start=b"k1")
        for key, value in pairs:
            assert_type(key + value, bytes)
        keys: list[bytes] = [*store, *store.keys("k"), *store.values(start="t")]
        copy: dict[bytes, bytes] = dict(store)
        assert keys == [b"k", b"text", b"k", b"is UTF-8"]
        assert copy == {b"k": b"w", b"text": b"is UTF-8"}
        del store["text"]
    try:
        store["k"] = "late"
    except errors.ClosedError as error:
        assert_type(error, errors.ClosedError)
    memory: Store = dengine.open(str(directory), strategy="MemFirst",
                                 flush_policy={"Batch": {"threshold": 10, "interval_ms": 5}})
    memory.close()


async def with_an_engine(directory: Path) -> None:
    settings: Config = single(directory, strategy="DiskFirst")
    async with Engine.open(settings, loop="current") as e:
        assert_type(e, Engine)
        assert_type(e.leader, int | None)
        assert_type(e.is_leader, bool)
        assert_type(await e.wait_leader(timeout=5), int)
        revision = await e.put("k", b"v", timeout=2.5)
        assert_type(revision, int)
        assert_type(await e.put("k", "w", if_revision=revision), int)
        assert_type(await e.get("k"), bytes | None)
        assert_type(await e.get("k", b"", consistency="lease"), bytes)
        assert_type(await e.get("k", consistency="eventual", timeout=1), bytes | None)
        assert_type(e.get_eventual("k"), bytes | None)
        entry = await e.entry("k", consistency="linearizable")
        assert_type(entry, Entry | None)
        assert entry is not None
        assert_type(entry.mod_revision + entry.revision, int)
        assert_type(e.get_eventual("k", 0), bytes | int)
        assert_type(await e.delete("none"), bool)
        results = await asyncio.gather(e.put("a", "1"), e.get("a"))
        assert_type(results, tuple[int, bytes | None])
        async with asyncio.timeout(1):
            await asyncio.wait_for(e.put("b", "2"), 1)
        async for change in e.leadership():
            assert_type(change, Leadership)
            term, leader, is_self = change
            assert_type((term, leader, is_self), tuple[int, int | None, bool])
            break
        try:
            await e.put("k", "x", if_revision=1)
        except errors.ConflictError as conflict:
            assert_type(conflict.revision, int)
        except errors.NotProposedError:
            print("nothing was changed")
        except errors.OutcomeUnknownError:
            print("read it")
        status: dict[str, object] = e.status()
        assert status["keys"]
    own = Engine.open(str(directory), overrides={"http.request_timeout_ms": 1000})
    await own.start()
    await own.close()


def with_a_client(endpoint: str) -> None:
    with Client([endpoint]) as client:
        client.put(b"k", b"v")
        print(client.get(b"k"))


def from_a_file(path: Path) -> Engine:
    return Engine.open(load(path), loop="own")


def main(directory: Path) -> None:
    with_a_store(directory)
    asyncio.run(with_an_engine(directory))
    print("OK")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
