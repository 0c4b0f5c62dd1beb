"""A cluster of etcd on loopback, from Debian's package `etcd-server`, as it is configured there.

It syncs each write before it answers, as DiskFirst does.
"""

import re
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import client
from benchmarks.client import HOST, Load
from benchmarks.common import Figure
from tests.cluster import eventually, free_ports, request

START_S = 20.0
STOP_S = 10.0


@dataclass(frozen=True)
class Gateway(Load):
    """The same work for etcd's JSON gateway. A key's name is itself base64, of six bytes."""

    @property
    def method(self) -> str:
        return "POST"

    def path(self, key: str) -> str:
        return f"/v3/kv/{'put' if self.op == 'put' else 'range'}"

    def body(self, key: str) -> str:
        if self.op == "put":
            return f'{{"key":"{key}","value":"{b64encode(self.value.encode()).decode()}"}}'
        return f'{{"key":"{key}","serializable":{str(self.op == "serializable").lower()}}}'


def version() -> str:
    """"" where there is none."""
    if not shutil.which("etcd"):
        return ""
    said = subprocess.run(["etcd", "--version"], capture_output=True, text=True, timeout=STOP_S,
                          check=True).stdout
    return re.findall(r"etcd Version: (\S+)", said)[0]


@contextmanager
def etcd(directory: Path, nodes: int = 3) -> Iterator[int]:
    """The port of the leader, for gRPC and for JSON alike."""
    peers, ports = free_ports(nodes), free_ports(nodes)
    initial = ",".join(f"n{i}=http://{HOST}:{port}" for i, port in enumerate(peers))
    with ExitStack() as stack:
        for i, (peer, port) in enumerate(zip(peers, ports, strict=True)):
            log = stack.enter_context((directory / f"etcd{i}.log").open("wb"))
            process = subprocess.Popen(
                ["etcd", "--name", f"n{i}", "--data-dir", str(directory / f"etcd{i}"),
                 "--listen-peer-urls", f"http://{HOST}:{peer}",
                 "--initial-advertise-peer-urls", f"http://{HOST}:{peer}",
                 "--listen-client-urls", f"http://{HOST}:{port}",
                 "--advertise-client-urls", f"http://{HOST}:{port}",
                 "--initial-cluster", initial, "--logger", "zap"],
                stdout=log, stderr=log)
            stack.callback(process.wait, STOP_S)
            stack.callback(process.kill)

        def leader() -> int:
            for port in ports:
                said = request(port, "POST", "/v3/maintenance/status", b"{}")
                if said.status != 200:
                    return 0
                if said.json.get("leader") == said.json["header"]["member_id"]:
                    return port
            return 0

        yield eventually("etcd's leader", leader, START_S)


def native(port: int, load: Load) -> Figure:
    """By gRPC."""
    return client.measured(client.bundled(Path(__file__).with_name("grpc.py"), port, load), load)


def gateway(port: int, load: Load) -> Figure:
    """By JSON over HTTP/1.1."""
    return client.measure(port, Gateway(**vars(load)))
