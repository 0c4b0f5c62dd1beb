"""What tests of whole cores share."""
from __future__ import annotations

import pytest

from tests.sim.cluster import Cluster

SECOND = 1_000_000


@pytest.fixture
def make():
    """Builds a cluster, started and settled; closes it after the test."""
    made = []

    def build(nodes=3, *, strategy=0, seed=1, settle=True, **options):
        cluster = Cluster(seed, nodes=nodes, strategy=strategy, **options)
        made.append(cluster)
        if settle:
            cluster.start()
            assert cluster.run_until(cluster.settled, 5 * SECOND)
        return cluster

    yield build
    for cluster in made:
        cluster.close()
