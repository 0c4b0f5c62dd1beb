"""`dengine log dump`: the log of a data directory as it lies, readable. It judges nothing."""

import base64
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import click

from dengine.cli.check import state
from dengine.cli.progress import Bar
from dengine.examine import bytes_in, examine, holder
from dengine.findings import Segment, Severity
from dengine.judge import MAX_INDEX, Examination

HEADERS = ("ok", "blank", "damaged", "of a newer format")
SLOTS = ("ok", "damaged", "of a newer format")
FLAGS = ((1, "voter"), (2, "voter of the outgoing half"), (4, "learner"))


@click.group()
def log() -> None:
    """Look at the log of a data directory."""


@log.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--from", "first", type=click.IntRange(1), default=1, metavar="N",
              help="The first entry.")
@click.option("--to", "last", type=click.IntRange(1), default=MAX_INDEX, metavar="N",
              help="The last entry.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def dump(directory: str, first: int, last: int, as_json: bool) -> None:
    """Print the log of DIR as it lies: slots of `meta`, segments, marks, records, dead ones too.

    Nothing is changed; a node may run meanwhile. Exit status 3 if something cannot be read or is of
    a newer format.
    """
    running = holder(directory)
    with Bar("read", 2 * bytes_in(directory), hidden=sys.stdout.isatty()) as bar:
        found = examine(directory, bar)
        click.echo(json.dumps({"type": "directory", "path": directory, "running_pid": running})
                   if as_json else f"{os.path.abspath(directory)}: {state(running)}")
        for said in lines(found, first, last):
            click.echo(json.dumps(plain(said)) if as_json else text(said))
            bar(said.get("length", 0))
    for finding in found.ordered():
        if finding.severity == Severity.UNREADABLE:
            click.echo(f"dengine: {finding.file}: {finding.means}; {finding.do}", err=True)
    click.get_current_context().exit(3 if found.verdict == Severity.UNREADABLE else 0)


def lines(found: Examination, first: int, last: int) -> Iterator[dict[str, Any]]:
    """All that is printed, in the order in which it lies."""
    for number, (fault, said) in enumerate(found.slots):
        yield {"type": "slot", "slot": number, "state": SLOTS[fault], **({} if fault else said)}
    for s in found.segments:
        if (s.fault == 0 and s.first > last) or (s.state == "live" and s.last < first):
            continue
        yield {"type": "segment", "file": s.name, "epoch": s.epoch, "bytes": s.size,
               "header": HEADERS[s.fault], "state": s.state, **(said_of(s))}
        for number, mark in enumerate(s.marks, 1):
            if mark is not None:
                yield {"type": "mark", "mark": number, **mark, "newest": mark == found.mark}
        if s.fault == 0:
            yield from found.records(s, first, last)


def said_of(s: Segment) -> dict[str, int]:
    return {} if s.fault else {k: s.header[k] for k in (
        "cluster", "incarnation", "anchor_index", "anchor_term", "anchor_crc")}


# ------------------------------------------------------------------------------ as text, as JSON
def text(said: dict[str, Any]) -> str:
    return {"slot": slot, "segment": segment, "mark": mark, "record": record,
            "end": end}[said["type"]](said)


def slot(said: dict[str, Any]) -> str:
    what = said["state"] if said["state"] != "ok" else (
        f"save {said['sequence']}, node {said['node']} of cluster {said['cluster']:016x}, "
        f"incarnation {said['incarnation']:016x}, term {said['term']}, vote for {said['vote']}"
        + (", the last run acknowledged from the page cache" if said["dirty"] else "")
        + (", in doubt" if said["doubt"] else ""))
    return f"meta slot {said['slot']}: {what}"


def segment(said: dict[str, Any]) -> str:
    what = f"header {said['header']}" if said["header"] != "ok" else (
        f"anchored at entry {said['anchor_index']} of term {said['anchor_term']}, "
        f"crc {said['anchor_crc']:08x}")
    return (f"\n{said['file']}: epoch {said['epoch']}, {said['bytes']} bytes, {what}: "
            f"{said['state']}")


def mark(said: dict[str, Any]) -> str:
    newest = ", the newest: all up to there is proven" if said["newest"] else ""
    return (f"  mark {said['mark']}: sync {said['sequence']} covered entry {said['index']} of term "
            f"{said['term']}, epoch {said['epoch']} up to offset {said['offset']}, "
            f"commit {said['commit']}{newest}")


def record(said: dict[str, Any]) -> str:
    return (f"  {said['index']:>8} term {said['term']} {said['kind']:<7} flags {said['flags']} "
            f"{said['length']:>5} bytes at {said['offset']:<8} {payload(said)}"
            f"{' (dead)' if said['dead'] else ''}").rstrip()


def payload(said: dict[str, Any]) -> str:
    if "payload" in said:
        return str(said["payload"])
    if "members" in said:
        members = ", ".join(
            f"{m['id']} {shown(m['address'])} incarnation {m['incarnation']:016x} "
            f"({' and '.join(name for bit, name in FLAGS if m['flags'] & bit)})"
            for m in said["members"])
        return f"promise {said['promise_ms']} ms, members {members}"
    if "jump" in said:
        return f"the revision jumps by {said['jump']}"
    if "op" not in said:
        return ""
    of = f"{said['op']} session {said['session']} sequence {said['sequence']} floor {said['floor']}"
    if said["op"] == "register":
        return (f"{of} node {said['node']} incarnation {said['incarnation']:016x} "
                f"nonce {said['nonce']:016x}")
    value = f" value {said['value_size']} bytes" if "value_size" in said else ""
    return f"{of} key {shown(said['key'])}{value}"


def end(said: dict[str, Any]) -> str:
    behind = said["bytes_behind"]
    what = "zeros to the end of the file" if behind is None else f"bytes from offset {behind} on"
    why = f": entry {said['after'] + 1} {said['why']}" if said["why"] else ""
    return f"  end at {said['offset']}, after entry {said['after']}{why}; behind it {what}"


def shown(data: bytes) -> str:
    """Text in quotes; whatever could steer a terminal is escaped."""
    try:
        word = data.decode()
    except UnicodeDecodeError:
        return repr(data)
    return f'"{word}"' if word.isprintable() else repr(data)


def plain(said: dict[str, Any]) -> dict[str, Any]:
    """Without bytes: `name` where they are text, else `name_base64`. Random ids are hexadecimal."""
    out: dict[str, Any] = {}
    for name, value in said.items():
        if isinstance(value, bytes):
            try:
                out[name] = value.decode()
            except UnicodeDecodeError:
                out[f"{name}_base64"] = base64.b64encode(value).decode()
        elif name in ("cluster", "incarnation", "nonce"):
            out[name] = f"{value:016x}"
        else:
            out[name] = [plain(v) for v in value] if isinstance(value, list) else value
    return out
