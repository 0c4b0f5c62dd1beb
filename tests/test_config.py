"""A configuration is right, or refused with one message: source, key, value and the fix."""

import logging
import tomllib
from pathlib import Path

import msgspec
import pytest

from dengine import config, schema
from dengine.errors import ConfigError

ROOT = Path(__file__).parent.parent
FILE = """
[cluster]
node_id = 1
initial_cluster = [
  { id = 1, address = "127.0.0.1:9081" },
  { id = 2, address = "127.0.0.1:9082" },
]
db_root_dir = "./db/n1"
"""
MEMBERS = "cluster.initial_cluster"
BATCH = {"Batch": {"threshold": 100, "interval_ms": 20}}


def refusal(text: str = "", file: str = FILE, **sources: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as e:
        config.loads(file + text, "n1.toml", **sources)
    message = str(e.value)
    assert "\n" not in message
    return message


def test_defaults_are_those_of_the_library():
    c = config.loads(FILE, "n1.toml")
    assert c.raft.persistence.strategy == "DiskFirst"
    assert c.raft.persistence.batch is None
    assert c.raft.read_consistency.default_policy == "LinearizableRead"
    assert c.cluster.listen_address == c.cluster.me.address == "127.0.0.1:9081"
    assert [m.id for m in c.cluster.peers] == [2]


@pytest.mark.parametrize(("name", "n"), [("n1", 1), ("n2", 2), ("n3", 3), ("single", 1)])
def test_shipped_files(name, n):
    c = config.load(ROOT / "config" / name, environ={})
    assert (c.cluster.node_id, c.http.port, c.http.health_port) == (n, 8080 + n, 10000 + n)
    assert c.cluster.listen_address == f"127.0.0.1:{9080 + n}"
    assert c.raft.persistence.strategy == "MemFirst"
    assert c.raft.persistence.batch == schema.Batch(threshold=100, interval_ms=20)
    assert c.raft.persistence.max_unflushed_ms == 200
    assert c.raft.read_consistency.default_policy == "LeaseRead"
    assert c.raft.read_consistency.lease_duration_ms == 500
    assert len(c.cluster.initial_cluster) == (1 if name == "single" else 3)


def test_suffix_may_be_left_out(tmp_path):
    (tmp_path / "a.b.toml").write_text(FILE)
    assert config.load(tmp_path / "a.b", environ={}) == config.loads(FILE, "")


def test_file_then_environment_then_override():
    file = FILE + "[http]\nport = 1001\nhealth_port = 1002\nmax_headers = 11"
    environ = {"DENGINE__HTTP__PORT": "2001", "DENGINE__HTTP__HEALTH_PORT": "2002", "HOME": "/"}
    c = config.loads(file, "n1.toml", {"http.port": 3001, "http.host": None}, environ)
    assert (c.http.port, c.http.health_port, c.http.max_headers) == (3001, 2002, 11)
    assert c.http.host == "127.0.0.1"


def test_environment_speaks_toml():
    environ = {
        "DENGINE__CLUSTER__NAME": "7",
        "DENGINE__RAFT__PERSISTENCE__STRATEGY": "MemFirst",
        "DENGINE__RAFT__PERSISTENCE__FLUSH_POLICY": as_toml(BATCH),
    }
    c = config.loads(FILE, "n1.toml", {}, environ)
    assert c.cluster.name == "7"
    assert c.raft.persistence.batch == schema.Batch(threshold=100, interval_ms=20)


def as_toml(value: object) -> str:
    text = config.show(value)
    assert tomllib.loads(f"v = {text}")["v"] == value
    return text


def test_single():
    c = config.single(Path("data"), overrides={"log.segment_bytes": 1 << 20})
    assert c.cluster.db_root_dir == "data"
    assert not c.cluster.peers
    assert c.raft.persistence.strategy == "DiskFirst"
    assert c.log.segment_bytes == 1 << 20
    assert config.single("d", strategy="MemFirst").raft.persistence.batch.interval_ms == 20
    immediate = config.single("d", strategy="MemFirst", flush_policy="Immediate")
    assert immediate.raft.persistence.batch is None
    assert config.single("d", strategy="MemFirst", flush_policy=BATCH).raft.persistence.batch
    with pytest.raises(ConfigError, match="DiskFirst always syncs at once"):
        config.single("d", flush_policy=BATCH)


def test_status_two_is_accepted_with_one_warning(caplog):
    file = FILE.replace('9081"', '9081", status = 2').replace('9082"', '9082", status = 2')
    with caplog.at_level(logging.WARNING, "dengine"):
        config.loads(file, "n1.toml")
    assert [r.getMessage() for r in caplog.records] == ["n1.toml: status = 2 is read as 3 (active)"]


# ------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(("text", "parts"), [
    ("[http]\nprot = 1", ["n1.toml", "http.prot", "1", "unknown", "http.port"]),
    ("listen_adress = 1", ["cluster.listen_adress", "cluster.listen_address"]),
    ("[raft.election]\nheartbeat_ms = 5", ["did you mean raft.replication.heartbeat_ms?"]),
    ("[tls]\ncert = 'x'", ["n1.toml: tls", "unknown", "remove it"]),
    ("[auth]", ["n1.toml: auth", "unknown"]),
    ("[raft.snapshot]\nx = 1", ["n1.toml: raft.snapshot", "unknown"]),
    ("[http]\nport = 99999", ["http.port = 99999", "1 to 65535"]),
    ("[http]\nport = '8081'", ['http.port = "8081"', "got str", "1 to 65535"]),
    ("[http]\nport = true", ["http.port = true"]),
    ("[raft]\npersistence = 3", ["raft.persistence = 3", "[raft.persistence]"]),
    ("[raft.persistence]\nstrategy = 'diskfirst'", ["strategy", "diskfirst", '"MemFirst"']),
    ("[raft.persistence]\nflush_policy = 'Batch'", ["flush_policy", '"Batch"', "threshold = 100"]),
    ("[raft.persistence]\nflush_policy = { Batch = { thresold = 1, interval_ms = 20 } }",
     ["raft.persistence.flush_policy.Batch", "did you mean threshold?"]),
    ("[raft.persistence]\nflush_policy = { Batch = { threshold = 0, interval_ms = 20 } }",
     ["raft.persistence.flush_policy.Batch.threshold = 0: Expected int >= 1"]),
    ("[limits]\nkey_bytes = 4097", ["limits.key_bytes = 4097", "1 to 4096"]),
    ("[limits]\nvalue_bytes = 1048577", ["limits.value_bytes = 1048577", "1 to 1048576"]),
    ("[log]\nsegment_bytes = 1000", ["log.segment_bytes = 1000", "1048576"]),
    ("[http\n", ["n1.toml: not TOML", "line 9"]),
])  # fmt: skip
def test_wrong_key_or_value(text, parts):
    message = refusal(text)
    assert message.startswith("n1.toml: ")
    assert [p for p in parts if p not in message] == []


@pytest.mark.parametrize(("key", "value", "parts"), [
    ("cluster.node_id", 3, ["cluster.initial_cluster", "add this node"]),
    ("cluster.listen_address", "127.0.0.1:9082", ["--listen-address", "cluster.peers"]),
    ("cluster.listen_address", "127.0.0.1:9083", ["127.0.0.1:9081", "on every node"]),
    ("cluster.listen_address", "0.0.0.0:70000", ["1 to 65535"]),
    ("cluster.listen_address", "0.0.0.0", ['"0.0.0.0"', "use host:port"]),
    ("cluster.listen_address", "0.0.0.0:8081", ["http.port = 8081"]),
    ("cluster.listen_address", "0.0.0.0:10001", ["http.health_port = 10001"]),
    ("cluster.name", "a b", ['cluster.name = "a b"']),
    ("cluster.db_root_dir", "", ['cluster.db_root_dir = ""']),
    ("http.port", 10001, ["--port", "http.health_port = 10001", "change one"]),
    ("raft.persistence.flush_policy", BATCH, ['strategy = "DiskFirst"', '"MemFirst"']),
    ("raft.read_consistency.lease_duration_ms", 541, ["at most 0.9 of", "min_ms = 600"]),
    ("raft.read_consistency.lease_duration_ms", 100, ["heartbeat_ms = 100"]),
    ("raft.election.election_timeout_max_ms", 600, ["override", "less than"]),
    ("raft.replication.heartbeat_ms", 201, ["at most a third of"]),
    ("raft.replication.reconnect_min_ms", 501, ["reconnect_max_ms = 500"]),
    ("http.max_body_bytes", 1 << 19, ["limits.value_bytes = 1048576"]),
    ("limits.waiting_bytes", 1 << 20, ["at least twice limits.value_bytes"]),
    ("log.segment_bytes", (1 << 20) + 1, ["a power of two"]),
    ("http.prt", 1, ["did you mean http.port?"]),
])  # fmt: skip
def test_contradiction(key, value, parts):
    message = refusal(overrides={key: value})
    assert [p for p in [key, *parts] if p not in message] == []


def test_unflushed_limit_below_the_interval():
    overrides = {"raft.persistence.strategy": "MemFirst", "raft.persistence.flush_policy": BATCH,
                 "raft.persistence.max_unflushed_ms": 39}  # fmt: skip
    assert "at least two intervals" in refusal(overrides=overrides)


@pytest.mark.parametrize(("old", "new", "parts"), [
    ("id = 2", "id = 1", ["an id given twice"]),
    ("9082", "9081", ["an address given twice"]),
    ("9082", "0", ["a port above 65535 or of 0"]),
    ("id = 2", "role = 2, id = 2", [f"{MEMBERS}[1].role = 2"]),
    ("id = 2", "rol = 1, id = 2", [f"{MEMBERS}[1]", "did you mean role?"]),
    ("127.0.0.1:9082", "nowhere", [f'{MEMBERS}[1].address = "nowhere"']),
    ("id = 2, ", "", [f"{MEMBERS}[1]", "missing", "id"]),
    ("node_id = 1", "", ["cluster.node_id is missing"]),
])  # fmt: skip
def test_wrong_members(old, new, parts):
    assert old in FILE
    message = refusal(file=FILE.replace(old, new))
    assert [p for p in [MEMBERS.split(".")[0], *parts] if p not in message] == []


def test_another_host_may_have_another_port():
    c = config.loads(FILE, "n1.toml", {"cluster.listen_address": "0.0.0.0:7000"})
    assert c.cluster.listen_address == "0.0.0.0:7000"


def test_environment_is_named():
    message = refusal(environ={"DENGINE__HTTP__PORT": "x"})
    assert message.startswith('$DENGINE__HTTP__PORT: http.port = "x": ')
    message = refusal(environ={"DENGINE__HTTP__PROT": "1"})
    assert message.startswith("$DENGINE__HTTP__PROT: ")
    assert "did you mean http.port?" in message


def test_file_that_cannot_be_read(tmp_path):
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path / "bytes", "UTF-8")):
        (tmp_path / "bytes.toml").write_bytes(b"\xff")
        with pytest.raises(ConfigError, match=reason) as e:
            config.load(path, environ={})
        assert f"{path}.toml" in str(e.value)


# ------------------------------------------------------------------------------ the reference
def test_reference_is_current():
    committed = (ROOT / "docs/configuration.md").read_text()
    assert committed == config.reference(), "python -m dengine.config > docs/configuration.md"


def test_every_key_has_a_meaning_and_a_valid_default():
    for path, field in schema.FIELDS.items():
        assert field.meta.description, path
        if field.default is not msgspec.NODEFAULT and not field.extra("default"):
            msgspec.convert(field.default, field.type)


def test_addresses():
    assert config.split_address("a-b.c:1") == ("a-b.c", 1)
    assert config.split_address("[::1]:9081") == ("::1", 9081)
