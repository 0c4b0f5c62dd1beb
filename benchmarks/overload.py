"""Five times as many clients as a cluster serves best: what is still acknowledged, and to whom.

Closed loops of puts through the leader of three nodes, in rounds of four crowds, one after the
other: as many connections as it serves best; five times as many, which wait in its queue; five
times as many at a limit of so many writes, which are refused (503 `overloaded`) and either obey
Retry-After or ask again at once. The last is the worst that clients can do: they and the refusals
take processor time from the writes. Fair is Jain's index over the writes of each connection: 1 if
all have as many, 1/n if one has all.
"""
from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import uniform
from statistics import median
from typing import Any

import uvloop

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from benchmarks.client import HOST, Connection, Load, Loop
from benchmarks.common import arguments, console, machine, report, scratch, table
from benchmarks.idle import resident_mib
from tests.cluster import Cluster, request

TIMES = 5
GRACE_S = 30.0


class Client(Connection):
    """Counts what it was told; `polite`: a refusal is not repeated before Retry-After."""

    def __init__(self, loop: Loop, *, polite: bool) -> None:
        super().__init__(loop)
        self.polite = polite
        self.good = 0
        self.refused = 0
        self.other = 0

    def answered(self, data: bytes) -> None:
        status = data[9:12]
        if status == b"200":
            self.good += 1
        elif status == b"503" and b'"overloaded"' in data:
            self.refused += 1
            if self.polite and not self.loop.stopped:
                self.began = 0
                after = int(data.lower().split(b"retry-after:")[1].split(b"\r")[0])
                asyncio.get_running_loop().call_later(after * uniform(0.5, 1.5), self.send)
                return
        else:
            self.other += 1
        super().answered(data)


@dataclass(frozen=True)
class Crowd:
    """What many connections were told."""

    acknowledged: float             # a second
    refused: float
    other: int
    fair: float
    least: float                    # the writes of the worst served, as a part of the average


async def crowd(port: int, clients: int, seconds: float, *, polite: bool) -> Crowd:
    running = asyncio.get_running_loop()
    loop = Loop(cycle(Load("put", clients, seconds).requests()), clients)
    members: list[Client] = []

    def member() -> Client:
        members.append(Client(loop, polite=polite))
        return members[-1]

    for _ in range(clients):
        await running.create_connection(member, HOST, port)
    began = time.perf_counter()
    for one in members:
        one.good = one.refused = one.other = 0      # all are there from now on
    await asyncio.sleep(seconds)
    spent = time.perf_counter() - began
    good = [one.good for one in members]
    figure = Crowd(sum(good) / spent, sum(one.refused for one in members) / spent,
                   sum(one.other for one in members), sum(good) ** 2 / (clients * sum(
                       n * n for n in good) or 1), min(good) * clients / (sum(good) or 1))
    loop.stopped = True
    await asyncio.wait_for(loop.closed, seconds + GRACE_S)
    return figure


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--best", type=int, default=192, metavar="CONNECTIONS")
    parser.add_argument("--strategy", choices=["MemFirst", "DiskFirst"], default="MemFirst")
    options = parser.parse_args()
    many = TIMES * options.best
    rows: dict[str, list[Crowd]] = {}
    figures: list[dict[str, Any]] = []
    with (
        scratch(options) as directory,
        Cluster(directory / "open", 3, options.strategy) as open_cluster,
        Cluster(directory / "limited", 3, options.strategy,
                settings={"limits.waiting_writes": options.best}) as limited,
    ):
        tries = {
            f"{options.best} connections": (open_cluster, options.best, True),
            f"{many}, all wait": (open_cluster, many, True),
            f"{many}, refused ones wait": (limited, many, True),
            f"{many}, refused ones insist": (limited, many, False),
        }
        leaders = {c: c.wait_leader() for c in (open_cluster, limited)}
        terms = {c: term_of(c) for c in leaders}
        memory = {c: resident(c, leaders[c]) for c in leaders}
        for number in range(options.rounds):
            for name, (cluster, clients, polite) in tries.items():
                with console.status(f"round {number + 1} of {options.rounds}: {name}"):
                    port = cluster.nodes[leaders[cluster]].http
                    rows.setdefault(name, []).append(uvloop.run(
                        crowd(port, clients, options.seconds, polite=polite)))
        changes = {c: term_of(c) - terms[c] for c in leaders}
        more = {c: resident(c, leaders[c]) - memory[c] for c in leaders}
    best = median(c.acknowledged for c in rows[f"{options.best} connections"])
    shown = table(f"three nodes, {options.strategy}: puts through the leader", "connections",
                  "-writes/s", "-of best", "-refused/s", "-other", "-fair", "-least", "-elections",
                  "-memory")
    for name, found in rows.items():
        cluster = tries[name][0]
        row = {
            "acknowledged": median(c.acknowledged for c in found),
            "of_best": median(c.acknowledged for c in found) / best,
            "refused": median(c.refused for c in found), "other": sum(c.other for c in found),
            "fair": median(c.fair for c in found), "least": median(c.least for c in found),
            "leader_changes": changes[cluster], "more_mib": more[cluster],
        }
        figures.append({"crowd": name, **row})
        shown.add_row(name, f"{row['acknowledged']:,.0f}", f"{row['of_best']:.2f}",
                      f"{row['refused']:,.0f}", str(row["other"]), f"{row['fair']:.3f}",
                      f"{row['least']:.2f}", str(row["leader_changes"]),
                      f"+{row['more_mib']:.0f} MiB")
    console.print(shown, machine(), sep="\n")
    report(options, figures)


def term_of(cluster: Cluster) -> int:
    states = [request(node.health, "GET", "/health") for node in cluster.nodes.values()]
    return max(json.loads(state.body)["term"] for state in states)


def resident(cluster: Cluster, node: int) -> float:
    process = cluster.nodes[node].process
    assert process is not None
    return resident_mib(process.pid)


if __name__ == "__main__":
    main()
