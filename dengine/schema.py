"""What a configuration may say: every key with its default, unit, range and reason, and every rule
between keys, each in one table.

Knows nothing of files, environment or flags (`dengine.config`), nor of how a value is used.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from msgspec.structs import force_setattr

KIB, MIB = 1024, 1024 * 1024
HOUR_MS = 3_600_000
IMMEDIATE_UNFLUSHED_MS = 200  # ten of the shipped intervals
ADDRESS = r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$"

Strategy = Literal["DiskFirst", "MemFirst"]
Policy = Literal["LinearizableRead", "LeaseRead", "EventualRead"]


def _int(unit: str, low: int, high: int, meaning: str, **extra: str) -> msgspec.Meta:
    return msgspec.Meta(ge=low, le=high, description=meaning, extra={"unit": unit, **extra})


def _text(meaning: str, pattern: str | None = None, **extra: str) -> msgspec.Meta:
    return msgspec.Meta(pattern=pattern, description=meaning, extra=extra)


# -------------------------------------------------------------------------------- sections
class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file."""


FOLLOWER, LEARNER = 1, 4


class Member(Section, frozen=True, kw_only=True):
    """One node of `initial_cluster`."""

    id: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    address: Annotated[str, msgspec.Meta(pattern=ADDRESS)]
    role: Literal[1, 4] = 1  # follower, learner
    status: Literal[2, 3] = 3  # active; 2 is the same


class Cluster(Section, frozen=True, kw_only=True):
    """Who this node is, and whom it forms a cluster with."""

    name: Annotated[str, _text("Only nodes that say the same name form a cluster",
                               "^[A-Za-z0-9._-]{1,64}$")] = "dengine"
    node_id: Annotated[int, _int("", 1, 65535, "This node: an id of `initial_cluster`")]
    listen_address: Annotated[str, _text(
        "Where its Raft listener binds; another host than the others dial is for wildcards, "
        "containers and proxies", ADDRESS, range="`host:port`", flag="--listen-address",
        default="its address in `initial_cluster`")] = ""
    initial_cluster: Annotated[tuple[Member, ...], msgspec.Meta(
        min_length=1, max_length=16,
        description="The nodes that form the cluster, and this one: role 1 is a follower, 4 a "
        "learner, which waits to be taken in; status 3 is active (2 is read as 3)",
        extra={"range": '1 to 16 of `{ id = 1, address = "host:port", role = 1, status = 3 }`'})]
    db_root_dir: Annotated[str, _text(
        "Directory of the data, relative to where the node is started", "^[^\0]+$",
        range="path", flag="--db-root-dir")]

    def __post_init__(self) -> None:
        own = [m.address for m in self.initial_cluster if m.id == self.node_id]
        if own and not self.listen_address:
            force_setattr(self, "listen_address", own[0])

    @property
    def me(self) -> Member:
        return next(m for m in self.initial_cluster if m.id == self.node_id)

    @property
    def peers(self) -> tuple[Member, ...]:
        return tuple(m for m in self.initial_cluster if m.id != self.node_id)


class ReadConsistency(Section, frozen=True, kw_only=True):
    """What a read promises that names no consistency of its own."""

    default_policy: Annotated[Policy, _text(
        "Fresh by a round to a majority, fresh by the leader's lease, or local")
    ] = "LinearizableRead"
    lease_duration_ms: Annotated[int, _int(
        "ms", 1, HOUR_MS, "How long a leader relies on the last round it completed")] = 500


class Batch(Section, frozen=True, kw_only=True):
    """A sync after so many entries or so much time, whichever comes first."""

    threshold: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    interval_ms: Annotated[int, msgspec.Meta(ge=1, le=60_000)]


class BatchPolicy(Section, frozen=True, kw_only=True):
    """`{ Batch = { … } }`"""

    batch: Batch = msgspec.field(name="Batch")


class Persistence(Section, frozen=True, kw_only=True):
    """What an acknowledgement survives: the durability table of the README."""

    strategy: Annotated[Strategy, _text(
        "Acknowledged on the disks, or in the page caches, of a majority")] = "DiskFirst"
    flush_policy: Annotated[Literal["Immediate"] | BatchPolicy, _text(
        "When MemFirst syncs what it acknowledged; DiskFirst always syncs at once",
        range='`"Immediate"`, `{ Batch = { threshold = 100, interval_ms = 20 } }`')] = "Immediate"
    max_unflushed_ms: Annotated[int, _int(
        "ms", 1, HOUR_MS, "MemFirst stops acknowledging while an older entry is not synced",
        default=f"10 intervals; {IMMEDIATE_UNFLUSHED_MS} with Immediate")] = 0

    def __post_init__(self) -> None:
        if not self.max_unflushed_ms:
            limit = 10 * self.batch.interval_ms if self.batch else IMMEDIATE_UNFLUSHED_MS
            force_setattr(self, "max_unflushed_ms", limit)

    @property
    def batch(self) -> Batch | None:
        """None: synced at once."""
        return self.flush_policy.batch if isinstance(self.flush_policy, BatchPolicy) else None


class Election(Section, frozen=True, kw_only=True):
    """When a follower gives its leader up; the same on every node."""

    election_timeout_min_ms: Annotated[int, _int(
        "ms", 10, HOUR_MS, "The promise: so long a follower that heard a leader grants no vote")
    ] = 600
    election_timeout_max_ms: Annotated[int, _int(
        "ms", 10, HOUR_MS, "A silent leader is given up after a time drawn between the two")
    ] = 1200


class Replication(Section, frozen=True, kw_only=True):
    """How a leader keeps its followers."""

    heartbeat_ms: Annotated[int, _int("ms", 1, HOUR_MS, "Longest silence of a leader")] = 100
    reconnect_min_ms: Annotated[int, _int(
        "ms", 1, HOUR_MS, "First wait before a lost peer is dialled again; doubles, jittered")
    ] = 20
    reconnect_max_ms: Annotated[int, _int("ms", 1, HOUR_MS, "Longest such wait")] = 500


class Snapshot(Section, frozen=True, kw_only=True):
    """When the state is written to a file, so that the log before it can go."""

    entries: Annotated[int, _int(
        "", 1, 1 << 40, "Entries applied since the last snapshot")] = 1_000_000
    bytes: Annotated[int, _int(
        "bytes", 64 * KIB, 1 << 40, "Log written since the last one, and at least as much as "
        "that one has: a large store is not written again for a small log")] = 256 * MIB
    keep_bytes: Annotated[int, _int(
        "bytes", 0, 1 << 40, "Log that a snapshot holds already, kept for nodes that lag: one that "
        "needs older entries gets the snapshot")] = 64 * MIB


class Raft(Section, frozen=True, kw_only=True):
    read_consistency: ReadConsistency = msgspec.field(default_factory=ReadConsistency)
    persistence: Persistence = msgspec.field(default_factory=Persistence)
    election: Election = msgspec.field(default_factory=Election)
    replication: Replication = msgspec.field(default_factory=Replication)
    snapshot: Snapshot = msgspec.field(default_factory=Snapshot)


class Http(Section, frozen=True, kw_only=True):
    """The ports for clients and for health checks, and what one client may cost."""

    host: Annotated[str, _text("Where both ports bind", "^[0-9A-Za-z.:_-]+$", range="host",
                               flag="--host")] = "127.0.0.1"
    port: Annotated[int, _int("", 1, 65535, "Reads and writes", flag="--port")] = 8081
    health_port: Annotated[int, _int("", 1, 65535, "Health checks and metrics",
                                     flag="--health-port")] = 10001
    request_timeout_ms: Annotated[int, _int(
        "ms", 1, HOUR_MS, "Deadline of a request; without a leader it ends in 503 or 504")] = 5000
    idempotency_retention_ms: Annotated[int, _int(
        "ms", 1, HOUR_MS, "How long a repeated Idempotency-Key is answered with the first result")
    ] = 20_000
    idle_timeout_ms: Annotated[int, _int(
        "ms", 1, HOUR_MS, "An idle connection is closed; longer than proxies keep theirs")] = 75_000
    header_timeout_ms: Annotated[int, _int(
        "ms", 1, HOUR_MS, "From the first byte of a request to its last: 408 above")] = 10_000
    max_connections: Annotated[int, _int("", 1, 65536, "Open connections of each port")] = 1024
    max_pipeline: Annotated[int, _int(
        "", 1, 4096, "Unanswered requests of one connection before it is no longer read")] = 64
    max_line_bytes: Annotated[int, _int(
        "bytes", 64, 64 * KIB, "Request line: 414 above; a key of 4 KiB takes up to 12 KiB")
    ] = 16 * KIB
    max_header_bytes: Annotated[int, _int(
        "bytes", 256, 256 * KIB, "Headers of one request: 431 above")] = 16 * KIB
    max_headers: Annotated[int, _int("", 8, 1024, "Headers of one request: 431 above")] = 100
    max_body_bytes: Annotated[int, _int(
        "bytes", KIB, 64 * MIB, "Body of one request: 413 above")] = 3 * MIB // 2


class Limits(Section, frozen=True, kw_only=True):
    """What one node holds at most. At a limit: back-pressure or a clear error."""

    key_bytes: Annotated[int, _int(
        "bytes", 1, 4 * KIB, "One key; it is compared at every level of the tree")] = 4 * KIB
    value_bytes: Annotated[int, _int("bytes", 1, MIB, "One value; it must fit one frame")] = MIB
    waiting_writes: Annotated[int, _int("", 1, 1 << 20, "Writes not yet answered")] = 16_384
    waiting_reads: Annotated[int, _int(
        "", 1, 1 << 20, "Reads that wait for a round, a lease or a leader")] = 65_536
    waiting_bytes: Annotated[int, _int(
        "bytes", 64 * KIB, 16 << 30, "Keys and values of the writes not yet answered")] = 64 * MIB


class Log(Section, frozen=True, kw_only=True):
    """The files of the log."""

    segment_bytes: Annotated[int, _int(
        "bytes", MIB, 64 * MIB, "Largest file; the first has 1 MiB and each next one doubles")
    ] = 64 * MIB


class Config(Section, frozen=True, kw_only=True):
    """All that a node is told at its start."""

    cluster: Cluster
    raft: Raft = msgspec.field(default_factory=Raft)
    http: Http = msgspec.field(default_factory=Http)
    limits: Limits = msgspec.field(default_factory=Limits)
    log: Log = msgspec.field(default_factory=Log)


# -------------------------------------------------------------------------------- rules
class Rule(NamedTuple):
    """A sentence: `key` must be `law` `other`, else `fix`; `holds` is given both values."""

    key: str
    law: str
    other: str
    fix: str
    holds: Callable[[Any, Any], bool]


def split_address(address: str) -> tuple[str, int]:
    """"[::1]:9081" -> ("::1", 9081)"""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _distinct(values: list[object]) -> bool:
    return len(set(values)) == len(values)


PROMISE, LEASE, BEAT = ("raft.election.election_timeout_min_ms",
                        "raft.read_consistency.lease_duration_ms", "raft.replication.heartbeat_ms")
MEMBERS, LISTEN, FLUSH = ("cluster.initial_cluster", "cluster.listen_address",
                          "raft.persistence.flush_policy")
RULES = (
    Rule("cluster.node_id", "the id of a member of", MEMBERS, "add this node there",
         lambda me, members: me in [m.id for m in members]),
    Rule(MEMBERS, "without an id given twice", "", "give each member its own id",
         lambda members, _: _distinct([m.id for m in members])),
    Rule(MEMBERS, "without an address given twice", "", "give each member its own address",
         lambda members, _: _distinct([m.address for m in members])),
    Rule(MEMBERS, "without a port above 65535 or of 0", "", "correct the port",
         lambda members, _: all(0 < split_address(m.address)[1] < 65536 for m in members)),
    Rule(MEMBERS, "with a node of role 1", "", "name the nodes of the cluster, or form one",
         lambda members, _: any(m.role == FOLLOWER for m in members)),
    Rule(LISTEN, "on a port from 1 to 65535", "", "correct the port",
         lambda listen, _: 0 < split_address(listen)[1] < 65536),
    Rule(LISTEN, "no address of", "cluster.peers", "use this node's own, or correct node_id",
         lambda listen, peers: listen not in [m.address for m in peers]),
    Rule(LISTEN, "on the same port where it has the same host as", "cluster.me.address",
         "change initial_cluster too, on every node",  # one host, two ports: a slip of the pen
         lambda listen, own: listen == own or split_address(listen)[0] != split_address(own)[0]),
    Rule("http.health_port", "another port than", "http.port", "change one of them",
         lambda health, port: health != port),
    Rule(LISTEN, "on another port than", "http.port", "change one of them",
         lambda listen, port: split_address(listen)[1] != port),
    Rule(LISTEN, "on another port than", "http.health_port", "change one of them",
         lambda listen, port: split_address(listen)[1] != port),
    Rule(FLUSH, '"Immediate" with', "raft.persistence.strategy",
         'DiskFirst always syncs at once: remove flush_policy, or set strategy = "MemFirst"',
         lambda flush, strategy: flush == "Immediate" or strategy == "MemFirst"),
    Rule("raft.persistence.max_unflushed_ms", "at least two intervals of", FLUSH,
         "ten intervals are usual",
         lambda limit, flush: flush == "Immediate" or limit >= 2 * flush.batch.interval_ms),
    Rule(PROMISE, "less than", "raft.election.election_timeout_max_ms",
         "make the maximum twice the minimum", lambda low, high: low < high),
    Rule(BEAT, "at most a third of", PROMISE, "a lost heartbeat must not cost the leader",
         lambda beat, promise: 3 * beat <= promise),
    Rule(LEASE, "at most 0.9 of", PROMISE, "a lease must end before another leader can rise",
         lambda lease, promise: 10 * lease <= 9 * promise),
    Rule(LEASE, "more than", BEAT, "the heartbeats of an idle leader renew its lease",
         lambda lease, beat: lease > beat),
    Rule("raft.replication.reconnect_min_ms", "at most", "raft.replication.reconnect_max_ms",
         "raise the maximum", lambda low, high: low <= high),
    Rule("http.max_body_bytes", "at least", "limits.value_bytes", "lower limits.value_bytes too",
         lambda body, value: body >= value),
    Rule("limits.waiting_bytes", "at least twice", "limits.value_bytes", "raise it",
         lambda waiting, value: waiting >= 2 * value),
    Rule("log.segment_bytes", "a power of two", "", "the default is 64 MiB: 67108864",
         lambda size, _: size.bit_count() == 1),
)


# -------------------------------------------------------------------------------- keys
class Field(NamedTuple):
    """One key, as its definition says it."""

    type: Any
    default: object  # msgspec.NODEFAULT: required
    meta: msgspec.Meta

    def extra(self, name: str) -> str:
        return str((self.meta.extra or {}).get(name, ""))

    @property
    def range(self) -> str:
        if self.meta.ge is not None:
            return f"{self.meta.ge} to {self.meta.le}"
        choices = get_args(get_args(self.type)[0])
        return self.extra("range") or ", ".join(f'`"{c}"`' for c in choices) or "text"


def _keys(section: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section] | Field]]:
    for f in msgspec.structs.fields(section):
        path = prefix + f.name
        if isinstance(f.type, type):
            yield path, f.type
            yield from _keys(f.type, path + ".")
        else:
            yield path, Field(f.type, f.default, f.type.__metadata__[0])


KEYS = dict(_keys(Config))
FIELDS = {path: key for path, key in KEYS.items() if isinstance(key, Field)}
SECTIONS = {path: key for path, key in KEYS.items() if not isinstance(key, Field)}
