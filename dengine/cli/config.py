"""`dengine config check`: is this file right, as `dengine serve` would read it now?"""

import click

from dengine.config import load


@click.group()
def config() -> None:
    """Look at configurations."""


@config.command()
@click.argument("file", type=click.Path())
def check(file: str) -> None:
    """Say whether FILE and the environment are a good configuration, or what is wrong."""
    c = load(file)
    click.echo(
        f"{file}: ok: node {c.cluster.node_id} of {len(c.cluster.initial_cluster)}, "
        f"{c.raft.persistence.strategy}, {c.raft.read_consistency.default_policy}, "
        f"http://{c.http.host}:{c.http.port}, health port {c.http.health_port}, "
        f"Raft {c.cluster.listen_address}"
    )
