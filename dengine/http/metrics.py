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
    "last": "last index of the log",
    "recovering": "1 while this node may have forgotten what it acknowledged",
    "lease_ms": "remaining lease of a leader",
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
            if name.startswith("longest") or name.endswith(("in_flight", "waiting")):
                yield GaugeMetricFamily(f"dengine_{name}", f"{name} now or since the start",
                                        value=value)
            else:
                yield CounterMetricFamily(f"dengine_{name}", f"{name} since the start", value=value)
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
