"""What tests of simulated clusters ask of them."""
from __future__ import annotations

from tests.sim import history

SECOND = 1_000_000


def done(cluster, *clients, within_us=10 * SECOND):
    """Runs until these are answered; their statuses."""
    assert cluster.run_until(lambda: all(c.status >= 0 for c in clients), within_us), clients
    return [c.status for c in clients]


def agreed(cluster):
    """All nodes have one state and the same results, and they are what a plain replay of the log
    says."""
    assert cluster.run_until(cluster.settled, 10 * SECOND)
    replay = history.check(cluster.commands(), cluster.clients, cluster.configs())
    assert all(cluster.items(i) == replay.state and cluster.same_results(i, 0)
               for i in range(len(cluster.nodes)))
    return replay


def followers(cluster):
    leader = cluster.leader()
    return [i for i in range(len(cluster.nodes)) if i != leader]
