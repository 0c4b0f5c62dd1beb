"""The data directory of a node: who may open it, what lies in it, and which identity it has.

    DIR/lock    held (flock) while a process has the directory open
    DIR/meta    identity and hard state, see _core/meta.pxd
    DIR/log/    segments, see _core/segments.pxd
    DIR/snapshot/   see _core/snapshot.pxd

It decides what is opened in which order, and runs the thread that writes snapshots; it knows no
bytes of the files but the lock's.
"""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dengine._core import boot, restore
from dengine._core.snapshot import SnapshotWriter, snapshot_name
from dengine.errors import Error, LockedError, StorageError
from dengine.schema import FOLLOWER

if TYPE_CHECKING:
    from collections.abc import Callable

    from dengine._core.turn import Turn
    from dengine._core.types import Work
    from dengine.config import Config

log = logging.getLogger("dengine.storage")

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
PROGRESS_S = 1.0  # between two lines about a long recovery


def random_id() -> int:
    """A random 63-bit id, never 0."""
    return secrets.randbits(63) | 1


@dataclass(kw_only=True)
class Setup:
    """What the core is told when it opens a directory. Times are in the unit of their names."""

    node: int
    members: list[tuple[int, bytes]]
    cluster: int
    cluster_named: bool  # the id follows from the configuration, so the directory must agree
    strategy: int
    threshold: int
    interval_us: int
    max_unflushed_us: int
    segment_bytes: int
    snapshot_entries: int
    snapshot_bytes: int
    snapshot_keep_bytes: int
    promise_ms: int
    timeout_ms: int
    heartbeat_ms: int
    lease_ms: int
    waiting_writes: int
    waiting_reads: int
    waiting_bytes: int
    idempotency_retention_ms: int
    boot_id: bytes  # 16 bytes that change whenever a page cache is lost
    progress: Callable[[int], None] | None = None  # told bytes as recovery reads them
    from_directory: bool = False  # identity and promise are those that lie in the directory
    joins: bool = False  # an empty directory waits for a cluster that takes it in
    repair: bool = False  # a node alone goes on with what is left of it
    seed: int = field(default_factory=random_id)
    incarnation: int = field(default_factory=random_id)
    nonce: int = field(default_factory=random_id)


def cluster_id(name: str, ids: list[int]) -> int:
    """The id of a cluster of several voters: a hash of its name and its first members."""
    text = f"{name}\0{sorted(ids)}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def setup_of(config: Config, *, from_directory: bool = False, to_join: int = 0) -> Setup:
    """The Setup that a configuration asks for, or one of a directory alone (`config.single`), or of
    an empty directory that is `to_join` the cluster of that id."""
    cluster, raft = config.cluster, config.raft
    first = [m for m in cluster.initial_cluster if m.role == FOLLOWER]
    ids = [m.id for m in first]
    joins = cluster.node_id not in ids
    batch = raft.persistence.batch
    return Setup(
        node=cluster.node_id,
        members=[(m.id, m.address.encode()) for m in cluster.initial_cluster
                 if m in first or m.id == cluster.node_id],
        cluster=to_join or (cluster_id(cluster.name, ids) if len(ids) > 1 else random_id()),
        cluster_named=len(ids) > 1 and not joins,  # who joins was told it by the cluster
        strategy=0 if raft.persistence.strategy == "DiskFirst" else 1,
        threshold=batch.threshold if batch else 1,
        interval_us=batch.interval_ms * 1000 if batch else 0,
        max_unflushed_us=raft.persistence.max_unflushed_ms * 1000,
        segment_bytes=config.log.segment_bytes,
        snapshot_entries=raft.snapshot.entries,
        snapshot_bytes=raft.snapshot.bytes,
        snapshot_keep_bytes=raft.snapshot.keep_bytes,
        promise_ms=raft.election.election_timeout_min_ms,
        timeout_ms=raft.election.election_timeout_max_ms,
        heartbeat_ms=raft.replication.heartbeat_ms,
        lease_ms=raft.read_consistency.lease_duration_ms,
        waiting_writes=config.limits.waiting_writes,
        waiting_reads=config.limits.waiting_reads,
        waiting_bytes=config.limits.waiting_bytes,
        idempotency_retention_ms=config.http.idempotency_retention_ms,
        boot_id=kernel_boot_id(),
        from_directory=from_directory,
        joins=joins,
    )


def has_node(directory: str) -> bool:
    """Was a node ever started in it?"""
    return os.path.lexists(os.path.join(directory, "meta"))


def kernel_boot_id() -> bytes:
    """Of the running kernel. Where it tells none, random: each start is then after a boot."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return uuid.UUID(file.read().strip()).bytes
    except (OSError, ValueError):
        return secrets.token_bytes(16)


def make_durably(path: str) -> None:
    """Makes the directory and its parents; their names are on disk when it returns."""
    if not os.path.isdir(path):
        make_durably(os.path.dirname(path))
        os.mkdir(path, DIRECTORY_MODE)
        sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    """The names in the directory are on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Directory:
    """An open and locked data directory. Raises LockedError, StorageError."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))
        # as text that any log can hold
        self._name = os.fsencode(self.path).decode(errors="backslashreplace")
        self._lock = -1
        self._closing = False
        self._reserve = 0  # bytes that the log may take meanwhile: two segments
        self._threads: set[threading.Thread] = set()
        try:
            make_durably(os.path.join(self.path, "log"))
            make_durably(os.path.join(self.path, "snapshot"))
            sync_directory(os.path.dirname(self.path))  # an earlier start may have died between
            sync_directory(self.path)
            self._acquire()
        except OSError as error:
            self.close()
            raise StorageError(
                f"{self.path} cannot be used as a data directory: {error.strerror} "
                f"({error.filename}); nothing was changed; check its path and permissions"
            ) from None

    def _acquire(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._lock = os.open(os.path.join(self.path, "lock"), flags, FILE_MODE)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            where = "this process" if holder == str(os.getpid()) else "another process"
            os.close(self._lock)
            self._lock = -1
            raise LockedError(
                f"{self.path} is open in {where} (pid {holder}): nothing was changed; "
                "close it there first, or use another directory"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def open_turn(self, setup: Setup) -> Turn:
        """The recovered core of the node in this directory. Raises the errors of recovery."""
        names, snapshots = self._names()
        has_meta = os.path.lexists(os.path.join(self.path, "meta"))
        setup.progress = self._progress()
        self._reserve = 2 * setup.segment_bytes
        turn = boot.open_turn(os.fsencode(self.path), has_meta, names, snapshots, setup)
        log.info("%s: %s", self._name, boot.found(turn))
        turn.on_snapshot = lambda work: self._begin(turn, work)
        return turn

    def left(self, setup: Setup) -> int:
        """The last entry that a repair would leave."""
        return boot.what_is_left(os.fsencode(self.path), *self._names(), setup)

    def holds(self, setup: Setup) -> dict[str, Any]:
        """What `recover` would go on from."""
        return restore.holds(os.fsencode(self.path), *self._names(), setup)

    def recover(self, setup: Setup, to: Directory, fresh: Setup,
                progress: Callable[[int], None]) -> dict[str, Any]:
        """Makes the node of `fresh` in the empty directory `to` of all that this one holds."""
        return restore.recover(os.fsencode(self.path), *self._names(), setup,
                               os.fsencode(to.path), fresh, progress)

    def _names(self) -> tuple[list[str], list[str]]:
        """Of the files in log/ and in snapshot/."""
        return (sorted(os.listdir(os.path.join(self.path, "log"))),
                sorted(os.listdir(os.path.join(self.path, "snapshot"))))

    def _progress(self) -> Callable[[int], None]:
        """Says each second how much of the files is read: a start that takes longer says why."""
        total, done, told = self._bytes(), 0, time.monotonic()

        def progress(n: int) -> None:
            nonlocal done, told
            done += n
            if time.monotonic() - told >= PROGRESS_S:
                told = time.monotonic()
                log.info("%s is recovered: %d of %d MiB are read", self._name, done >> 20,
                         total >> 20)

        return progress

    def _begin(self, turn: Turn, work: Work) -> None:
        thread = threading.Thread(target=self._do, args=(turn, work), daemon=True,
                                  name="dengine-snapshot")
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter ends: the node goes on
            self._threads.discard(thread)
            log.warning("a snapshot of entry %d came to nothing: %s", work.index, error)
            turn.snapshot_ended(work)

    def _do(self, turn: Turn, work: Work) -> None:
        began = time.monotonic()
        try:
            if isinstance(work, SnapshotWriter):  # the other kind is on the disk already
                self._look_for_room()
            used = time.thread_time()
            while not self._closing and work.step():
                # Half of one processor at most, a step at a time: whoever serves waits for no more.
                time.sleep(time.thread_time() - used)
                used = time.thread_time()
        except (Error, OSError) as error:
            log.warning("a snapshot of entry %d came to nothing: %s", work.index, error)
        finally:
            work.close()
            self._threads.discard(threading.current_thread())
            turn.snapshot_ended(work)
        if work.complete:
            log.info("a snapshot of entry %d is complete: %d bytes in %.1f s", work.index,
                     work.size, time.monotonic() - began)

    def _look_for_room(self) -> None:
        """A snapshot must not take what the log needs. It is smaller than log and snapshots are."""
        disk = os.statvfs(self.path)
        free, needed = disk.f_bavail * disk.f_frsize, self._bytes() + self._reserve
        if free < needed:
            raise StorageError(f"{free >> 20} MiB are free in {self.path}, {needed >> 20} may be "
                               "needed; make room")

    def _bytes(self) -> int:
        """Of log and snapshots."""
        total = 0
        for name in ("log", "snapshot"):
            for entry in os.scandir(os.path.join(self.path, name)):
                with contextlib.suppress(FileNotFoundError):  # it went meanwhile
                    total += entry.stat(follow_symlinks=False).st_size
        return total

    def newest_snapshot(self, turn: Turn) -> str:
        """Its path; "": there is none."""
        index = boot.status(turn)["snapshot"]
        return os.path.join(self.path, "snapshot", snapshot_name(index)) if index else ""

    def close(self) -> None:
        """Ends what is written beside the log, then unlocks; may be called again."""
        self._closing = True
        for thread in list(self._threads):
            thread.join()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class Saving:
    """A snapshot of all that is applied now, asked of a node whose turns somebody else runs."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._failed = self._failures()
        self._target = boot.ask_snapshot(turn)

    def _failures(self) -> int:
        return int(boot.status(self._turn)["counters"]["snapshots_failed"])

    def done(self) -> bool:
        """To be asked after a turn. Raises StorageError where it came to nothing."""
        if boot.status(self._turn)["snapshot"] >= self._target:
            return True
        if self._turn.failed is not None or self._failures() > self._failed:
            raise StorageError("a snapshot could not be written, the log says why: nothing else "
                               "changed; make room or mend the disk")
        return False
