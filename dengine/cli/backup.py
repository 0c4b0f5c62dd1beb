"""`dengine snapshot`, `backup` and `restore`: the state of a node as one file, and back.

It decides what is asked of whom and when a file gets its name; what a snapshot is, the core knows.
"""
from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import BadStatusLine, HTTPException, HTTPResponse, IncompleteRead

import click

import dengine
from dengine import config as configuration
from dengine import errors
from dengine._core.examine import Reader
from dengine._core.restore import restore as make_from
from dengine.cli.progress import Bar
from dengine.examine import holder
from dengine.storage import Directory, setup_of, sync_directory

HEALTH = "http://127.0.0.1:10001"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
PIECE = 1 << 20  # bytes
# What a request ends with that was sent and has no whole answer; one not sent is a URLError.
LOST = (ConnectionError, TimeoutError, BadStatusLine, IncompleteRead)


@click.command()
@click.option("--health", envvar="DENGINE_HEALTH", default=HEALTH, show_default=True,
              show_envvar=True, metavar="URL", help="The node's health port.")
@click.option("--timeout", default=300.0, show_default=True, metavar="SECONDS",
              type=click.FloatRange(0, min_open=True))
def snapshot(health: str, timeout: float) -> None:
    """Let a node write its state to disk now, while it serves."""
    said = ask(health, timeout)
    click.echo(f"node {said['node_id']} has a snapshot of entry {said['snapshot']}, revision "
               f"{said['revision']} or later")


def ask(health: str, timeout: float) -> dict[str, int]:
    request = urllib.request.Request(f"{url_of(health)}/admin/snapshot", method="POST")
    with opened(request, timeout) as answer:
        said: dict[str, int] = json.load(answer)
    return said


def url_of(health: str) -> str:
    health = health.split(",")[0].strip().rstrip("/")
    return health if "//" in health else "http://" + health


@contextmanager
def opened(request: urllib.request.Request | str, timeout: float) -> Iterator[HTTPResponse]:
    """An answer of a node, or an error that says what to do; a Request is one that changes."""
    try:
        with DIRECT.open(request, timeout=timeout) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        code, text = said_by(error)
        kind = (errors.OutcomeUnknownError if code == "outcome_unknown" else
                errors.UnavailableError if error.code >= 500 else errors.RequestError)
        raise kind(f"the node says {error.code}: {text}") from None
    except LOST as error:
        if isinstance(request, str):
            raise no_answer(error) from None
        raise errors.OutcomeUnknownError(f"the answer was lost: {error}; it may have been done: "
                                         "look before you ask again") from None
    except (urllib.error.URLError, HTTPException, ValueError) as error:
        raise no_answer(error) from None


def no_answer(error: Exception) -> errors.UnavailableError:
    return errors.UnavailableError(f"no answer: {error}; nothing was changed; name the health port "
                                   "of a node that runs")


def said_by(error: urllib.error.HTTPError) -> tuple[str, str]:
    """The code of a problem ("" where it has none), and its words."""
    text = error.read().decode(errors="replace")
    try:
        problem = json.loads(text)
        return str(problem.get("code", "")), str(problem["detail"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", text


@click.command()
@click.argument("source", metavar="DIR|URL")
@click.argument("file", type=click.Path())
@click.option("--timeout", default=300.0, show_default=True, metavar="SECONDS",
              type=click.FloatRange(0, min_open=True))
def backup(source: str, file: str, timeout: float) -> None:
    """Save the state of a node to FILE.

    URL is the health port of a node that runs. DIR is the closed data directory of one node alone.
    FILE gets its name when all of it is on disk and was read back.
    """
    new = file + ".new"
    if os.path.lexists(file):
        raise errors.StorageError(f"{file} exists: nothing was changed; name another file")
    try:
        if os.path.isdir(source):
            from_directory(source, new)
        else:
            from_node(source, new, timeout)
        with Bar("verify", os.path.getsize(new)) as bar:
            said = Reader().snapshot(os.fsencode(new), bar)
        os.rename(new, file)
        sync_directory(os.path.dirname(os.path.abspath(file)))
    except OSError as error:
        raise errors.StorageError(f"{file} could not be written: {error.strerror}; nothing else "
                                  "was changed; check path and space") from None
    finally:
        if os.path.lexists(new):
            os.unlink(new)
    click.echo(f"{file}: {said['keys']} keys, revision {said['revision']}, {said['size']} bytes")


def from_directory(directory: str, new: str) -> None:
    if running := holder(directory):
        raise errors.LockedError(f"{directory} is open in process {running}: nothing was changed; "
                                 "name the node's health port instead")
    if not os.path.lexists(os.path.join(directory, "meta")):
        raise errors.StorageError(f"{directory} holds no node: nothing was changed; check the path")
    with dengine.open(directory) as store:
        shutil.copyfile(store.snapshot(), new)
    synced(new)


def from_node(url: str, new: str, timeout: float) -> None:
    ask(url, timeout)
    with (opened(f"{url_of(url)}/admin/snapshot", timeout) as answer, open(new, "wb") as out,
          Bar("backup", int(answer.headers["Content-Length"])) as bar):
        while piece := answer.read(PIECE):
            out.write(piece)
            bar(len(piece))
    synced(new)


def synced(file: str) -> None:
    fd = os.open(file, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@click.command()
@click.argument("file", type=click.Path())
@click.argument("directory", metavar="DIR", type=click.Path())
def restore(file: str, directory: str) -> None:
    """Make a new node alone in DIR from a backup.

    It is of a new cluster: it does not know the nodes of the old one, nor they it. Its revision
    goes on 1,000,000,000 further. DIR must not exist, or be empty.
    """
    if not is_empty(directory):
        raise errors.StorageError(f"{directory} is not empty: nothing was changed; name a new "
                                  "directory")
    if not os.path.isfile(file):
        raise errors.StorageError(f"{file} is no file: nothing was changed; check the path")
    opened_directory = Directory(directory)
    try:
        with Bar("restore", os.path.getsize(file)) as bar:
            setup = setup_of(configuration.single(directory), from_directory=True)
            said = make_from(os.fsencode(file), os.fsencode(opened_directory.path), setup, bar)
    finally:
        opened_directory.close()
    click.echo(f"{directory}: {said['keys']} keys, revision {said['revision']}, node 1 of cluster "
               f"{said['cluster']:016x}")


def is_empty(directory: str) -> bool:
    """Does it hold nothing, or only what an attempt made that found no backup in its file?"""
    if not os.path.lexists(directory):
        return True
    files = [name for _, _, names in os.walk(directory) for name in names]
    return os.path.isdir(directory) and files in ([], ["lock"])
