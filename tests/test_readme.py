"""Every command block of README.md, in its order, on real processes; and the output it shows.
Also the examples in docs/, and that what the pages name is there.

The blocks are run as they stand, in a folder with a copy of `config/`, but for two things:
- the ports are replaced by free ones, in the blocks and in the copy; in what is printed they are
  put back, so the output is compared with what the README shows, character by character. Which
  node leads is not foreseeable: where lines name nodes, any of the three may be meant.
- what installs is not done again. `make start-cluster` is run as the Makefile would run it, by
  this interpreter; of `make test` only the plan is looked at; `pip install .` and the activation
  of `.venv` are taken as done, with a `dengine` on the PATH that starts this interpreter.

A block that only reads is repeated until it prints what is shown, as a person would do it.
Blocks build on those before them: run this file as a whole.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cluster import ROOT, eventually, free_ports, request

README = ROOT / "README.md"
PORTS = (8081, 8082, 8083, 9081, 9082, 9083, 10001, 10002, 10003, 8080, 8090)
INSTALLED = ("pip install .", ". .venv/bin/activate")
SERVERS = {"make start-cluster": "python", "make start-nginx": "nginx", "haproxy -f": "haproxy"}
SBIN = "/usr/sbin:/usr/local/sbin"
WAIT_S = 20.0
STOP_S = 15.0
CHANGES = re.compile(r"-X |dengine (put|delete)|kill |install|make ")


class Block(NamedTuple):
    name: str       # heading and line, what pytest shows
    heading: str
    language: str
    text: str
    shown: str      # its output, "" if the README shows none


def blocks(text: str) -> list[Block]:
    """Fenced blocks of commands; a `text` block is the output of the one before it."""
    found: list[Block] = []
    heading, fence, lines, start = "", "", [], 0
    for number, line in enumerate(text.splitlines(), 1):
        if fence and line == "```":
            body = "\n".join(lines)
            if fence == "text":
                found[-1] = found[-1]._replace(shown=body)
            else:
                found.append(Block(f"{heading}:{start}", heading, fence, body, ""))
            fence = ""
        elif fence:
            lines.append(line)
        elif line.startswith("```"):
            fence, lines, start = line[3:], [], number
        elif line.startswith("#"):
            heading = line.strip("# ")
    assert not fence, f"a block that does not end: line {start}"
    return found


BLOCKS = blocks(README.read_text())
EMBEDDING = blocks((ROOT / "docs" / "embedding.md").read_text())
HYPOTHETICAL = {"encode_append"}        # what docs/architecture.md invents as an example


class Reader:
    """Does what the README says, in `folder`. What it starts, it ends, by process id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.servers: list[subprocess.Popen[bytes]] = []
        shutil.copytree(ROOT / "config", folder / "config")
        for file in (folder / "config").iterdir():
            file.write_text(self.swapped(file.read_text()))
        commands = folder / "bin"
        commands.mkdir()
        (commands / "dengine").write_text(f'#!/bin/sh\nexec {sys.executable} -m dengine "$@"\n')
        (commands / "dengine").chmod(0o755)
        urls = [f"http://127.0.0.1:{self.port[p]}" for p in PORTS]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DENGINE", "MAKE"))}
        self.environment = kept | {
            "PATH": f"{commands}:{os.environ['PATH']}:{SBIN}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "120",               # of the terminal, for the table
            "DENGINE_ENDPOINT": ",".join(urls[:3]),
            "DENGINE_HEALTH": ",".join(urls[6:9]),
        }

    def swapped(self, text: str, *, back: bool = False) -> str:
        """With free ports for the shipped ones; or back."""
        table = {str(new if back else old): str(old if back else new)
                 for old, new in self.port.items()}
        return re.sub(r"\b(" + "|".join(table) + r")\b", lambda m: table[m[0]], text)

    def run(self, *command: str, text: str = "") -> str:
        """What it prints. It must end well, and complain of nothing."""
        done = subprocess.run(command, cwd=self.folder, env=self.environment, text=True,
                              input=text, capture_output=True, timeout=WAIT_S)
        assert (done.returncode, done.stderr) == (0, ""), done
        return self.swapped(done.stdout, back=True).rstrip("\n")

    def do(self, block: Block) -> str:
        text = self.swapped(block.text)
        if block.language == "python":
            return self.run(sys.executable, "-W", "error", "-", text=text)
        assert block.language == "sh", f"a {block.language} block: nobody runs it"
        if block.text in INSTALLED:
            return ""
        if block.text == "make test":
            assert "-m pytest" in self.planned("test")[-1]
            return ""
        if server := next((s for s in SERVERS if block.text.startswith(s)), ""):
            self.serve(server, text)
            return ""
        return self.run("sh", "-e", text=text)

    def planned(self, target: str) -> list[str]:
        """The commands of the Makefile for this target."""
        plan = self.run("make", "--no-print-directory", "-C", str(ROOT), "--dry-run", target)
        return self.swapped(plan).replace("\\\n", " ").splitlines()

    def serve(self, server: str, text: str) -> None:
        """A command that a person leaves running in a terminal of its own."""
        command, front = shlex.split(text), {"nginx": 8080, "haproxy": 8090}.get(SERVERS[server])
        if server == "make start-cluster":
            command = shlex.split(self.planned("start-cluster")[-1])
            assert command[:2] == ["exec", ".venv/bin/python"]
            command = [sys.executable, *command[2:]]
        elif command[0] == "make":
            command[1:1] = ["-f", str(ROOT / "Makefile")]
        with (self.folder / f"{SERVERS[server]}.log").open("wb") as log:
            self.servers.append(subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True))
        for port in [front] if front else (10001, 10002, 10003):
            eventually(f"{server} answers on {port}",
                       lambda port=port: request(self.port[port], "GET", "/x").status, WAIT_S)

    def end(self) -> None:
        """SIGTERM to all; what does not obey is killed, the nodes of a cluster too."""
        for server in self.servers:
            os.killpg(server.pid, signal.SIGTERM)       # a group of our own
        try:
            for server in self.servers:
                server.wait(STOP_S)
        finally:
            if running := [server for server in self.servers if server.poll() is None]:
                for group in [server.pid for server in running] + self.nodes():
                    with suppress(ProcessLookupError):
                        os.killpg(group, signal.SIGKILL)
                for server in running:
                    server.wait()

    def nodes(self) -> list[int]:
        """The nodes that run here; one that was killed may have left its id to a stranger."""
        found = [int(lock.read_text()) for lock in self.folder.glob("db/*/lock")]
        return [pid for pid in found if Path(f"/proc/{pid}").exists()
                and Path(f"/proc/{pid}/cwd").readlink() == self.folder]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    reader = Reader(tmp_path_factory.mktemp("readme"))
    try:
        yield reader
    finally:
        reader.end()


def shape(text: str) -> list[str]:
    """What does not depend on which node leads, nor on how many entries there are."""
    lines = [re.sub(r"\b1000[123]\b", "PORT", line) for line in text.splitlines()]
    table = [line for line in lines if "│" in line]
    if table:
        lines = [re.sub(r"\d+", "N", " ".join(line.split())) for line in table]
    return sorted(lines)


def as_shown(printed: str, shown: str) -> bool:
    return shape(printed) == shape(shown) if "1000" in shown else printed == shown


def require(program: str) -> None:
    if shutil.which(program) or shutil.which(program, path=SBIN):
        return
    missing = f"{program} is not installed (apt install {program}): its block was not run"
    if os.environ.get("DENGINE_CI") == "1":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.name for block in BLOCKS])
def test_block(block: Block, reader: Reader) -> None:
    for program in ("nginx", "haproxy"):
        if block.heading.lower().endswith(program):
            require(program)
    if block.language == "python" or CHANGES.search(block.text):
        printed = reader.do(block)
        assert as_shown(printed, block.shown), f"{printed}\n-- but the README shows:\n{block.shown}"
    else:
        printed = ""

        def looks_so() -> bool:
            nonlocal printed
            printed = reader.do(block)
            return as_shown(printed, block.shown)

        try:
            eventually("the output shown", looks_so, WAIT_S)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{printed}\n-- but the README shows:\n{block.shown}"
                                 ) from None


@pytest.mark.parametrize("block", EMBEDDING, ids=[block.name for block in EMBEDDING])
def test_block_of_embedding(block: Block, tmp_path: Path) -> None:
    assert block.language == "python"
    subprocess.run([sys.executable, "-W", "error", "-"], input=block.text, text=True, check=True,
                   cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=WAIT_S)


def test_what_the_architecture_names_is_there() -> None:
    """Every file and function in backticks: a page that describes other code is worse than none."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    sources = [p for p in (ROOT / "dengine").rglob("*") if p.suffix in (".py", ".pyx", ".pxd")]
    words = set(re.findall(r"\w+", " ".join(p.read_text() for p in sources)))
    words |= {p.name for p in sources} | {p.stem for p in sources}
    for name in set(re.findall(r"`([A-Za-z_.]+)(?:\([^`]*\))?`", text)) - HYPOTHETICAL:
        last = name if name in words else name.rpartition(".")[2]
        assert last in words, f"docs/architecture.md: {name}"


def test_nothing_is_left_out() -> None:
    """The walk-through is all there, and every command block is one that is run."""
    text = README.read_text()
    assert {block.language for block in BLOCKS} == {"sh", "python"}
    assert text.count("\n```") == 2 * (len(BLOCKS) + sum(bool(b.shown) for b in BLOCKS))
    for command in ("make start-cluster", "make test", "make start-nginx", "haproxy -f ",
                    "kill -9", "dengine put", "dengine get", "dengine status", "curl "):
        assert any(command in block.text for block in BLOCKS), command


def test_links_lead_somewhere() -> None:
    for page in [README, *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path) if path else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
                slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
                assert anchor in slugs, f"{page.name}: {target}"


def test_lines_are_short() -> None:
    for page in [README, ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        if page.name == "configuration.md":         # generated
            continue
        for number, line in enumerate(page.read_text().splitlines(), 1):
            assert len(line) <= 120 or line.startswith("|"), f"{page.name}:{number}"
