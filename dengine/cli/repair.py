"""`dengine repair`: a node alone goes on with what is left of a damaged directory.

What is left, recovery decides, as in a cluster: what comes before the damage. Nobody else has the
rest, so here it says what that costs, and asks.
"""
import click

from dengine import config as configuration
from dengine import errors
from dengine._core import boot
from dengine.cli.check import line
from dengine.cli.progress import Bar
from dengine.examine import bytes_in, examine, holder
from dengine.findings import Severity
from dengine.judge import Examination
from dengine.storage import Directory, setup_of


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--yes", is_flag=True, help="Do not ask.")
def repair(directory: str, yes: bool) -> None:
    """Let a node alone go on with what is left of its damaged data directory DIR.

    It says first what would be lost, and asks. What does not count any more is kept beside, its
    name ends in .corrupt. The revision jumps by 1,000,000,000 at the next start. A node of a
    cluster needs no repair: the others have what it lost.
    """
    if running := holder(directory):
        raise errors.LockedError(f"{directory} is open in process {running}: nothing was changed; "
                                 "stop it first")
    with Bar("check", bytes_in(directory)) as bar:
        found = examine(directory, bar)
    for finding in found.ordered():
        if finding.severity:
            click.echo(line(finding))
    if found.verdict == Severity.UNREADABLE:
        raise errors.StorageError(f"{directory} cannot be read: nothing was changed; see above")
    if found.verdict < Severity.CORRUPT:
        click.echo(f"{directory} needs no repair: a start opens it")
        return
    if found.meta is None:
        raise errors.CorruptionError(
            f"{directory} holds no `meta` that can be read, so it cannot be said whose it is: "
            "nothing was changed; restore a backup into a new directory")
    opened = Directory(directory)
    try:
        setup = setup_of(configuration.single(directory), from_directory=True)
        setup.repair = True
        click.echo(cost(found, opened.left(setup)))
        if not yes:
            click.confirm("Go on without them?", abort=True)
        boot.close(opened.open_turn(setup))
    finally:
        opened.close()
    click.echo(f"{directory} is repaired: open it as ever; `dengine check {directory}` says what "
               "is there")


def cost(found: Examination, left: int) -> str:
    """In plain words: how much was here once, and how much is left."""
    assert found.meta is not None
    was = max(found.mark["index"], found.meta["known"], found.newest, left)
    if was == left:
        return f"All entries up to {left} are left, the node's vote is not."
    return (f"Entries up to {left} are left. Entries {left + 1} to {was} were on this disk and are "
            "lost, whatever was acknowledged of them, and any after them.")
