"""`dengine transfer`: hands the lead of a cluster to another node.

It finds out which node leads, and asks that one; the rest is the cluster's.
"""
from __future__ import annotations

import json
import urllib.request

import click

from dengine import errors
from dengine.cli.backup import opened, url_of
from dengine.cli.status import HEALTH, ask


@click.command()
@click.option("--to", type=click.IntRange(min=1), metavar="ID",
              help="The node that is to lead; else the one that is ahead.")
@click.option("--health", envvar="DENGINE_HEALTH", default=HEALTH, show_default=True,
              show_envvar=True, metavar="URL[,URL...]", help="The nodes' health ports.")
@click.option("--timeout", default=10.0, show_default=True, metavar="SECONDS",
              type=click.FloatRange(0, min_open=True))
def transfer(to: int | None, health: str, timeout: float) -> None:
    """Hand the lead to another node, before this machine is stopped, say.

    Writes wait meanwhile, some milliseconds. Exit status 3: it leads on, nothing was lost.
    """
    request = urllib.request.Request(
        f"{leader(health, timeout)}/admin/transfer{f'?to={to}' if to else ''}", method="POST")
    with opened(request, timeout) as answer:
        click.echo(f"node {json.load(answer)['leader']} leads")


def leader(health: str, timeout: float) -> str:
    """The health port of the node that leads."""
    for url in health.split(","):
        if url.strip() and ask(url.strip().rstrip("/"), timeout).get("role") == "leader":
            return url_of(url)
    raise errors.UnavailableError("none of the nodes that were asked leads: nothing was changed; "
                                  "name the health ports of all, or wait for an election")
