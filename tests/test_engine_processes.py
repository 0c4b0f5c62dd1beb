"""Engines in processes of their own: how their interpreters end, and kill -9 of a leader."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

import dengine
from tests.cluster import Cluster
from tests.processes import WAIT_S, child, finish

FORGOTTEN = """
import asyncio, sys
import dengine, uvloop
where, loop, strategy, ending = sys.argv[1:]

async def main():
    e = dengine.Engine.open(where, loop=loop, overrides={"raft.persistence.strategy": strategy})
    await e.start()
    await asyncio.gather(*[e.put(f"{i}", "v") for i in range(100)])
    under_way = [e.put(f"more {i}", "v") for i in range(100)]
    print("written", flush=True)
    match ending:
        case "exit": sys.exit(3)
        case "raise": raise ZeroDivisionError
        case "keep": globals()["kept"] = e, under_way

asyncio.run(main()) if ending != "uvloop" else uvloop.run(main())
"""


@pytest.mark.parametrize("loop", ["own", "current"])
@pytest.mark.parametrize("ending", ["return", "exit", "raise", "keep", "uvloop"])
def test_exit_without_close_neither_hangs_nor_crashes(tmp_path: Path, loop: str,
                                                      ending: str) -> None:
    code, out, err = finish(child(FORGOTTEN, tmp_path / "n", loop, "MemFirst", ending))
    assert out == "written\n"
    assert code == {"exit": 3, "raise": 1}.get(ending, 0), err
    assert ("ZeroDivisionError" in err) == (ending == "raise")
    assert "dengine/" not in err, err
    with dengine.open(tmp_path / "n") as store:
        assert not [i for i in range(100) if store.get(f"{i}") != b"v"]


MEMBER = """
import asyncio, json, sys
import dengine
from dengine import errors

async def main():
    async with dengine.Engine.open(sys.argv[1]) as e:
        await e.wait_leader()
        stop, i = asyncio.Event(), 0
        asyncio.get_running_loop().add_reader(0, stop.set)
        while not stop.is_set():
            key = f"{sys.argv[2]}/{i}"
            try:
                await e.put(key, "v", timeout=2)
                print(json.dumps([e.leader, key]), flush=True)
            except errors.UnavailableError as error:
                print(json.dumps([e.leader, None]), flush=True)
            i += 1

asyncio.run(main())
"""

CHECK = """
import asyncio, json, sys
import dengine

async def main():
    engines = [dengine.Engine.open(path) for path in sys.argv[1:]]
    await asyncio.gather(*[e.start() for e in engines])
    keys = json.load(sys.stdin)
    for e in engines:
        values = await asyncio.gather(*[e.get(key) for key in keys])
        print([key for key, value in zip(keys, values) if value != b"v"])
    await asyncio.gather(*[e.close() for e in engines])

asyncio.run(main())
"""


class Member:
    """A process with one engine that writes until its stdin ends and says what was acknowledged."""

    def __init__(self, config: Path, name: str) -> None:
        self.process = child(MEMBER, config, name, stdin=subprocess.PIPE)
        self.acknowledged: list[str] = []
        self.leader: int | None = None

    def step(self) -> bool:
        """Takes its next line; False: it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith(b"]\n"):
            return False
        self.leader, key = json.loads(line)
        self.acknowledged += [key] if key else []
        return True

    def write(self, count: int, not_under: int | None = None) -> None:
        """Until so many more writes are acknowledged, the last under another leader."""
        goal = len(self.acknowledged) + count
        while len(self.acknowledged) < goal or self.leader == not_under:
            assert self.step(), self.process.stderr and self.process.stderr.read().decode()

    def ask_to_end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self) -> int:
        """Takes all that it said; its exit status."""
        while self.step():
            pass
        return self.process.wait(WAIT_S)


def test_kill_9_of_the_leader(tmp_path: Path) -> None:
    """The others go on; what anybody was told is in every log, that of the dead one too."""
    nodes = Cluster(tmp_path).nodes
    members = {i: Member(node.config, str(i)) for i, node in nodes.items()}
    everyone = list(members.values())
    try:
        for member in everyone:
            member.write(100)
        killed = members[1].leader
        assert killed is not None
        members[killed].process.kill()
        assert members[killed].end() == -signal.SIGKILL
        for i in members.keys() - {killed}:
            members[i].write(50, not_under=killed)
        everyone.append(Member(nodes[killed].config, "again"))
        everyone[-1].write(20)
        running = [m for m in everyone if m is not members[killed]]
        for member in running:
            member.ask_to_end()
        assert [member.end() for member in running] == [0, 0, 0]
    finally:
        for member in everyone:
            with member.process:                # closes its pipes and waits
                member.process.kill()
    checker = child(CHECK, *[n.config for n in nodes.values()], stdin=subprocess.PIPE)
    keys = json.dumps([key for member in everyone for key in member.acknowledged])
    out, err = checker.communicate(keys.encode(), WAIT_S)
    assert out == b"[]\n" * 3, err.decode()
