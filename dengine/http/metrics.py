"""What Prometheus reads: one scrape is one look at the node and at the HTTP server.

It decides the names; it keeps no numbers of its own.
"""
from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ROLES = ("leader", "follower", "candidate", "precandidate")
GAUGES = {
    "term": "current term",
    "leader": "id of the leader, 0 if unknown",
    "commit": "highest index known to be committed",
    "applied": "highest index applied",
    "first": "oldest index that is in the log",
    "last": "last index of the log",
    "snapshot": "index of the last entry in the newest snapshot, 0 if there is none",
    "recovering": "1 while this node may have forgotten what it acknowledged",
    "disk_full": "1 while the disk has no room for the next segment of the log",
    "lease_ms": "remaining lease of a leader",
}

# Of what the core counts, in its order: since the start of the process; and as it is now.
COUNTERS = {
    "turns": "turns of the loop",
    "elections": "elections that this node began",
    "steps_down": "times this node stopped leading",
    "forwarded": "writes passed on to the leader",
    "log_bytes_written": "bytes of entries written to the log",
    "log_stalls": "times a write waited for prepared space",
    "log_stall_us": "time spent waiting for prepared space, in microseconds",
    "log_disk_full": "times the disk had no room for the next segment of the log",
    "syncs": "completed syncs of the log",
    "sync_bytes": "bytes of the pages that these syncs brought to the device",
    "sync_us": "time spent in these syncs, in microseconds",
    "snapshots_taken": "snapshots of the state written to disk",
    "snapshots_failed": "snapshots that could not be written",
    "snapshots_installed": "snapshots of a leader that took the place of this node's log",
    "snapshot_bytes_received": "bytes of a leader's snapshots received",
}
NOW = {
    "longest_turn_us": "longest turn since the start: processor time and time in system calls "
                       "that block, in microseconds",
    "longest_turn_wall_us": "the same by the clock, with what the machine gave to others",
    "longest_sync_us": "longest sync of the log since the start, in microseconds",
    "writes_in_flight": "writes of this node that are proposed or forwarded and not yet applied",
    "writes_waiting": "writes that wait for a leader",
    "reads_waiting": "reads that wait for a leader or for an entry to be applied",
}


class Requests(Protocol):
    """The hot HTTP server, as far as it is measured."""

    @property
    def connections(self) -> int: ...

    def requests(self) -> dict[tuple[str, int, str], int]: ...


class Status(Protocol):
    """A node, as far as it is measured."""

    def status(self) -> dict[str, object]: ...


class Metrics(Collector):
    """`text()` is the body of GET /metrics."""

    def __init__(self, node: Status, http: Requests) -> None:
        self.node = node
        self.http = http
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        status = self.node.status()
        role = GaugeMetricFamily("dengine_role", "1 for the role of this node", labels=["role"])
        for name in ROLES:
            role.add_metric([name], status["role"] == name)
        yield role
        for name, meaning in GAUGES.items():
            yield GaugeMetricFamily(f"dengine_{name}", meaning, value=number(status[name]))
        lag = number(status["commit"]) - number(status["applied"])
        yield GaugeMetricFamily("dengine_lag", "entries committed but not applied", value=lag)
        counters = status["counters"]
        assert isinstance(counters, dict)
        for name, value in counters.items():
            if name in NOW:
                yield GaugeMetricFamily(f"dengine_{name}", NOW[name], value=value)
            else:
                yield CounterMetricFamily(f"dengine_{name}", COUNTERS[name], value=value)
        requests = CounterMetricFamily(
            "dengine_http_requests", "answers", labels=["route", "status", "code"])
        for (route, code, word), count in self.http.requests().items():
            requests.add_metric([route, str(code), word], count)
        yield requests
        yield GaugeMetricFamily(
            "dengine_http_connections", "open connections", value=self.http.connections)


def number(value: object) -> float:
    assert isinstance(value, (int, float))
    return value
