"""`dengine status`: what each node says of itself, in one table. Decides nothing, asks once."""

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click
from rich.console import Console
from rich.table import Table

HEALTH = "http://127.0.0.1:10001,http://127.0.0.1:10002,http://127.0.0.1:10003"
COLUMNS = ("node", "role", "term", "commit", "applied", "lag", "health")
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@click.command()
@click.option("--health", envvar="DENGINE_HEALTH", default=HEALTH, show_default=True,
              show_envvar=True, metavar="URL[,URL...]", help="The nodes' health ports.")
@click.option("--timeout", default=2.0, show_default=True, metavar="SECONDS",
              type=click.FloatRange(0, min_open=True))
@click.option("--json", "as_json", is_flag=True, help="All that the nodes say, as JSON.")
def status(health: str, timeout: float, as_json: bool) -> None:
    """Show role, term, commit, applied, lag and health of each node.

    Exit status 3 if no node answers. LAG: entries that some node committed and this one has not
    yet applied.
    """
    urls = [url.strip().rstrip("/") for url in health.split(",") if url.strip()]
    with ThreadPoolExecutor(max(1, len(urls))) as pool:
        nodes = list(pool.map(lambda url: ask(url, timeout), urls))
    newest = max((n["commit"] for n in nodes if "commit" in n), default=0)
    for node in nodes:
        if "applied" in node:
            node["lag"] = newest - node["applied"]
    if as_json:
        click.echo(json.dumps(nodes, indent=2))
    else:
        table = Table(*COLUMNS)
        table.add_column("health port", overflow="fold")
        for node in nodes:
            table.add_row(*(str(node.get(c, "-")) for c in COLUMNS), node["url"])
        Console().print(table)
    click.get_current_context().exit(0 if any("term" in n for n in nodes) else 3)


def ask(url: str, timeout: float) -> dict[str, Any]:
    """The node's own words, and `health`: ready, recovering, disk full, not ready, or why it is
    down."""
    try:
        with DIRECT.open(f"{url if '//' in url else 'http://' + url}/health",
                         timeout=timeout) as answer:
            node: dict[str, Any] = json.load(answer)
    except (OSError, ValueError) as e:
        reason = getattr(e, "reason", e)
        return {"url": url, "health": f"down: {getattr(reason, 'strerror', None) or reason}"}
    words = ("recovering", "disk_full", "ready")
    state = next((word for word in words if node.get(word)), "not ready")
    return {"url": url, "node": node.get("node_id"), "health": state.replace("_", " "), **node}
