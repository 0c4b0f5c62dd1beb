"""`dengine member`: who is in the cluster, and how that changes.

Each change is asked of the node that leads; the cluster goes on with it by itself.
"""
from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import click
from rich.console import Console
from rich.table import Table

from dengine import errors
from dengine.cli.backup import opened
from dengine.cli.status import HEALTH
from dengine.cli.transfer import leader

AGAIN_S = 0.2


def shared(command: Callable[..., None]) -> Callable[..., None]:
    """What every command of the group takes."""
    for option in (
        click.option("--timeout", default=30.0, show_default=True, metavar="SECONDS",
                     type=click.FloatRange(0, min_open=True)),
        click.option("--health", envvar="DENGINE_HEALTH", default=HEALTH, show_default=True,
                     show_envvar=True, metavar="URL[,URL...]", help="The nodes' health ports."),
    ):
        command = option(command)
    return command


ID = click.argument("node", metavar="ID", type=click.IntRange(1, 65535))


@click.group()
def member() -> None:
    """See and change who is in the cluster."""


@member.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@shared
def list_members(health: str, timeout: float, *, as_json: bool) -> None:
    """Print every member, as the leader knows it."""
    rows = members(health, timeout)
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table("id", "address", "role", "connected", "match", box=None)
    for row in rows:
        table.add_row(str(row["id"]), row["address"],
                      row["role"] + (", to be promoted" if row["promoting"] else ""),
                      "yes" if row["connected"] else "no", str(row["match"]))
    Console().print(table)


@member.command()
@ID
@click.argument("address", metavar="HOST:PORT")
@click.option("--promote", is_flag=True,
              help="It is to vote, once it has caught up; waits for that.")
@shared
def add(node: int, address: str, health: str, timeout: float, *, promote: bool) -> None:
    """Take in node ID, which listens for its peers at HOST:PORT, as a learner.

    It is started with an empty directory and a configuration that names it with role 4; before or
    after this command.
    """
    change("add", health, timeout, id=node, address=address, promote=int(promote))
    if promote:
        wait_for_voter(node, health, timeout)


@member.command()
@ID
@shared
def promote(node: int, health: str, timeout: float) -> None:
    """Let learner ID vote, as soon as it has caught up; waits for that."""
    change("promote", health, timeout, id=node)
    wait_for_voter(node, health, timeout)


@member.command()
@ID
@shared
def remove(node: int, health: str, timeout: float) -> None:
    """Take node ID out of the cluster: it is told, and stops."""
    change("remove", health, timeout, id=node)
    click.echo(f"node {node} is removed")


@member.command()
@ID
@shared
def replace(node: int, health: str, timeout: float) -> None:
    """Let node ID, which lost its directory, come back with an empty one.

    Start it first, with a configuration that gives it role 4. Its old directory counts no more.
    """
    change("replace", health, timeout, id=node)
    wait_for_voter(node, health, timeout)


def change(what: str, health: str, timeout: float, **fields: object) -> None:
    """Asks whoever leads; again while a leader is elected or another change is under way."""
    until = time.monotonic() + timeout
    while True:
        try:
            url = leader(health, timeout)
            request = urllib.request.Request(f"{url}/admin/member/{what}?{urlencode(fields)}",
                                             method="POST")
            with opened(request, timeout) as answer:
                answer.read()
            return
        except errors.OutcomeUnknownError:
            raise
        except errors.UnavailableError:
            if time.monotonic() > until:
                raise
            time.sleep(AGAIN_S)


def members(health: str, timeout: float) -> list[dict[str, Any]]:
    """As the leader knows them."""
    with opened(f"{leader(health, timeout)}/admin/members", timeout) as answer:
        return list(json.load(answer))


def wait_for_voter(node: int, health: str, timeout: float) -> None:
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        try:
            role = next((row["role"] for row in members(health, timeout) if row["id"] == node), "")
        except errors.UnavailableError:
            role = "unknown"
        if role == "voter":
            click.echo(f"node {node} votes")
            return
        time.sleep(AGAIN_S)
    raise errors.UnavailableError(
        f"node {node} has not caught up within {timeout:g} s: it becomes a voter when it has; see "
        "`dengine member list`, and its log")
