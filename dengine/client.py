"""A blocking client over HTTP: put, get and delete on any node of a cluster.

Decides which node is asked next, and when a request may be repeated: always, as each write has an
Idempotency-Key under which the nodes apply it once. Knows nothing of Raft, nor of which node leads.
"""

import http.client
import json
import select
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, NamedTuple
from urllib.parse import quote, urlsplit
from uuid import uuid4

from dengine import errors
from dengine._core.types import Entry

Consistency = Literal["linearizable", "lease", "eventual"]

# `code` of problem+json -> what it means here. Also by status, where something between us answers.
ERRORS: dict[str | int, type[errors.Error]] = {
    "conflict": errors.ConflictError,
    "too_large": errors.TooLargeError,
    "not_proposed": errors.NotProposedError,
    "no_space": errors.NoSpaceError,
    "overloaded": errors.OverloadedError,
    "idempotency_full": errors.NotProposedError,
    "unavailable": errors.UnavailableError,
    "outcome_unknown": errors.OutcomeUnknownError,
    412: errors.ConflictError,
    413: errors.TooLargeError,
    414: errors.TooLargeError,
}


class Client:
    """One connection to one endpoint at a time, kept open. Threads take turns.

    The default timeout is above the servers' own deadline (5 s), so that their answer, which says
    whether a write was proposed, comes first.
    """

    def __init__(self, endpoints: str | Sequence[str], timeout: float = 6.0) -> None:
        urls = endpoints.split(",") if isinstance(endpoints, str) else endpoints
        self._endpoints = [Endpoint(url.strip()) for url in urls if url.strip()]
        if not self._endpoints:
            raise errors.ConfigError("endpoints: none given; give one URL or more")
        self._timeout = timeout
        self._lock = threading.Lock()

    def put(self, key: bytes | str, value: bytes | str, *, if_match: int | None = None,
            if_none_match: bool = False) -> int:
        """The revision of the write. `if_match`: only if this is the key's `mod_revision`;
        `if_none_match`: only if there is no such key; else `ConflictError`."""
        headers = _conditions(if_match, if_none_match)
        answer = self._call("PUT", _path(key), _bytes(value), headers)
        return int(json.loads(answer.body)["revision"])

    def get(self, key: bytes | str, consistency: Consistency | None = None) -> bytes | None:
        """The value, or None. Without a consistency the node's default decides."""
        entry = self.entry(key, consistency)
        return entry and entry.value

    def entry(self, key: bytes | str, consistency: Consistency | None = None) -> Entry | None:
        """The value with its revisions, or None."""
        path = _path(key) + (f"?consistency={consistency}" if consistency else "")
        answer = self._call("GET", path, None, {"Accept": "application/octet-stream"})
        if answer.status == 404:
            return None
        mod_revision = int(answer.headers["ETag"].strip('"'))
        return Entry(answer.body, mod_revision, int(answer.headers["Dengine-Revision"]))

    def delete(self, key: bytes | str, *, if_match: int | None = None) -> bool:
        """Whether there was such a key."""
        answer = self._call("DELETE", _path(key), None, _conditions(if_match, False))
        return bool(json.loads(answer.body)["deleted"])

    def close(self) -> None:
        with self._lock:
            for node in self._endpoints:
                node.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: str, path: str, body: bytes | None,
              headers: dict[str, str]) -> "Answer":
        """The first answer that is final. Who gave it is asked first next time."""
        with self._lock:
            write, end = method != "GET", time.monotonic() + self._timeout
            reasons: list[str] = []
            unknown: errors.OutcomeUnknownError | None = None
            if write:
                headers = headers | {"Idempotency-Key": uuid4().hex}
            for left in range(len(self._endpoints), 0, -1):
                endpoint, remaining = self._endpoints[0], end - time.monotonic()
                sure = write and bool(reasons) and unknown is None
                if remaining <= (self._timeout / 2 if sure else 0):
                    break  # too late to hear whether this write was proposed
                share = remaining / left
                try:
                    endpoint.connect(share)
                    answer = endpoint.exchange(method, path, body, headers,
                                               remaining if write else share)
                    _check(answer, write)
                    return answer
                except (Unreachable, errors.UnavailableError) as e:
                    if isinstance(e, errors.OutcomeUnknownError):
                        unknown = e
                    reasons.append(f"{endpoint.url}: {e}")
                self._endpoints.append(self._endpoints.pop(0))
            message = "; ".join(reasons) or f"timeout = {self._timeout} is no time"
            if unknown is not None:
                raise errors.OutcomeUnknownError(f"it may or may not be applied: {message}")
            if write:
                raise errors.NotProposedError(f"nothing was changed: {message}")
            raise errors.UnavailableError(message)


class Unreachable(Exception):
    """Nothing was sent, or it was a read."""


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Endpoint:
    """One endpoint and its connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        try:
            good = parts.scheme == "http" and parts.hostname and parts.path in ("", "/")
            port = parts.port or 80
        except ValueError:
            good = None
        if not good:
            raise errors.ConfigError(f"endpoint {url!r}: is no http://host:port; correct it")
        self.url = url
        self._connection = http.client.HTTPConnection(parts.hostname or "", port)

    def connect(self, timeout: float) -> None:
        """A connection of which the server has not yet taken leave."""
        if self._connection.sock:
            waiting = select.poll()
            waiting.register(self._connection.sock, select.POLLIN)
            if waiting.poll(0):
                self.close()
        if not self._connection.sock:
            self._connection.timeout = timeout
            try:
                self._connection.connect()
            except OSError as e:
                self.close()
                raise Unreachable(e.strerror or e) from e

    def exchange(self, method: str, path: str, body: bytes | None, headers: dict[str, str],
                 timeout: float) -> Answer:
        self._connection.sock.settimeout(timeout)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # refused before it was all sent
                self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except (OSError, http.client.HTTPException) as e:
            self.close()
            if method == "GET":
                raise Unreachable(repr(e)) from e
            raise errors.OutcomeUnknownError(
                f"{self.url}: {e!r}: it may or may not be applied; read before repeating it") from e

    def close(self) -> None:
        self._connection.close()


def _check(answer: Answer, write: bool) -> None:
    """Raises what an answer means that is not final."""
    missing = answer.status == 404 and "Dengine-Revision" in answer.headers
    if answer.status < 300 or (missing and not write):
        return
    problem: object = None
    with suppress(ValueError):
        problem = json.loads(answer.body)
    if not isinstance(problem, dict):
        problem = {}
    kind = ERRORS.get(str(problem.get("code"))) or ERRORS.get(answer.status, errors.RequestError)
    if kind is errors.RequestError and answer.status >= 500:  # says nothing about a write
        kind = errors.OutcomeUnknownError
    if kind is errors.OutcomeUnknownError and not write:
        kind = errors.UnavailableError
    message = str(problem.get("detail") or problem.get("title") or f"status {answer.status}")
    if kind is errors.ConflictError:
        raise errors.ConflictError(message, int(problem.get("revision", 0)))
    raise kind(message)


def _conditions(if_match: int | None, if_none_match: bool) -> dict[str, str]:
    headers = {} if if_match is None else {"If-Match": f'"{if_match}"'}
    return headers | ({"If-None-Match": "*"} if if_none_match else {})


def _bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _path(key: bytes | str) -> str:
    return "/kv/" + quote(_bytes(key), safe="")
