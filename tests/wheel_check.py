"""Run with an installed wheel, outside the checkout: both examples of the README. Prints OK."""

import asyncio
import tempfile
from pathlib import Path

import dengine


def store(directory: Path) -> None:
    with dengine.open(directory) as s:
        s[b"k"] = b"v"
        assert s[b"k"] == b"v"


async def engine(directory: Path) -> None:
    async with dengine.Engine.open(directory) as e:
        revision = await e.put(b"k", b"v")
        assert await e.get(b"k") == b"v"
        assert e.get_eventual(b"k") == b"v"
        assert await e.delete(b"k", if_revision=revision)


if __name__ == "__main__":
    package = Path(dengine.__file__).resolve().parent
    assert not (package.parent / "setup.py").exists(), f"this is a checkout: {package.parent}"
    assert (package / "py.typed").exists(), "the types are not in the wheel"
    with tempfile.TemporaryDirectory() as scratch:
        store(Path(scratch, "store"))
        asyncio.run(engine(Path(scratch, "engine")))
    print("OK")
