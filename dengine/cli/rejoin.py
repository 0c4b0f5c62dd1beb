"""`dengine rejoin`: a node of a cluster that lost its vote gets a hard state again.

Whoever it voted for had saved that term before it asked for votes. So in the highest term that any
other voter has saved, or a later one, this node may say nothing twice: it goes on in that term, as
if it had voted for itself, and in doubt about its log.
"""
import json
import os

import click

from dengine import config as configuration
from dengine import errors
from dengine._core.restore import rejoin as make_meta
from dengine.cli.backup import opened, url_of
from dengine.cli.progress import Bar
from dengine.examine import bytes_in, examine, holder
from dengine.judge import Examination
from dengine.storage import Directory, Setup, setup_of

HEALTH_S = 5.0


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--config-path", required=True, metavar="FILE", help="Of this node.")
@click.option("--health", required=True, metavar="URL,URL",
              help="The health ports of all other nodes; each must answer.")
def rejoin(directory: str, config_path: str, health: str) -> None:
    """Give the node in DIR its hard state again, where `meta` is lost, damaged or too old.

    The node must be stopped, all others must run: they say which terms there were. Log and
    snapshots stay. It starts recovering: its vote helps nobody until it has caught up.
    """
    if running := holder(directory):
        raise errors.LockedError(f"{directory} is open in process {running}: nothing was changed; "
                                 "stop it first")
    setup = setup_of(configuration.load(config_path, {"cluster.db_root_dir": directory}))
    with Bar("check", bytes_in(directory)) as bar:
        found = examine(directory, bar)
    if found.meta is not None and found.term <= found.meta["term"]:
        click.echo(f"{directory} has its hard state: a start needs nothing else")
        return
    identify(directory, found, setup)
    said = [heard(url, setup) for url in health.split(",")]
    terms = {node: term for node, term, *_ in said}
    voters = set.union(*(voters for *_, voters in said)) - {setup.node}
    if not voters <= set(terms):
        raise errors.UnavailableError(
            f"nodes {sorted(terms)} answered, the other voters of this cluster are "
            f"{sorted(voters)}: nothing was changed; name the health ports of all of them")
    term = max([found.term, *terms.values()])
    lock = Directory(directory)
    try:
        make_meta(os.fsencode(lock.path), setup, term, max(start for _, _, start, _ in said))
    finally:
        lock.close()
    click.echo(f"node {setup.node} is in term {term} again; start it: it recovers what it may have "
               "forgotten from the leader")


def identify(directory: str, found: Examination, setup: Setup) -> None:
    """The log says whose it is; the setup takes over the ids of the directory."""
    if not found.incarnation:
        raise errors.CorruptionError(
            f"{directory} holds no log that says whose it is: nothing was changed; the cluster has "
            "to go on without this node")
    setup.incarnation = found.incarnation
    setup.cluster = found.cluster


def heard(url: str, setup: Setup) -> tuple[int, int, int, set[int]]:
    """A node, the newest term that it has saved, the newest start of this one it knows of, and who
    votes."""
    with opened(f"{url_of(url)}/admin/status", HEALTH_S) as answer:
        said = json.load(answer)
    if said.get("cluster_id") != f"{setup.cluster:016x}":
        raise errors.FormatError(f"{url} is of cluster {said.get('cluster_id')}, not of "
                                 f"{setup.cluster:016x}: nothing was changed; name the nodes of "
                                 "this cluster")
    if not said["formed"]:                      # with an empty directory: it forgot its terms
        raise errors.UnavailableError(
            f"node {said['node_id']} at {url} has no log, so it cannot say which terms there were: "
            "nothing was changed; put its directory back first")
    start = said["starts"].get(str(setup.node), 0)
    voters = {row["id"] for row in said["members"] if row["role"] != "learner"}
    return int(said["node_id"]), int(said["term"]), int(start), voters
