"""Nodes of a run: real `dengine serve` processes, how they are started, stopped, cut and watched.

It decides where a node lives (a namespace and a disk of its own, or plain loopback without root)
and keeps a journal of what was done to its process, by which the run is judged later. It knows a
node only by its configuration, its process and its ports.
"""

import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.chaos.disk import Disk, freeze, stopped
from tests.chaos.net import Network, sh
from tests.chaos.plan import Plan
from tests.cluster import ROOT, free_ports, shipped_with

HTTP, HEALTH, RAFT = 8081, 10001, 9081      # in every namespace
BOOT_ID = "/proc/sys/kernel/random/boot_id"
BOOT_OFFSET_S = 10_000_000                  # most that a kernel of ours says it is up
END_S = 15.0                                # SIGTERM to exit: HTTP drain, flush
KILL_S = 5.0
LOG_LINES = 15


@dataclass
class Node:
    """Node `id` at `host`. `journal` holds (monotonic ns, "start" | "wait" | "pause" | "go" |
    "stop" | "wipe")."""

    id: int
    host: str
    http: int
    health: int
    raft: int
    directory: Path
    network: Network | None = None
    disk: Disk | None = None
    wall_library: Path | None = None
    process: "subprocess.Popen[bytes] | None" = None
    paused: bool = False
    boots: int = 0
    boot_offset_s: int = 0
    tree: Path = ROOT               # whose dengine it runs
    environment: dict[str, str] = field(default_factory=dict)
    joining: str = ""               # its configuration for a start without a directory
    may_leave: bool = False         # it was asked to leave the cluster: it may end by itself
    busy: bool = False              # its membership is being changed: no other fault strikes it
    journal: list[tuple[int, str]] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def up(self) -> bool:
        return self.process is not None and not self.paused

    @property
    def runs(self) -> bool:
        return self.process is not None and self.ended() is None

    @property
    def was_paused(self) -> bool:
        """Since its process started."""
        events = [what for _, what in self.journal]
        return "pause" in events[len(events) - events[::-1].index("start"):]

    def life(self, begin_ns: int, end_ns: int) -> int:
        """Which of its processes ran all this time, from 1; 0: none certainly did."""
        number = since = 0
        for ns, what in [*self.journal, (end_ns, "stop")]:
            if what == "start":
                number, since = number + 1, ns
            elif what == "stop" and since <= begin_ns and end_ns <= ns and since:
                return number
            elif what == "stop":
                since = 0
        return 0

    def was_emptied(self, begin_ns: int, end_ns: int) -> bool:
        """Did it lose its directory, and what it knew, between the two?"""
        return any(what == "wipe" and begin_ns < ns < end_ns for ns, what in self.journal)

    def note(self, what: str) -> None:
        self.journal.append((time.monotonic_ns(), what))

    # ---------------------------------------------------------------------------- processes
    def start(self, **more: str) -> None:
        """A new process; `more` goes into its environment."""
        assert self.process is None, f"node {self.id} runs already"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DENGINE__")}
        environment |= {"PYTHONPATH": str(self.tree), **self.environment, **more}
        if self.wall_library:
            environment |= {"LD_PRELOAD": str(self.wall_library),
                            "CHAOS_WALL": str(self.directory / "wall")}
        command = [sys.executable, "-m", "dengine", "serve", "--config-path",
                   str(self.directory / "node.toml")]
        if self.network:
            command = ["setpriv", "--pdeathsig", "KILL", *self.network.enter(self.id),
                       "unshare", "--time", "--boottime", str(self.boot_offset_s), *command]
        with self.log.open("ab") as log:
            log.write(f"---- start {len(self.journal)}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                command, cwd=self.directory, env=environment, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, process_group=0)
        self.note("start")

    def ended(self) -> int | None:
        """The exit status of a process that ended by itself."""
        return None if self.process is None else self.process.poll()

    def pause(self) -> None:
        assert self.process is not None
        self.note("pause")
        self.paused = True
        freeze(self.process.pid)

    def go_on(self) -> bool:
        """Ends a pause; returns whether all threads had been stopped until now."""
        assert self.process is not None
        held = stopped(self.process.pid)
        self.process.send_signal(signal.SIGCONT)
        self.paused = False
        self.note("go")
        return held

    def kill(self) -> bool:
        """kill -9; returns whether that is what it died of."""
        assert self.process is not None
        self.note("stop")
        self.process.kill()
        status = self.process.wait(KILL_S)
        self.process, self.paused = None, False
        return status == -signal.SIGKILL

    def stop(self) -> int:
        """SIGTERM; returns the exit status, -9 where it did not obey in time."""
        assert self.process is not None
        self.note("stop")
        self.process.terminate()
        try:
            return self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(KILL_S)
        finally:
            self.process = None

    # --------------------------------------------------------------------------------- power
    def lose_power(self) -> bool:
        """Freezes all threads, drops what is not synced, kills; returns whether it was so."""
        assert self.process is not None
        assert self.disk is not None
        if not self.paused:
            self.pause()
        cut = self.disk.shut_down()
        return self.kill() and cut

    def regain_power(self, rng: Random) -> None:
        """The disk is there again, under a kernel with another boot id and another uptime."""
        assert self.disk is not None
        self.disk.come_back()
        self.new_kernel(rng)

    def new_kernel(self, rng: Random) -> None:
        self.boots += 1
        boot_id = uuid.UUID(int=rng.getrandbits(128), version=4)
        (self.directory / "boot_id").write_text(f"{boot_id}\n")
        self.boot_offset_s = rng.randrange(BOOT_OFFSET_S)

    def wipe(self) -> None:
        """The directory of a node that does not run is lost; it may join the cluster again."""
        assert self.network is not None
        self.network.inside(self.id, "rm", "-rf", str(self.directory / "disk/db"))
        (self.directory / "node.toml").write_text(self.joining)
        self.note("wipe")

    def shift_wall(self, shift_us: int) -> None:
        with (self.directory / "wall").open("r+b") as file:
            file.write(struct.pack("q", shift_us))

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(f"    {line}" for line in lines[-LOG_LINES:])


def build(plan: Plan, root: Path, network: Network | None) -> dict[int, Node]:
    """The nodes of a plan under `root`, with their disks, not started."""
    rng = Random(f"nodes {plan.seed}")
    library = wall_library(root) if network else None
    ports = free_ports(3 * plan.nodes) if network is None else []
    nodes: dict[int, Node] = {}
    for i in range(1, plan.nodes + 1):
        directory = root / f"n{i}"
        directory.mkdir(parents=True)
        if network is None:
            nodes[i] = Node(i, "127.0.0.1", *ports[3 * i - 3:3 * i], directory)
            continue
        node = nodes[i] = Node(i, network.address(i), HTTP, HEALTH, RAFT, directory, network,
                               wall_library=library)
        node.disk = Disk(network, i, root / f"n{i}.img", directory / "disk")
        (directory / "wall").write_bytes(bytes(8))
        node.new_kernel(rng)
        network.inside(i, "mount", "--bind", str(directory / "boot_id"), BOOT_ID)
    members = [{"id": n.id, "address": f"{n.host}:{n.raft}", "role": 1, "status": 3}
               for n in nodes.values()]
    for node in nodes.values():
        own: dict[str, object] = {
            "cluster.name": f"chaos-{plan.seed}",
            "cluster.node_id": node.id,
            "cluster.listen_address": f"{node.host}:{node.raft}",
            "cluster.initial_cluster": members,
            "cluster.db_root_dir": str(node.directory / ("disk/db" if node.disk else "db")),
            "http.host": node.host,
            "http.port": node.http,
            "http.health_port": node.health,
        }
        if plan.strategy != "MemFirst":
            own["raft.persistence"] = {"strategy": plan.strategy}
        (node.directory / "node.toml").write_text(shipped_with(own | plan.settings))
        own["cluster.initial_cluster"] = [m | {"role": 4} if m["id"] == node.id else m
                                          for m in members]
        node.joining = shipped_with(own | plan.settings)
    return nodes


def wall_library(root: Path) -> Path | None:
    """The library that shifts a node's wall clock; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    target = root / "wall.so"
    sh(compiler, "-shared", "-fPIC", "-O1", "-o", str(target),
       str(Path(__file__).with_name("wall.c")))
    return target
