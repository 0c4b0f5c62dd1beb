"""`dengine check`: every byte of a data directory, verified. All decisions are `judge`'s."""

import json
import os
from dataclasses import asdict

import click

from dengine.cli.progress import Bar
from dengine.examine import bytes_in, examine, holder
from dengine.findings import Finding, Severity
from dengine.judge import Examination

COLORS = {Severity.FINE: "green", Severity.REPAIRABLE: "yellow", Severity.CORRUPT: "red",
          Severity.UNREADABLE: "red"}


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def check(directory: str, as_json: bool) -> None:
    """Verify every byte of the data directory DIR, and change nothing.

    \b
    Exit status:
      0  the directory is whole
      1  a start opens it, and cuts or repairs what is named
      2  corrupt: a start refuses it (or wrong usage: then nothing is on stdout)
      3  it cannot be read, or is of a newer format
    """
    running = holder(directory)
    with Bar("check", bytes_in(directory)) as bar:
        found = examine(directory, bar)
    if as_json:
        for finding in found.ordered():
            said = {"type": "finding", **asdict(finding), "severity": word(finding)}
            click.echo(json.dumps(said))
        click.echo(json.dumps({"type": "summary", "directory": directory, "running_pid": running,
                               **found.summary()}))
    else:
        click.echo(f"{os.path.abspath(directory)}: {state(running)}")
        for finding in found.ordered():
            click.echo(line(finding))
        click.echo(last_line(found))
    click.get_current_context().exit(int(found.verdict))


def state(running: int) -> str:
    return (f"a node has it open (pid {running}): what it is writing now may look unfinished"
            if running else "no process has it open")


def word(finding: Finding) -> str:
    return finding.severity.name.lower()


def line(f: Finding) -> str:
    """One finding: severity, file, place, what it means, what to do."""
    place = "".join((f" offset {f.offset}" if f.offset is not None else "",
                     f" entry {f.index}" if f.index is not None else ""))
    todo = f" -> {f.do}" if f.do else ""
    file = f.file if f.file.isprintable() else ascii(f.file)
    return f"{click.style(f'{word(f):10}', COLORS[f.severity])} {file}{place}: {f.means}{todo}"


def last_line(found: Examination) -> str:
    s = found.summary()
    mark = found.mark
    proves = (f"mark {mark['sequence']} proves entries up to {mark['index']}" if mark["epoch"]
              else "no mark proves anything")
    entries = f"entries {s['first']} to {s['last']}" if s["first"] else "no entries"
    if s["snapshot"]:
        entries = f"a snapshot of entry {s['snapshot']}, {entries}"
    return (f"{s['segments']} segments, {entries}, term {s['term']}, {proves}: "
            f"{click.style(str(s['means']), COLORS[found.verdict])}")
