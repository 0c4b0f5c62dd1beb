"""`dengine put|get|delete`: one request each, over HTTP. All decisions are the Client's."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from dengine.client import Client, Consistency

F = TypeVar("F", bound=Callable[..., Any])
ENDPOINTS = "http://127.0.0.1:8081,http://127.0.0.1:8082,http://127.0.0.1:8083"


def connection(command: F) -> F:
    """The options that say whom to ask."""
    endpoint = click.option(
        "--endpoint", envvar="DENGINE_ENDPOINT", default=ENDPOINTS, show_default=True,
        show_envvar=True, metavar="URL[,URL...]", help="The nodes; the next is asked if one fails.")
    timeout = click.option("--timeout", default=6.0, show_default=True, metavar="SECONDS",
                           type=click.FloatRange(0, min_open=True),
                           help="In all; above the nodes' own deadline of 5 s.")
    return endpoint(timeout(command))


if_match = click.option("--if-match", type=int, metavar="REVISION",
                        help="Only if the key was last changed at this revision.")


@click.command()
@click.argument("key")
@click.argument("value")
@if_match
@click.option("--if-none-match", is_flag=True, help="Only if there is no such key.")
@connection
def put(key: str, value: str, if_match: int | None, if_none_match: bool, endpoint: str,
        timeout: float) -> None:
    """Set KEY to VALUE (-: standard input) and print the revision."""
    data = sys.stdin.buffer.read() if value == "-" else _bytes(value)
    with Client(endpoint, timeout) as client:
        revision = client.put(_bytes(key), data, if_match=if_match, if_none_match=if_none_match)
    click.echo(revision)


@click.command()
@click.argument("key")
@click.option("--consistency", type=click.Choice(["linearizable", "lease", "eventual"]),
              help="Default: that of the node.")
@connection
def get(key: str, consistency: Consistency | None, endpoint: str, timeout: float) -> None:
    """Print the value of KEY: its bytes, and a line end on a terminal only."""
    with Client(endpoint, timeout) as client:
        value = client.get(_bytes(key), consistency)
    if value is None:
        _missing(key)
    click.echo(value, nl=sys.stdout.isatty())


@click.command()
@click.argument("key")
@if_match
@connection
def delete(key: str, if_match: int | None, endpoint: str, timeout: float) -> None:
    """Remove KEY."""
    with Client(endpoint, timeout) as client:
        if not client.delete(_bytes(key), if_match=if_match):
            _missing(key)


def _missing(key: str) -> None:
    click.echo(f"dengine: no such key: {key}", err=True)
    click.get_current_context().exit(1)


def _bytes(argument: str) -> bytes:
    return argument.encode("utf-8", "surrogateescape")
