"""dengine: a strongly consistent key-value store inside your Python process, or as three nodes.

    with dengine.open("./data") as s:               # one node, blocking
        s[b"k"] = b"v"

    async with dengine.Engine.open("config/n1.toml") as e:      # one of three nodes
        await e.put(b"k", b"v")
"""

from dengine import errors
from dengine._core.types import Entry
from dengine.engine import Engine, Leadership
from dengine.store import Store
from dengine.store import open_store as open

__version__ = "0.1.0"
__all__ = ["Engine", "Entry", "Leadership", "Store", "errors", "open"]
