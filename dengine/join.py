"""Which cluster is an empty node to join? It asks the nodes that its file names.

The id of a cluster lies in each data directory, so it has to be known before this node's own one is
made. Whether the cluster takes the node in, its leader decides (`dengine member add`).
"""
from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from dengine._core.peer import answered, question
from dengine.schema import LEARNER, split_address
from dengine.storage import has_node

if TYPE_CHECKING:
    from dengine.config import Config

log = logging.getLogger("dengine.join")

ASK_S = 2.0  # of one node
AGAIN_S = 0.5  # until all are asked again


async def cluster_to_join(config: Config) -> int:
    """Its id, as soon as one of its nodes answers; 0: this node has a directory, or is to form one.
    """
    cluster = config.cluster
    if cluster.me.role != LEARNER or has_node(cluster.db_root_dir):
        return 0
    told = False
    while True:
        for member in cluster.peers:
            try:
                async with asyncio.timeout(ASK_S):
                    if found := await _ask(cluster.node_id, member.id, member.address):
                        return found
            except (OSError, TimeoutError, ValueError) as error:
                log.debug("node %d at %s does not say its cluster: %r", member.id, member.address,
                          error)
        if not told:
            log.warning("none of the nodes in cluster.initial_cluster answers: this one waits to "
                        "join their cluster")
            told = True
        await asyncio.sleep(AGAIN_S)


async def _ask(own: int, node: int, address: str) -> int:
    reader, writer = await asyncio.open_connection(*split_address(address))
    try:
        writer.write(question(own, node))
        data = b""
        while (found := answered(data)) is None:
            more = await reader.read(4096)
            if not more:
                return 0
            data += more
        return found
    finally:
        writer.close()
