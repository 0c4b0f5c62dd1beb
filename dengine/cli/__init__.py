"""The root of the command line: its commands, and what an error becomes on the way out.

Knows nothing of what a command does.
"""

from importlib import metadata

import click

from dengine import errors
from dengine.cli.backup import backup, restore, snapshot
from dengine.cli.check import check
from dengine.cli.cluster import cluster
from dengine.cli.config import config
from dengine.cli.kv import delete, get, put
from dengine.cli.log import log
from dengine.cli.member import member
from dengine.cli.recover import recover
from dengine.cli.rejoin import rejoin
from dengine.cli.repair import repair
from dengine.cli.serve import serve
from dengine.cli.status import status
from dengine.cli.transfer import transfer

# The first that fits. All other errors of dengine: 1.
EXIT: tuple[tuple[type[errors.Error], int], ...] = (
    (errors.ConfigError, 2),
    (errors.OutcomeUnknownError, 4),
    (errors.UnavailableError, 3),
)


class Root(click.Group):
    """Turns an error of dengine into one message and an exit status."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except errors.Error as e:
            click.echo(f"dengine: {e}", err=True)
            ctx.exit(next((code for kind, code in EXIT if isinstance(e, kind)), 1))


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
def root() -> None:
    """A strongly consistent key-value store: nodes, clients and their state.

    \b
    Exit status:
      0  done
      1  no such key, or refused: nothing was changed
      2  wrong usage or configuration
      3  not proposed or unavailable: nothing was changed, safe to repeat
      4  outcome unknown: a write may or may not be applied
    """


@root.command()
def version() -> None:
    """Print the version."""
    try:
        click.echo(f"dengine {metadata.version('dengine')}")
    except metadata.PackageNotFoundError:
        click.echo("dengine, from a checkout that is not installed")


for command in (serve, cluster, put, get, delete, status, config, check, repair, recover, rejoin,
                log, snapshot, backup, restore, transfer, member, version):
    root.add_command(command)
