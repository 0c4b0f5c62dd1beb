"""`dengine status`: what each node says of itself, in one table, once or redrawn as it changes.

It decides what is worth a line; the nodes know the rest.
"""
from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

HEALTH = "http://127.0.0.1:10001,http://127.0.0.1:10002,http://127.0.0.1:10003"
COLUMNS = ("node", "role", "term", "commit", "applied", "lag", "health")
WATCHED = ("node", "role", "term", "lease_ms", "commit", "lag", "entries/s", "waiting", "health")
EVENTS = 10  # the newest of all nodes
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@click.command()
@click.option("--health", envvar="DENGINE_HEALTH", default=HEALTH, show_default=True,
              show_envvar=True, metavar="URL[,URL...]", help="The nodes' health ports.")
@click.option("--timeout", default=2.0, show_default=True, metavar="SECONDS",
              type=click.FloatRange(0, min_open=True))
@click.option("--json", "as_json", is_flag=True, help="All that the nodes say, as JSON.")
@click.option("--watch", is_flag=True, help="Redraw, with the newest events, until Ctrl-C.")
@click.option("--interval", default=1.0, show_default=True, metavar="SECONDS",
              type=click.FloatRange(0.05), help="Of --watch.")
def status(health: str, timeout: float, as_json: bool, watch: bool, interval: float) -> None:
    """Show role, term, commit, applied, lag and health of each node.

    Exit status 3 if no node answers. LAG: entries that some node committed and this one has not
    yet applied. With --watch and --json: one line of JSON for each look.
    """
    urls = [url.strip().rstrip("/") for url in health.split(",") if url.strip()]
    if watch:
        follow(looks(urls, timeout, interval), as_json)
        return
    nodes = look(urls, timeout)
    if as_json:
        click.echo(json.dumps(nodes, indent=2))
    else:
        Console().print(table(nodes, COLUMNS))
    click.get_current_context().exit(0 if any("term" in n for n in nodes) else 3)


def looks(urls: list[str], timeout: float, interval: float) -> Iterator[list[dict[str, Any]]]:
    while True:
        yield look(urls, timeout)
        time.sleep(interval)


def follow(all_looks: Iterator[list[dict[str, Any]]], as_json: bool) -> None:
    """Until they end, or Ctrl-C."""
    past = Past()
    try:
        if as_json:
            for nodes in all_looks:
                print(json.dumps(nodes), flush=True)
            return
        with Live(console=Console(), auto_refresh=False, screen=sys.stdout.isatty()) as live:
            for nodes in all_looks:
                live.update(past.picture(nodes), refresh=True)
    except KeyboardInterrupt:
        pass


@dataclass
class Past:
    """What earlier looks showed: for rates, and what happened between them."""

    commits: dict[str, tuple[float, int]] = field(default_factory=dict)
    health: dict[str, str] = field(default_factory=dict)
    events: dict[tuple[float, str], None] = field(default_factory=dict)     # in order of time

    def picture(self, nodes: list[dict[str, Any]]) -> Group:
        now = time.time()
        for node in nodes:
            url, commit = node["url"], node.get("commit")
            if commit is not None:
                before, at = self.commits.get(url, (now, commit))
                node["entries/s"] = round(max(0, commit - at) / (now - before)) if (
                    now > before) else "-"
                self.commits[url] = now, commit
            node["waiting"] = node.get("counters", {}).get("writes_waiting", "-")
            if self.health.setdefault(url, node["health"]) != node["health"]:
                self.health[url] = node["health"]
                self.events[now, f"{name(node)}: {node['health']}"] = None
            for event in node.get("events", ()):
                self.events[event["at"], f"{name(node)}: {event['what']}"] = None
        self.events = dict.fromkeys(sorted(self.events)[-EVENTS:])
        lines = [f"{time.strftime('%H:%M:%S', time.localtime(at))}  {what}"
                 for at, what in self.events]
        return Group(table(nodes, WATCHED), Text("\n".join(["", *lines])))


def name(node: dict[str, Any]) -> str:
    return f"node {node['node']}" if node.get("node") else str(node["url"])


def table(nodes: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    drawn = Table(*columns)
    drawn.add_column("health port", overflow="fold")
    for node in nodes:
        drawn.add_row(*(str(node.get(c, "-")) for c in columns), node["url"])
    return drawn


def look(urls: list[str], timeout: float) -> list[dict[str, Any]]:
    """What all nodes say now, with their lags."""
    with ThreadPoolExecutor(max(1, len(urls))) as pool:
        nodes = list(pool.map(lambda url: ask(url, timeout), urls))
    newest = max((n["commit"] for n in nodes if "commit" in n), default=0)
    for node in nodes:
        if "applied" in node:
            node["lag"] = newest - node["applied"]
    return nodes


def ask(url: str, timeout: float) -> dict[str, Any]:
    """The node's own words, and `health`: ready, recovering, disk full, not ready, or why it is
    down."""
    where = url if "//" in url else "http://" + url
    try:
        try:
            node = read(f"{where}/admin/status", timeout)
        except urllib.error.HTTPError:          # one that says less
            node = read(f"{where}/health", timeout)
    except (OSError, ValueError) as e:
        reason = getattr(e, "reason", e)
        return {"url": url, "health": f"down: {getattr(reason, 'strerror', None) or reason}"}
    words = ("recovering", "disk_full", "ready")
    state = next((word for word in words if node.get(word)), "not ready")
    return {"url": url, "node": node.get("node_id"), "health": state.replace("_", " "), **node}


def read(url: str, timeout: float) -> dict[str, Any]:
    with DIRECT.open(url, timeout=timeout) as answer:
        said: dict[str, Any] = json.load(answer)
    return said
