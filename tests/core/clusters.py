"""What tests of simulated clusters ask of them."""
from __future__ import annotations

SECOND = 1_000_000


def done(cluster, *clients, within_us=10 * SECOND):
    """Runs until these are answered; their statuses."""
    assert cluster.run_until(lambda: all(c.status >= 0 for c in clients), within_us), clients
    return [c.status for c in clients]


def followers(cluster):
    leader = cluster.leader()
    return [i for i in range(len(cluster.nodes)) if i != leader]
