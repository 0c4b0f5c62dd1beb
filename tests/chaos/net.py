"""The network of a run: each node in a namespace of its own, all veths in a bridge in ours.

It decides addresses and packet rules. It runs in a network namespace made for the runner alone
(see __main__), so nothing of it exists outside, and all of it ends with the processes that hold the
namespaces: a keeper per node, which the kernel kills when the runner ends, however it ends. Rules
act on what one node hears from another; clients and checks at the bridge are never cut off.
"""

import re
import subprocess
from collections.abc import Iterable

HOLD_S = 7200               # a keeper ends by itself after this
COMMAND_S = 20.0
HOST = 254                  # our last byte of an address


def sh(*command: str, given: str | None = None) -> str:
    """Runs a command to its end; a failure names what it said, or that it took too long."""
    try:
        done = subprocess.run(command, input=given, text=True, capture_output=True,
                              timeout=COMMAND_S)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{' '.join(command)}: not within {COMMAND_S:g} s") from None
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


class Network:
    """A bridge and `nodes` namespaces at it. Node i has the address 10.x.y.i."""

    def __init__(self, run: int, nodes: int) -> None:
        self.prefix = f"10.{run // 250 % 250 + 1}.{run % 250 + 1}"
        self.bridge = f"br{run % 1_000_000}"
        self.veth = f"v{run % 1_000_000}-"      # the kernel takes its time to remove the last ones
        self.keepers: dict[int, subprocess.Popen[bytes]] = {}
        self.rules: dict[int, tuple[frozenset[tuple[int, int]], str]] = {}
        try:
            self.open(nodes)
        except BaseException:
            self.close()
            raise

    def open(self, nodes: int) -> None:
        sh("ip", "link", "set", "lo", "up")
        sh("ip", "link", "add", self.bridge, "type", "bridge")
        sh("ip", "addr", "add", f"{self.prefix}.{HOST}/24", "dev", self.bridge)
        sh("ip", "link", "set", self.bridge, "up")
        for i in range(1, nodes + 1):
            self.join(i)

    def address(self, i: int) -> str:
        return f"{self.prefix}.{i}"

    def join(self, i: int) -> None:
        """A namespace for node i, held by a process that does nothing."""
        keeper = self.keepers[i] = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--propagation",
             "private", "sh", "-c", f"echo held; exec sleep {HOLD_S}"],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, process_group=0)
        assert keeper.stdout is not None
        if keeper.stdout.readline() != b"held\n":
            raise OSError(f"no namespaces for node {i}")
        sh("ip", "link", "add", f"{self.veth}{i}", "type", "veth",
           "peer", "name", "eth0", "netns", str(keeper.pid))
        sh("ip", "link", "set", f"{self.veth}{i}", "master", self.bridge, "up")
        self.inside(i, "ip", "addr", "add", f"{self.address(i)}/24", "dev", "eth0")
        self.inside(i, "ip", "link", "set", "eth0", "up")
        self.inside(i, "ip", "link", "set", "lo", "up")

    def enter(self, i: int) -> list[str]:
        """What to put before a command that shall run in node i's namespaces."""
        return ["nsenter", "-t", str(self.keepers[i].pid), "--net", "--mount"]

    def inside(self, i: int, *command: str, given: str | None = None) -> str:
        return sh(*self.enter(i), *command, given=given)

    # ------------------------------------------------------------------------------ faults
    def begin(self, number: int, links: Iterable[tuple[int, int]], action: str) -> None:
        """Fault `number`: what these links (from, to) carry meets `action` of nftables."""
        self.rules[number] = frozenset(links), action
        self.render(to for _, to in links)

    def end(self, number: int) -> int:
        """Takes the fault back; returns how many packets met it."""
        links, _ = self.rules.pop(number)
        receivers = {to for _, to in links}
        met = 0
        for i in receivers:
            said = self.inside(i, "nft", "list", "counter", "ip", "chaos", f"f{number}")
            met += sum(map(int, re.findall(r"packets (\d+)", said)))
        self.render(receivers)
        return met

    def render(self, receivers: Iterable[int]) -> None:
        """Replaces the rules of these nodes, each in one transaction. All faults count first:
        what one of them drops, another may have dropped too."""
        for i in set(receivers):
            counters, counts, acts = [], [], []
            for number, (links, action) in self.rules.items():
                sources = ", ".join(sorted(self.address(a) for a, to in links if to == i))
                if sources:
                    counters.append(f"counter f{number} {{ }}")
                    counts.append(f"ip saddr {{ {sources} }} counter name f{number}")
                    acts.append(f"ip saddr {{ {sources} }} {action}")
            chain = "chain in { type filter hook input priority 0; policy accept; }"
            body = "\n".join([*counters, chain])
            rules = "\n".join(f"add rule ip chaos in {r}" for r in [*counts, *acts])
            self.inside(i, "nft", "-f", "-", given=(
                f"table ip chaos {{\n{body}\n}}\nflush chain ip chaos in\n{rules}\n"))

    def close(self) -> None:
        for link in [self.bridge, *(f"{self.veth}{i}" for i in self.keepers)]:
            subprocess.run(["ip", "link", "del", link], capture_output=True, timeout=COMMAND_S)
        for keeper in self.keepers.values():
            keeper.kill()
        for keeper in self.keepers.values():
            keeper.wait(COMMAND_S)
            if keeper.stdout:
                keeper.stdout.close()
        self.keepers.clear()
