"""`dengine recover`: a cluster whose majority is lost for good goes on from what one node holds.

That may be less than was acknowledged, and more. So it says what there is first, it makes a new
cluster in a new directory, and the old directory stays as it is.
"""
import click

from dengine import config as configuration
from dengine import errors
from dengine.cli.backup import is_empty
from dengine.cli.progress import Bar
from dengine.examine import bytes_in, examine, holder
from dengine.storage import Directory, Setup, setup_of


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.argument("new", metavar="[NEW]", type=click.Path(), required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
def recover(directory: str, new: str | None, yes: bool) -> None:
    """Make a new cluster, of one node, in NEW from all that the node in DIR holds.

    Only where a majority of the voters is lost for good; of the nodes that are left take the one
    with the highest term and, of those, the last entry. Without NEW it says what DIR holds and what
    that would mean, and changes nothing. DIR is never changed. The new cluster has another id; its
    revision goes on 1,000,000,000 further; other nodes join it with empty directories.
    """
    if running := holder(directory):
        raise errors.LockedError(f"{directory} is open in process {running}: nothing was changed; "
                                 "stop it first")
    if new is not None and not is_empty(new):
        raise errors.StorageError(f"{new} is not empty: nothing was changed; name a new directory")
    setup = setup_to_read(directory)
    old = Directory(directory)
    try:
        holds = old.holds(setup)
        for note in holds["notes"]:
            click.echo(note)
        click.echo(meaning(holds))
        if new is None:
            click.echo("Nothing was changed; name a new directory to go on.")
            return
        if not yes:
            click.confirm("Are the other nodes lost for good?", abort=True)
        fresh = setup_of(configuration.single(new), from_directory=True)
        fresh.node = setup.node
        to = Directory(new)
        try:
            with Bar("recover", holds["last"]) as bar:
                said = old.recover(setup, to, fresh, bar)
        finally:
            to.close()
    finally:
        old.close()
    click.echo(f"{new}: {said['keys']} keys, revision {said['revision']}, node {setup.node} of "
               f"cluster {said['cluster']:016x}")


def setup_to_read(directory: str) -> Setup:
    """Whoever's the directory is: it is read as far as it is good."""
    with Bar("check", bytes_in(directory)) as bar:
        found = examine(directory, bar)
    if found.meta is None:
        raise errors.CorruptionError(
            f"{directory} holds no `meta` that can be read, so it cannot be said whose it is: "
            "nothing was changed; take another node, or a backup")
    setup = setup_of(configuration.single(directory))
    setup.node, setup.cluster, setup.cluster_named = found.meta["node"], found.cluster, False
    setup.repair = True
    return setup


def meaning(holds: dict[str, object]) -> str:
    """In plain words: what there is, what may be lost, what may come back."""
    voters = ", ".join(map(str, holds["voters"])) or "none"         # type: ignore[call-overload]
    last, commit = holds["last"], holds["commit"]
    lines = [
        f"Node {holds['node']} of cluster {holds['cluster']:016x}, whose voters are {voters}.",
        f"It holds entries up to {last}, of term {holds['term']}; up to {commit} it knows them to "
        "be committed.",
        f"What the others acknowledged after entry {last} is lost."]
    if last != commit:
        lines.append(f"Entries {int(str(commit)) + 1} to {last} may never have been acknowledged: "
                     "they are kept.")
    return "\n".join(lines)
