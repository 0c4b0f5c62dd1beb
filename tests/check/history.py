"""The format of recorded histories: ndjson, a header and then one line per operation.

It decides what is written down about an operation and how it is read back. It does not know who
ran it, nor what makes a history right or wrong: `witness` and `search` judge.

Header: `{"dengine_history":1,"base":0,"about":{...}}`. `base` is the store's revision before the
first operation, given only if nobody else wrote while the history was recorded; then each later
revision must belong to an operation of this history. Keys must not exist before.

Operation, in the order in which they ended; fields that have their default are left out:
- `process`: a client, one operation at a time; after an unknown outcome it goes on as a new one
- `kind`: get, put, delete or cas (a put under a condition)
- `key`, `value`: put and cas: what is written, unique in the history; get: what was read
- `policy`: of a get: linearizable, lease or eventual
- `expect`: the condition of a cas or delete: the key's mod_revision, 0: it must not exist,
  -1: it must exist; null: none
- `start`, `end`: ns of CLOCK_MONOTONIC, before it was sent and after it was answered; of an unknown
  one, when it was given up: it may take effect later
- `outcome`: ok; conflict: the condition did not hold; missing: no such key; refused: certainly not
  applied, not read; unknown: may be applied once, at any time after its start, or never
- `revision`: of an ok write its own; of a read, and of a missing delete, the store's revision at
  that moment; 0: not told (conflict, refused, unknown)
- `mod`: the key's mod_revision: of what was read, or what a conflict reports; 0: no such key
- `node`: who was asked; `life`: numbers what is certainly one process of that node. In one life a
  node never goes back, not even for eventual reads.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import msgspec

FORMAT = 1
ANY = -1                # as `expect`: the key must exist
BUFFER = 1 << 20        # bytes that a writer gathers
Kind = Literal["get", "put", "delete", "cas"]
Policy = Literal["", "linearizable", "lease", "eventual"]
Outcome = Literal["ok", "conflict", "missing", "refused", "unknown"]


class Operation(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    process: int
    kind: Kind
    key: str
    start: int
    end: int
    outcome: Outcome
    value: str | None = None
    policy: Policy = ""
    expect: int | None = None
    revision: int = 0
    mod: int = 0
    node: int = 0
    life: int = 0

    def __str__(self) -> str:
        """For people; times are relative where `start` is."""
        ask = f"{self.policy} {self.kind}".strip() + f" {self.key}"
        if self.kind in ("put", "cas"):
            ask += f" = {self.value}"
        if self.expect is not None:
            ask += {0: " if missing", ANY: " if present"}.get(
                self.expect, f" if at revision {self.expect}")
        told: str = self.outcome
        if self.kind == "get" and self.outcome == "ok":
            told = f"{self.value} of revision {self.mod}"
        elif self.outcome == "conflict":
            told = f"conflict, the key is at {self.mod}"
        if self.revision:
            told += f", {'read at' if self.kind == 'get' else 'revision'} {self.revision}"
        return (
            f"{self.start / 1e6:12.3f} .. {self.end / 1e6:.3f} ms  client {self.process} at node "
            f"{self.node} (life {self.life}): {ask} -> {told}"
        )


class Header(msgspec.Struct, kw_only=True):
    dengine_history: int = FORMAT
    base: int | None = None
    about: dict[str, Any] = {}


class Writer:
    """Appends operations to a new file."""

    def __init__(self, path: Path, base: int | None = None, **about: Any) -> None:
        self.file: IO[bytes] = path.open("wb", buffering=BUFFER)
        self.encode = msgspec.json.Encoder().encode_into
        self.line = bytearray()
        self._write(Header(base=base, about=about))

    def _write(self, content: Header | Operation) -> None:
        self.encode(content, self.line)
        self.line += b"\n"
        self.file.write(self.line)

    add = _write

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.file.close()


def write(path: Path, operations: Iterable[Operation], base: int | None = None) -> None:
    with Writer(path, base) as writer:
        for op in operations:
            writer.add(op)


def read_header(path: Path) -> Header:
    with path.open("rb") as file:
        header = msgspec.json.decode(file.readline(), type=Header)
    if header.dengine_history != FORMAT:
        raise ValueError(f"{path}: format {header.dengine_history}, this is {FORMAT}")
    return header


def read_with_offsets(path: Path) -> Iterator[tuple[int, Operation]]:
    """Each operation and where its line begins. A last line without its end is left out: the
    recorder was killed."""
    read_header(path)
    decode = msgspec.json.Decoder(Operation).decode
    with path.open("rb", buffering=BUFFER) as file:
        offset = len(file.readline())
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield offset, decode(line)
            offset += len(line)


def read(path: Path) -> list[Operation]:
    return [op for _, op in read_with_offsets(path)]


def read_at(path: Path, offset: int) -> Operation:
    with path.open("rb") as file:
        file.seek(offset)
        return msgspec.json.decode(file.readline(), type=Operation)
