"""Changes of the membership among the faults of a run: nodes go and come back with empty disks.

It decides what is asked of the cluster until a node is a voter again, and which nodes are away: a
node without its directory counts like one that may have forgotten. Whatever was begun is finished
when the faults have healed.
"""
from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

from tests.chaos.http import Connection
from tests.chaos.nodes import Node

ASK_S = 2.0             # an answer of an admin route
AGAIN_S = 0.1
RESTORE_S = 20.0        # until all are voters again, once the faults have healed
LEAVES_S = 1.0          # until a removed node has heard of it, and ended


class Members:
    def __init__(self, nodes: dict[int, Node], leads: Callable[[], Awaitable[int | None]]) -> None:
        self.nodes = nodes
        self.leads = leads                  # who says that it is primary
        self.away: set[int] = set()         # without its directory, and no voter again yet

    # ------------------------------------------------------------------------- what is asked
    async def ask(self, node: Node, method: str, path: str) -> tuple[int, object]:
        connection = Connection(node.host, node.health)
        try:
            answer = await connection.ask(method, path, within_s=ASK_S)
            return answer.status, json.loads(answer.body or b"null")
        except (OSError, TimeoutError, ValueError):
            return 0, None
        finally:
            connection.close()

    async def leader(self) -> Node | None:
        leader = await self.leads()
        return None if leader is None else self.nodes[leader]

    async def change(self, what: str, **fields: object) -> bool:
        """Asked once of whoever leads."""
        node = await self.leader()
        if node is None:
            return False
        status, _ = await self.ask(node, "POST", f"/admin/member/{what}?{urlencode(fields)}")
        return status == 200

    async def row(self, i: int) -> tuple[str, bool] | None:
        """Role and connection of node i as the leader knows them; "": it is no member; None: no
        leader says anything."""
        node = await self.leader()
        status, rows = (0, None) if node is None else await self.ask(node, "GET", "/admin/members")
        if status != 200 or not isinstance(rows, list):
            return None
        found = next((row for row in rows if row["id"] == i), None)
        return (found["role"], found["connected"]) if found else ("", False)

    async def formed(self, node: Node) -> bool:
        """Did it get its log from a leader? One may believe yet in a connection to who was there
        before."""
        _, state = await self.ask(node, "GET", "/health")
        return isinstance(state, dict) and state.get("formed") is True

    # ------------------------------------------------------------------------- the faults
    async def hand_over(self) -> bool:
        node = await self.leader()
        return node is not None and (await self.ask(node, "POST", "/admin/transfer"))[0] == 200

    async def replace(self, i: int, until_ns: int) -> bool:
        """Node i loses its directory, and comes back with an empty one; is it a voter again?"""
        self.empty(i)
        return await self.back(i, until_ns)

    async def move(self, i: int, until_ns: int) -> bool:
        """Node i is removed, and added again with an empty directory."""
        node = self.nodes[i]
        node.may_leave = True
        while not (gone := await self.row(i) == ("", False)) and time.monotonic_ns() < until_ns:
            if not await self.change("remove", id=i) and await self.leader() is node:
                await self.hand_over()
            await asyncio.sleep(AGAIN_S)
        if not gone:
            return False
        for _ in range(int(LEAVES_S / AGAIN_S)):
            if not node.runs:
                break
            await asyncio.sleep(AGAIN_S)
        self.empty(i)
        await self.back(i, until_ns)
        return True

    def empty(self, i: int) -> None:
        """It runs again, without a directory."""
        node = self.nodes[i]
        self.away.add(i)
        if node.process is not None:
            node.kill()
        node.wipe()
        node.start()
        node.note("wait")                   # it answers nobody before it is taken in

    async def back(self, i: int, until_ns: int) -> bool:
        node = self.nodes[i]
        while time.monotonic_ns() < until_ns:
            now = await self.row(i)
            if now == ("voter", True) and await self.formed(node):
                if i in self.away:
                    self.away.discard(i)
                    node.note("go")
                node.may_leave = False
                return True
            if now is not None and now[0] == "":
                if i not in self.away or not node.runs:
                    self.empty(i)               # it was told to go, or will be
                await self.change("add", id=i, address=f"{node.host}:{node.raft}", promote=1)
            elif now is not None and now[0] == "voter" and i in self.away:
                await self.change("replace", id=i)
            elif now == ("learner", True):
                await self.change("promote", id=i)
            await asyncio.sleep(AGAIN_S)
        return False

    async def restore(self) -> list[int]:
        """All are voters again, whatever a change that was begun still does; who is not."""
        until_ns = time.monotonic_ns() + int(RESTORE_S * 1e9)
        changed = [i for i, node in self.nodes.items() if i in self.away or node.may_leave]
        return [i for i in changed if not await self.back(i, until_ns)]
