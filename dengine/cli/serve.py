"""`dengine serve`: one node with its HTTP API, until SIGINT or SIGTERM.

Decides the configuration and that its ports are free. All else is `dengine.server`.
"""

import socket

import click

from dengine import config, logs
from dengine.errors import ConfigError


@click.command()
@click.option("--config-path", required=True, metavar="FILE", help=".toml may be left out.")
@click.option("--host", help="Where the HTTP and health ports bind.")
@click.option("--port", type=int, help="HTTP port.")
@click.option("--health-port", type=int, help="Port of health checks and metrics.")
@click.option("--listen-address", metavar="HOST:PORT", help="Where the Raft listener binds.")
@click.option("--db-root-dir", metavar="DIRECTORY", help="Where the data lies.")
@click.option("--log-level", envvar=logs.VARIABLE, metavar="|".join(logs.LEVELS),
              show_envvar=True)
def serve(config_path: str, host: str | None, port: int | None, health_port: int | None,
          listen_address: str | None, db_root_dir: str | None, log_level: str | None) -> None:
    """Run one node.

    Flags win over the environment (DENGINE__SECTION__KEY), which wins over FILE.
    """
    level = logs.setup(log_level)
    settings = config.load(config_path, {
        "http.host": host, "http.port": port, "http.health_port": health_port,
        "cluster.listen_address": listen_address, "cluster.db_root_dir": db_root_dir,
    })  # fmt: skip
    logs.setup(level, settings.cluster.node_id)
    require_free_ports(settings)
    from dengine import server

    click.get_current_context().exit(server.run(settings, level))


def require_free_ports(c: config.Config) -> None:
    """Names a taken port and what changes it, before anything is opened."""
    listeners = {"http.port": (c.http.host, c.http.port, "--port"),
                 "http.health_port": (c.http.host, c.http.health_port, "--health-port")}
    if c.cluster.peers:
        host, port = config.split_address(c.cluster.listen_address)
        listeners["cluster.listen_address"] = (host, port, "--listen-address")
    for key, (host, port, flag) in listeners.items():
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            with socket.socket(family, kind, protocol) as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(address)
                s.listen(1)
        except OSError as e:
            variable = config.ENVIRONMENT + key.upper().replace(".", "__")
            raise ConfigError(
                f"port {port} of {host} cannot be used: {e.strerror}; stop what uses it, or change "
                f"{key} of node {c.cluster.node_id}: in its file, by {flag} or ${variable}"
            ) from None
