"""`dengine check` and `dengine log dump`: what they say of a directory, and that they only look.

Where a start opens or refuses the same directory, that is asked of a copy.
"""
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import dengine
from dengine import storage
from dengine._core.crc import checksum
from dengine._core.examine import SLOT_BYTES
from dengine.cli import root
from dengine.errors import CorruptionError, FormatError, StorageError
from dengine.examine import examine
from dengine.findings import Severity
from tests.cluster import ROOT, Cluster
from tests.core.histories import COMMAND
from tests.processes import WAIT_S, child, finish
from tests.sim.bench_log import LogBench

PAGE = 4096
JUMP = 1_000_000_000
KEYS = 20
Damage = Callable[[Path], object]


@pytest.fixture(params=("DiskFirst", "MemFirst"))
def directory(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    with dengine.open(tmp_path / "d", strategy=request.param) as store:
        for i in range(KEYS):
            store[b"key %02d" % i] = b"value"
        del store[b"key 00"]
    return tmp_path / "d"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(root, [str(a) for a in arguments])
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result


def objects(*arguments: object) -> list[dict[str, object]]:
    return [json.loads(line) for line in run(*arguments, "--json").stdout.splitlines()]


def segment(directory: Path) -> Path:
    return min((directory / "log").glob("*.seg"))


def change(file: Path, offset: int, to: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(to)


def state(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """All that a tool could have changed."""
    return {str(p): (s.st_mode, s.st_mtime_ns, s.st_ctime_ns,
                     p.read_bytes() if p.is_file() else b"")
            for p in (directory, *directory.rglob("*")) if (s := p.lstat())}


def looked(directory: Path) -> Result:
    """`dengine check`, after which everything is as it was; so it is after `dengine log dump`."""
    before = state(directory)
    result = run("check", directory)
    run("log", "dump", directory)
    assert state(directory) == before
    return result


def starts(directory: Path) -> bool:
    """Does a start open a copy?"""
    copy = directory.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(directory, copy, symlinks=True)
    try:
        dengine.open(copy).close()
    except (CorruptionError, FormatError, StorageError):
        return False
    return True


# ------------------------------------------------------------------------------- what is whole
def test_a_directory_that_is_whole(directory: Path) -> None:
    result = looked(directory)
    assert result.exit_code == 0
    first, *lines, last = result.stdout.splitlines()
    assert first == f"{directory}: no process has it open"
    assert all(line.startswith("fine ") for line in lines)
    assert f"entries 1 to {KEYS + 3}, term 1, mark " in last
    assert last.endswith(f"proves entries up to {KEYS + 3}: whole")


def test_json_has_one_object_per_line(directory: Path) -> None:
    *findings, summary = objects("check", directory)
    assert {f["type"] for f in findings} == {"finding"}
    assert findings[0] == {
        "type": "finding", "severity": "fine", "file": "meta", "offset": 0, "index": None,
        "means": findings[0]["means"], "do": ""}
    assert summary["type"] == "summary"
    assert (summary["verdict"], summary["last"], summary["term"]) == ("fine", KEYS + 3, 1)


def test_a_running_node_is_named_and_not_disturbed(tmp_path: Path) -> None:
    with dengine.open(tmp_path / "d") as store:
        for i in range(KEYS):
            store[b"%d" % i] = b"v"
            result = run("check", tmp_path / "d")
            assert result.exit_code <= 1, result.stdout     # a mark may be half written
            assert f"a node has it open (pid {os.getpid()})" in result.stdout
        dump = run("log", "dump", tmp_path / "d").stdout
        assert f"a node has it open (pid {os.getpid()})" in dump.splitlines()[0]
        store["still"] = "open"
    assert run("check", tmp_path / "d").stdout.splitlines()[0].endswith("no process has it open")


def test_nodes_of_a_cluster(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        assert cluster.put(2, "k", "v").status == 200
        for node in cluster.nodes.values():
            result = run("check", node.data)
            assert result.exit_code <= 1, result.stdout
            assert node.process
            assert f"a node has it open (pid {node.process.pid})" in result.stdout
    for node in cluster.nodes.values():
        assert run("check", node.data).exit_code <= 1       # killed, or stopped well
        text = run("log", "dump", node.data).stdout
        assert all(f'{n.id} "127.0.0.1:{n.raft}" incarnation ' in text
                   for n in cluster.nodes.values())
        assert "register session 0 sequence 0 floor 0 node 2 incarnation " in text
        assert 'key "k" value 1 bytes' in text


# --------------------------------------------------------------------------- what a start does
def end_of(directory: Path) -> tuple[Path, int]:
    live = examine(str(directory)).live[-1]
    return directory / live.name, live.end


def torn(directory: Path) -> None:
    """Half of a record behind the last one."""
    file, end = end_of(directory)
    change(file, end, struct.pack("<IIQQBBHI", 100, 1, 1, KEYS + 4, 2, 0, 0, 0) + b"half")


def meta_slot(directory: Path) -> None:
    change(directory / "meta", 20, b"\xff")


def test_a_jump_of_the_revision_is_no_damage(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, MemFirst: killed, and another kernel at the next start."""
    with dengine.open(tmp_path / "running", strategy="MemFirst") as store:
        store["k"] = "v"
        directory = Path(shutil.copytree(tmp_path / "running", tmp_path / "killed"))
    with dengine.open(directory, strategy="MemFirst") as store:
        assert store.put("k", "same kernel") == 2
        again = Path(shutil.copytree(directory, tmp_path / "again"))
    monkeypatch.setattr(storage, "kernel_boot_id", lambda: b"another kernel..")
    with dengine.open(again, strategy="MemFirst") as store:
        assert store["k"] == b"same kernel"
        assert store.put("k", "after it") == JUMP + 3
    with dengine.open(again, strategy="MemFirst") as store:
        assert store.revision == JUMP + 3, "once"
    result = looked(again)
    assert result.exit_code == 0, result.stdout
    assert "no file of dengine" not in result.stdout
    assert f"revision jumps by {JUMP}" in run("log", "dump", again).stdout


def old_slot(directory: Path) -> None:
    """The node ended between the two writes of a save."""
    slot = bytearray((directory / "meta").read_bytes()[:SLOT_BYTES])
    struct.pack_into("<Q", slot, 16, struct.unpack_from("<Q", slot, 16)[0] - 1)
    struct.pack_into("<I", slot, 12, checksum(bytes(slot[16:])))
    change(directory / "meta", PAGE, bytes(slot))


def rubbish_behind(directory: Path) -> None:
    file, end = end_of(directory)
    change(file, end + 512, b"rubbish")


def mark_damaged(directory: Path) -> None:
    change(segment(directory), PAGE + 20, b"\xff")


def header_blank(directory: Path) -> None:
    """Of a segment that no mark knows of."""
    (directory / "log" / f"{9:016x}.seg").write_bytes(bytes(3 * PAGE) + b"x" * PAGE)


@pytest.mark.parametrize(("damage", "place"), [
    (torn, "offset {end} entry 24: a torn tail: it does not match its checksum, and no mark"),
    (meta_slot, "meta offset 0: slot 0 is damaged; a start writes it again"),
    (old_slot, "meta offset 4096: slot 1 is one save behind"),
    (rubbish_behind, "bytes behind the end: no record leads there"),
    (mark_damaged, "offset 4096: a mark is damaged"),
    (header_blank, "0009.seg offset 0: its header is blank, what follows is not"),
])
def test_what_a_start_repairs(directory: Path, damage: Damage, place: str) -> None:
    end = end_of(directory)[1]
    damage(directory)
    result = looked(directory)
    assert result.exit_code == 1
    assert result.stdout.count("\nrepairable ") == 1
    assert place.format(end=end) in result.stdout
    assert result.stdout.endswith(": a start repairs it\n")
    assert starts(directory)
    with dengine.open(directory) as store:
        assert len(store) == KEYS - 1
        store["more"] = "v"
    assert run("check", directory).exit_code == 0


def record_damaged(directory: Path) -> None:
    file = segment(directory)
    change(file, file.read_bytes().index(b"key 07"), b"K")


def meta_lost(directory: Path) -> None:
    (directory / "meta").unlink()


def both_slots(directory: Path) -> None:
    (directory / "meta").write_bytes(bytes(2 * PAGE))


def old_meta(directory: Path) -> None:
    """A `meta` of an earlier term than the log's."""
    slot = bytearray((directory / "meta").read_bytes()[:SLOT_BYTES])
    struct.pack_into("<Q", slot, 72, 0)
    struct.pack_into("<I", slot, 12, checksum(bytes(slot[16:])))
    for at in (0, PAGE):
        change(directory / "meta", at, bytes(slot))


def foreign(directory: Path) -> None:
    with dengine.open(directory.with_name("other")) as store:
        store["k"] = "v"
    name = f"{2:016x}.seg"
    shutil.copy(segment(directory.with_name("other")), directory / "log" / name)


def header_damaged(directory: Path) -> None:
    change(segment(directory), 40, b"\xff")


def cut_short(directory: Path) -> None:
    os.truncate(segment(directory), 5 * PAGE)


@pytest.mark.parametrize(("damage", "place"), [
    (record_damaged, "entry 10: does not match its checksum, but a completed sync proves entries"),
    (meta_lost, "meta: is missing beside a log"),
    (both_slots, "meta: both copies of the hard state are damaged"),
    (old_meta, "meta: the log holds term 1, `meta` only 0"),
    (foreign, "0002.seg offset 0: belongs to another node, cluster or place"),
    (header_damaged, "0001.seg offset 0: its header is damaged, but a completed sync proves"),
    (cut_short, "0001.seg offset 0: it has 20480 bytes, its header says 1048576"),
])
def test_what_a_start_refuses(directory: Path, damage: Damage, place: str) -> None:
    damage(directory)
    result = looked(directory)
    assert result.exit_code == 2
    assert place in result.stdout
    assert result.stdout.endswith(": corrupt: a start refuses it\n")
    assert not starts(directory)


def test_a_corrupt_record_is_named_as_the_start_names_it(directory: Path) -> None:
    record_damaged(directory)
    finding, = (f for f in examine(str(directory)).findings if f.severity == Severity.CORRUPT)
    with pytest.raises(CorruptionError, match=rf"offset {finding.offset}: entry {finding.index} "):
        dengine.open(directory)


def newer_meta(directory: Path) -> None:
    for at in (8, PAGE + 8):
        change(directory / "meta", at, b"\x02")


def newer_segment(directory: Path) -> None:
    change(segment(directory), 8, b"\x02")


def linked(directory: Path) -> None:
    file = segment(directory)
    shutil.move(file, directory.with_name("away"))
    file.symlink_to(directory.with_name("away"))


def linked_meta(directory: Path) -> None:
    shutil.move(directory / "meta", directory.with_name("away"))
    (directory / "meta").symlink_to(directory.with_name("away"))


def pipe(directory: Path) -> None:
    os.mkfifo(directory / "log" / f"{9:016x}.seg")


@pytest.mark.parametrize(("damage", "place"), [
    (newer_meta, "meta: is of a newer format"),
    (newer_segment, "0001.seg offset 0: is of a newer format"),
    (linked, "0001.seg: is a symbolic link and is not opened"),
    (linked_meta, "meta: is a symbolic link and is not opened"),
    (pipe, "0009.seg: is of another kind and is not opened"),
])
def test_what_cannot_be_judged(directory: Path, damage: Damage, place: str) -> None:
    damage(directory)
    before = sorted(directory.rglob("*"))
    result = run("check", directory)
    assert (result.exit_code, run("log", "dump", directory).exit_code) == (3, 3)
    assert place in result.stdout
    assert sorted(directory.rglob("*")) == before
    if damage is not pipe:              # a copy of one would wait for a writer
        assert not starts(directory)


def test_what_is_no_data_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "file"):
        for command in (("check",), ("log", "dump")):
            result = run(*command, path)
            assert result.exit_code == 3
            assert "could not be read" in result.output
    (tmp_path / "empty").mkdir()
    result = run("check", tmp_path / "empty")
    assert result.exit_code == 1
    assert "a start begins a new node here" in result.stdout
    assert not list((tmp_path / "empty").iterdir())
    for usage in (("check",), ("check", tmp_path, "--jsn"), ("log", "dump", tmp_path, "--to", "x")):
        result = run(*usage)
        assert (result.exit_code, result.stdout) == (2, "")


def test_rubbish_is_named_and_weighs_nothing(directory: Path) -> None:
    names = ["log/notes", "log/0000000000000009.seg.new", "core.123", "log/1.seg", "meta.new"]
    for name in names:
        (directory / name).write_text("rubbish")
    (directory / "log" / os.fsdecode(b"\x1b[2J\xff")).touch()
    (directory / "log" / "0000000000000008.seg").write_bytes(bytes(4 * PAGE))
    (directory / "meta").chmod(0o644)
    result = looked(directory)
    assert result.exit_code == 0
    for name in names:
        assert f"fine       {name}: " in result.stdout
    assert r"fine       'log/\x1b[2J\udcff': no file of dengine" in result.stdout
    assert "meta: has mode 644: others may open it -> chmod 600" in result.stdout
    assert "0008.seg: prepared: 16384 bytes of zeros" in result.stdout
    assert starts(directory)


# ---------------------------------------------------------------------------------- the dump
def test_dump_prints_all_that_lies_there(directory: Path) -> None:
    text = run("log", "dump", directory).stdout
    lines = text.splitlines()
    assert "meta slot 0: save " in text
    assert "meta slot 1: save " in text
    assert "0001.seg: epoch 1, 1048576 bytes, anchored at entry 0 of term 0, crc " in text
    assert text.count(", the newest: all up to there is proven") == 1
    records = [line.split() for line in lines if " bytes at " in line]
    assert [int(words[0]) for words in records] == list(range(1, KEYS + 4))
    assert [words[3] for words in records[:3]] == ["config", "noop", "command"]
    assert 'promise 600 ms, members 1 "127.0.0.1:9081" incarnation ' in text
    assert 'put session 0 sequence 1 floor 1 key "key 00" value 5 bytes' in text
    assert f'delete session 0 sequence {KEYS + 1} floor {KEYS + 1} key "key 00"' in text
    assert lines[-1].endswith(f"after entry {KEYS + 3}; behind it zeros to the end of the file")


def test_dump_of_a_range(directory: Path) -> None:
    said = objects("log", "dump", directory, "--from", 4, "--to", 6)
    records = [s for s in said if s["type"] == "record"]
    assert [r["index"] for r in records] == [4, 5, 6]
    assert records[0].items() >= {"kind": "command", "op": "put", "key": "key 01", "term": 1,
                                  "value_size": 5, "flags": 0, "dead": False}.items()
    assert "end" not in [s["type"] for s in said]
    assert not [s for s in objects("log", "dump", directory, "--from", 99)
                if s["type"] in ("segment", "record")]


def test_dump_of_keys_that_are_no_text(tmp_path: Path) -> None:
    with dengine.open(tmp_path / "d") as store:
        store[b"\xff\x00"] = b"v"
        store["\x1b[2Jclear"] = "v"
    text = run("log", "dump", tmp_path / "d").stdout
    assert "\x1b" not in text
    assert r"key b'\xff\x00'" in text
    assert r"key b'\x1b[2Jclear'" in text
    assert "/wA=" in [s.get("key_base64") for s in objects("log", "dump", tmp_path / "d")]


def test_dump_and_check_of_entries_that_were_cut(tmp_path: Path) -> None:
    """Above a newer anchor records are dead; the configuration that counts is decoded."""
    (tmp_path / "d" / "log").mkdir(parents=True)
    log = LogBench(None, str(tmp_path / "d" / "log"))
    for i in range(6):
        log.append(1, COMMAND, b"old %d" % i)
    log.settle()
    log.cut(3)
    log.append(2, COMMAND, b"new")
    log.settle()
    log.close()
    said = objects("log", "dump", tmp_path / "d")
    assert [(s["index"], s["term"], s["dead"]) for s in said if s["type"] == "record"] == [
        (1, 1, False), (2, 1, False), (3, 1, False), (4, 1, True), (5, 1, True), (6, 1, True),
        (4, 2, False)]
    result = run("check", tmp_path / "d")       # there is no `meta`: that is another matter
    assert "entries 1 to 3, then 3 dead ones" in result.stdout
    assert "entries 4 to 4" in result.stdout


def test_dump_of_a_segment_out_of_place(directory: Path) -> None:
    """Its records are printed all the same; the line of the segment says how it lies."""
    foreign(directory)
    said = objects("log", "dump", directory)
    assert [s["state"] for s in said if s["type"] == "segment"] == ["live", "foreign"]
    records = [s for s in said if s["type"] == "record"]
    assert [r["index"] for r in records] == [*range(1, KEYS + 4), 1, 2, 3]
    assert not any(r["dead"] for r in records)


def test_dump_of_a_segment_that_is_cut_short(directory: Path) -> None:
    cut_short(directory)
    text = run("log", "dump", directory).stdout
    assert "0001.seg: epoch 1, 20480 bytes, anchored at entry 0 of term 0, crc " in text
    assert ": damaged\n" in text
    assert 'key "key 19" value 5 bytes' in text


def test_dump_ends_where_the_chain_does(directory: Path) -> None:
    record_damaged(directory)
    result = run("log", "dump", directory)
    assert result.exit_code == 0
    assert "after entry 9: entry 10 does not match its checksum; behind it bytes" in result.stdout


# ----------------------------------------------------------------------------------- the bar
def test_a_bar_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    dengine.open(tmp_path).close()
    code = ("import sys; from dengine.cli import progress, root; progress.AFTER_S = -1.0; "
            "root(['check', sys.argv[1]])")
    assert finish(child(code, tmp_path))[2] == ""
    reader, writer = pty.openpty()
    done = subprocess.run([sys.executable, "-c", code, tmp_path], stderr=writer, check=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
                          stdout=subprocess.PIPE, timeout=WAIT_S)
    os.close(writer)
    shown = os.read(reader, 1 << 16)
    os.close(reader)
    assert b"check" in shown
    assert done.stdout.endswith(b": whole\n")
