"""The command line and the blocking client, against a small HTTP server in this process."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote_to_bytes

import click
import pytest
from click.testing import CliRunner, Result

from dengine import errors, logs, schema
from dengine.cli import root
from dengine.client import Client

ROOT = Path(__file__).parent.parent
NODES = [str(ROOT / f"config/n{n}") for n in (1, 2, 3)]


class Peer(ThreadingHTTPServer):
    """Holds one store. `fail` may answer a request, or drop it, in the store's place."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.store: dict[bytes, tuple[bytes, int]] = {}
        self.revision = 0
        self.health: dict[str, object] = {}
        self.requests: list[str] = []
        self.keys: list[str | None] = []        # their Idempotency-Keys
        self.overview: dict[str, object] = {}   # /admin/status; an older node has none
        self.fail: Callable[[Handler], bool] = lambda _: False


class Handler(BaseHTTPRequestHandler):
    server: Peer
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def problem(self, status: int, code: str, **more: object) -> None:
        self.answer(status, json.dumps({"code": code, "detail": f"is {code}", **more}).encode())

    def do(self) -> None:
        peer, body = self.server, self.rfile.read(int(self.headers["Content-Length"] or 0))
        peer.requests.append(f"{self.command} {self.path}")
        peer.keys.append(self.headers["Idempotency-Key"])
        if peer.fail(self):
            return
        if self.path in ("/health", "/admin/status"):
            said = peer.health if self.path == "/health" else peer.overview
            self.answer(200 if said else 404, json.dumps(said).encode())
            return
        key = unquote_to_bytes(self.path.partition("?")[0].removeprefix("/kv/"))
        value, revision = peer.store.get(key, (b"", 0))
        if self.command == "GET":
            headers = {"Dengine_Revision": str(peer.revision), "ETag": f'"{revision}"'}
            self.answer(200 if revision else 404, value, **headers)
            return
        match = self.headers["If-Match"]
        if (match and match != f'"{revision}"') or (self.headers["If-None-Match"] and revision):
            self.problem(412, "conflict", revision=revision)
            return
        peer.revision += 1
        if self.command == "PUT":
            peer.store[key] = body, peer.revision
        else:
            peer.store.pop(key, None)
        outcome = {"revision": peer.revision, "deleted": int(revision > 0)}
        self.answer(200, json.dumps(outcome).encode())

    do_GET = do_PUT = do_DELETE = do_POST = do

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Peer]:
    with Peer() as peer:
        thread = threading.Thread(target=peer.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield peer
        finally:
            peer.shutdown()
            thread.join()


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving() as peer:
        yield peer


@pytest.fixture
def closed() -> Iterator[str]:
    """A URL whose port nobody listens on, and nobody else can take."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{s.getsockname()[1]}"


def dengine(*arguments: str, **options: object) -> Result:
    result = CliRunner().invoke(root, arguments, **options)
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result


# ------------------------------------------------------------------------------ the client
def test_put_get_delete(peer):
    with Client(peer.url) as client:
        assert client.put("a/b ü%", b"\x00\xff") == 1
        assert client.get("a/b ü%".encode(), "eventual") == b"\x00\xff"
        assert client.entry("a/b ü%") == (b"\x00\xff", 1, 1)
        assert client.get("none") is None
        assert client.delete("a/b ü%") is True
        assert client.delete("a/b ü%") is False
    assert peer.requests[1] == "GET /kv/a%2Fb%20%C3%BC%25?consistency=eventual"


def test_conditions(peer):
    with Client(peer.url) as client:
        first = client.put("k", "1", if_none_match=True)
        with pytest.raises(errors.ConflictError, match="is conflict") as e:
            client.put("k", "2", if_none_match=True)
        assert e.value.revision == first
        second = client.put("k", "2", if_match=first)
        with pytest.raises(errors.ConflictError):
            client.delete("k", if_match=first)
        assert client.delete("k", if_match=second)


def test_refused_connection_goes_to_the_next(peer, closed):
    with Client([closed, peer.url]) as client:
        assert client.put("k", "v") == 1
        assert client.get("k") == b"v"
    assert len(peer.requests) == 2


def test_not_proposed_goes_to_the_next(peer):
    with serving() as other, Client([peer.url, other.url]) as client:
        peer.fail = lambda h: h.problem(503, "not_proposed") or True
        assert client.put("k", "v") == 1
        assert client.put("k", "v") == 2
    assert len(peer.requests) == 1  # the one that answered is asked first
    assert len(other.requests) == 2


def drop(handler: Handler) -> bool:
    handler.close_connection = True
    return True


@pytest.mark.parametrize("fail", [
    drop,
    lambda h: h.problem(504, "outcome_unknown") or True,
    lambda h: h.answer(503, b"a proxy's own") or True,
    lambda h: h.answer(500, b'["no object"]') or True,
])  # fmt: skip
def test_an_unknown_outcome_is_repeated_under_the_same_key(peer, fail):
    with serving() as other, Client([peer.url, other.url]) as client:
        for write in (lambda: client.put("k", "v"), lambda: client.delete("k")):
            client._endpoints.sort(key=lambda e: e.url != peer.url)
            peer.fail = fail
            write()
            assert peer.keys[-1] == other.keys[-1]
        assert len(set(peer.keys)) == len(peer.keys) == 2
        other.fail = fail
        with pytest.raises(errors.OutcomeUnknownError, match="may or may not be applied"):
            client.put("k", "v")


def test_silence_is_unknown_for_a_write(peer):
    released = threading.Event()
    peer.fail = lambda _: released.wait(10)
    with Client(peer.url, timeout=0.05) as client, pytest.raises(errors.OutcomeUnknownError):
        client.put("k", "v")
    with Client(peer.url, timeout=0.05) as client, pytest.raises(errors.UnavailableError):
        client.get("k")
    released.set()


def test_connection_closed_while_idle_is_no_unknown_outcome(peer):
    def close_after(handler: Handler) -> bool:
        handler.close_connection = True
        return False

    peer.fail = close_after
    with Client(peer.url) as client:
        endpoint = client._endpoints[0]
        for n in range(1, 4):
            assert client.put("k", "v") == n
            if endpoint._connection.sock:  # the end of the stream is on its way
                endpoint._connection.sock.recv(1)


def test_nobody_answers(closed):
    with Client([closed, closed]) as client:
        with pytest.raises(errors.NotProposedError, match=r"nothing was changed.*refused.*refused"):
            client.put("k", "v")
        with pytest.raises(errors.UnavailableError, match="refused") as e:
            client.get("k")
        assert type(e.value) is errors.UnavailableError


@pytest.mark.parametrize(("status", "code", "kind"), [
    (413, "too_large", errors.TooLargeError),
    (507, "no_space", errors.NoSpaceError),
    (400, "not_supported_yet", errors.RequestError),
    (404, "no_such_route", errors.RequestError),
    (414, "", errors.TooLargeError),
])  # fmt: skip
def test_refusals(peer, status, code, kind):
    peer.fail = lambda h: h.problem(status, code) or True
    with Client(peer.url) as client, pytest.raises(kind) as e:
        client.get("k")
    assert type(e.value) is kind


@pytest.mark.parametrize("url", ["https://x:1", "http://", "http://x:y", "http://x:1/kv", ""])
def test_wrong_endpoint(url):
    with pytest.raises(errors.ConfigError, match="endpoint"):
        Client([url])


# ------------------------------------------------------------------------------ the commands
def test_commands(peer):
    at = ("--endpoint", peer.url)
    assert dengine("put", "k", "v", *at).output == "1\n"
    assert dengine("put", "k", "-", *at, input=b"\x00\xff").output == "2\n"
    assert dengine("get", "k", "--consistency", "lease", *at).stdout_bytes == b"\x00\xff"
    assert dengine("delete", "k", *at).exit_code == 0
    missing = dengine("get", "k", *at)
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "no such key: k" in missing.stderr
    assert dengine("delete", "k", *at).exit_code == 1
    assert dengine("put", "k", "v", "--if-match", "7", *at).exit_code == 1
    assert dengine("put", "k", "v", env={"DENGINE_ENDPOINT": peer.url}).exit_code == 0


def test_exit_statuses(peer, closed):
    assert dengine("put", "k").exit_code == 2
    assert dengine("put", "k", "v", "--endpoint", "nonsense://").exit_code == 2
    assert dengine("put", "k", "v", "--endpoint", closed).exit_code == 3
    assert dengine("get", "k", "--endpoint", closed).exit_code == 3
    peer.fail = drop
    unknown = dengine("put", "k", "v", "--endpoint", peer.url)
    assert unknown.exit_code == 4
    assert "may or may not be applied" in unknown.stderr
    assert all(f"  {n}  " in dengine("--help").output for n in range(5))


def test_status(peer, closed):
    peer.health = {"node_id": 2, "role": "leader", "term": 3, "commit": 10, "applied": 7,
                   "recovering": False, "ready": True}  # fmt: skip
    table = dengine("status", "--health", f"{peer.url},{closed}", env={"COLUMNS": "200"})
    assert table.exit_code == 0
    for word in ("leader", "10", "ready", "down: Connection refused"):
        assert word in table.output
    nodes = json.loads(dengine("status", "--health", peer.url + "/", "--json").output)
    assert [(n["node"], n["role"], n["term"], n["lag"], n["health"]) for n in nodes] == [
        (2, "leader", 3, 3, "ready")]  # fmt: skip
    assert dengine("status", "--health", closed).exit_code == 3


def test_watch(peer, closed, monkeypatch):
    """Redrawn at each look, with rates and the newest events, until Ctrl-C."""
    state = {"node_id": 2, "role": "leader", "term": 3, "commit": 10, "applied": 10,
             "ready": True, "lease_ms": 412, "counters": {"writes_waiting": 6}}
    events = [{"at": 1.0, "what": "follower in term 3, node 1 leads"},
              {"at": 2.0, "what": "leader in term 3, node 2 leads"}]
    peer.overview = {**state, "members": [], "events": events}
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 1:
            peer.overview |= {"commit": 30, "ready": False}
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    health = f"{peer.url},{closed}"
    shown = dengine("status", "--watch", "--interval", "0.5", "--health", health,
                    env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert looks == [0.5, 0.5]
    for word in ("412", "leader in term 3", "node 2: not ready", "down: Connection refused"):
        assert word in shown.output, shown.output
    looks.clear()
    lines = dengine("status", "--watch", "--json", "--health", health).output.splitlines()
    assert [json.loads(line)[0]["commit"] for line in lines] == [30, 30]


def test_config_check(tmp_path):
    assert "node 1 of 3, MemFirst, LeaseRead" in dengine("config", "check", NODES[0]).output
    (tmp_path / "bad.toml").write_text("[http]\nprot = 1")
    bad = dengine("config", "check", str(tmp_path / "bad.toml"))
    assert bad.exit_code == 2
    assert bad.stderr.count("\n") == 1
    assert "did you mean http.port?" in bad.stderr


def test_version():
    assert dengine("version").output.startswith("dengine")


# ------------------------------------------------------------------------------ serve, cluster
@pytest.fixture
def server(monkeypatch):
    """Stands in for dengine.server, and leaves the logger as it was."""
    module = types.ModuleType("dengine.server")
    module.calls = []
    module.run = lambda config, level: module.calls.append((config, level)) or 7
    monkeypatch.setitem(sys.modules, "dengine.server", module)
    monkeypatch.setattr("dengine.server", module, raising=False)
    yield module
    logs.logging.getLogger("dengine").removeHandler(logs.HANDLER)


def free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def test_serve_hands_over_configuration_and_level(server):
    http, health, raft = free_ports(3)
    result = dengine(
        "serve", "--config-path", NODES[1], "--port", str(http), "--health-port", str(health),
        "--listen-address", f"127.0.0.2:{raft}", "--db-root-dir", "elsewhere",
        "--log-level", "debug")  # fmt: skip
    assert result.exit_code == 7, result.output
    (config, level), = server.calls
    assert level == "debug"
    assert (config.http.port, config.http.health_port) == (http, health)
    assert config.cluster.listen_address == f"127.0.0.2:{raft}"
    assert config.cluster.db_root_dir == "elsewhere"
    assert logs.LINES.node == config.cluster.node_id == 2


def test_flags_of_the_reference_are_those_of_serve():
    flags = {f.extra("flag") for f in schema.FIELDS.values()} - {""}
    serve = root.commands["serve"]
    assert flags <= {o for p in serve.params if isinstance(p, click.Option) for o in p.opts}


@pytest.mark.parametrize("command", ["serve", "cluster"])
def test_taken_port_is_named_with_what_changes_it(server, command, monkeypatch):
    http, health, raft = free_ports(3)
    monkeypatch.setenv("DENGINE__CLUSTER__LISTEN_ADDRESS", f"127.0.0.2:{raft}")
    monkeypatch.setenv("DENGINE__HTTP__HEALTH_PORT", str(health))
    monkeypatch.setenv("DENGINE__HTTP__PORT", str(http))
    option = {"serve": "--config-path", "cluster": "--config"}[command]
    with socket.create_server(("127.0.0.1", http)):
        result = dengine(command, option, NODES[0])
    assert result.exit_code == 2
    for word in (f"port {http}", "already in use", "http.port of node 1", "--port"):
        assert word in result.stderr
    assert not server.calls


def test_unknown_log_level(server):
    result = dengine("serve", "--config-path", NODES[0], env={"DENGINE_LOG": "loud"})
    assert result.exit_code == 2
    assert "loud" in result.stderr


SERVER = """
import signal, socket, sys, types

def run(config, level):
    if config.cluster.node_id == {failing}:
        return 5
    with socket.create_server((config.http.host, config.http.health_port)):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print("ready", flush=True)
        while True:
            signal.pause()

import dengine
dengine.server = sys.modules["dengine.server"] = types.SimpleNamespace(run=run)
"""


def start_cluster(tmp_path: Path, failing: int) -> subprocess.Popen[str]:
    """`dengine cluster` of three children whose `dengine.server` is SERVER."""
    ports = free_ports(9)
    (tmp_path / "sitecustomize.py").write_text(SERVER.format(failing=failing))
    members = ", ".join(f'{{ id = {n}, address = "127.0.0.1:{ports[n]}" }}' for n in range(1, 4))
    files = []
    for n in range(1, 4):
        file = tmp_path / f"n{n}.toml"
        file.write_text(
            f'[cluster]\nnode_id = {n}\ndb_root_dir = "db"\ninitial_cluster = [{members}]\n'
            f"[http]\nport = {ports[n + 3]}\nhealth_port = {ports[(n + 6) % 9]}\n")
        files += ["--config", str(file)]
    return subprocess.Popen(
        [sys.executable, "-m", "dengine", "cluster", *files], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_cluster_stops_all_on_a_signal(tmp_path, number):
    with start_cluster(tmp_path, failing=0) as process:
        lines: list[str] = []
        while sum("ready" in line for line in lines) < 3:
            line = process.stdout.readline()
            assert line, lines
            lines.append(line)
        process.send_signal(number)
        rest = process.stdout.read()  # ends when no child holds it any more
        assert process.wait() == 0, rest
    assert {line.split()[0] for line in lines} == {"[Node1]", "[Node2]", "[Node3]"}
    assert rest.count("ended: status 0") == 3


def test_cluster_ends_when_a_node_fails_at_its_start(tmp_path):
    with start_cluster(tmp_path, failing=2) as process:
        output = process.stdout.read()
        assert process.wait() == 1
    assert "[Node2] ended: status 5" in output
    assert output.count("ended: ") == 3


# ------------------------------------------------------------------------------ members
def add_a_member(peer: Peer, *more: str) -> Result:
    peer.health = {"role": "leader", "node_id": 1}
    return dengine("member", "add", "4", "127.0.0.1:9084", "--health", peer.url, *more)


@pytest.mark.parametrize("fail", [
    drop, lambda h: h.problem(504, "outcome_unknown") or True,
], ids=["no answer", "unknown"])  # fmt: skip
def test_a_change_that_may_have_begun_is_not_asked_again(peer, fail):
    peer.fail = lambda h: h.command == "POST" and fail(h)
    assert add_a_member(peer).exit_code == 4
    assert len([line for line in peer.requests if line.startswith("POST")]) == 1


def test_a_change_waits_for_its_turn(peer):
    def later(handler: Handler) -> bool:
        if handler.command != "POST":
            return False
        busy = not any(line.startswith("POST") for line in peer.requests[:-1])
        handler.problem(503, "unavailable") if busy else handler.answer(200, b"{}")
        return True

    peer.fail = later
    assert add_a_member(peer).exit_code == 0
    assert len([line for line in peer.requests if line.startswith("POST")]) == 2


# ------------------------------------------------------------------------------ the log
def test_a_line_has_time_level_node_and_term():
    record = logs.logging.LogRecord("dengine", 30, "", 0, "lost %s\nagain", ("x",), None)
    lines = logs.Lines()
    lines.node, lines.term = 2, 7
    at, level, node, term, *text = lines.format(record).split()
    assert len(at) == len("2025-01-01T00:00:00.000")
    assert (level, node, term, " ".join(text)) == ("WARNING", "node=2", "term=7", "lost x\\nagain")


def test_cluster_needs_one_id_each():
    result = dengine("cluster", "--config", NODES[0], "--config", NODES[0])
    assert result.exit_code == 2
    assert "one node_id twice" in result.stderr
