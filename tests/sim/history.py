"""What clients were told against a plain replay of the committed log.

Knows commands and answers; it uses none of the code that applied them but the decoder.
"""
from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict, deque
from itertools import islice
from typing import Any

from tests.sim.views import decode_command, idempotency_of

GET, PUT, DELETE, PUT_IF, DELETE_IF = range(5)
OK, MISSING, CONFLICT, NOT_PROPOSED, UNKNOWN = range(5)
NO_SPACE, MISMATCH, KEYS_FULL, OVERLOADED = 7, 8, 9, 10
TICK_FORGETS, ADD_FORGETS = 1000, 2
IS_REVISION, REGISTER = 0, 16

# A command; by how much the revision jumps; replicated time and what may be forgotten.
Commands = list[tuple[int, bytes | int | tuple[int, int]]]
Configs = list[tuple[int, dict[int, int]]]      # the members: incarnation -> id


class Replay:
    """The states that a committed log of puts and deletes goes through, by revision."""

    def __init__(self, commands: Commands, configs: Configs) -> None:
        self.revision = self.copies = 0
        self.gaps: list[tuple[int, int]] = []  # the revision jumped over what is in between
        self.state: dict[bytes, bytes] = {}
        self.of_value: dict[bytes, list[int]] = {}  # revisions of the puts of this value
        self._sessions: dict[int, tuple[int, int, int]] = {}    # of a node: incarnation, nonce, id
        self._floors: dict[int, int] = {}       # by id of a session that lives
        self._done: dict[int, set[int]] = {}    # likewise: the sequences applied
        self._revisions: dict[bytes, list[int]] = defaultdict(lambda: [0])
        self._values: dict[bytes, list[bytes | None]] = defaultdict(lambda: [None])
        self.again = self.forgotten = 0         # copies under an Idempotency-Key; keys that went
        self._keys: dict[bytes, tuple[int, int]] = {}   # oldest first: time, hash of the request
        self._gone: set[bytes] = set()          # keys whose requests may be applied anew
        self._clock = self._horizon = 0
        self._members: dict[int, int] = {}
        later = deque(configs)
        for index, payload in commands:
            while later and later[0][0] < index:
                self._reconfigure(later.popleft()[1])
            if isinstance(payload, int):
                self.gaps.append((self.revision, self.revision + payload))
                self.revision += payload
                continue
            if isinstance(payload, tuple):
                self._clock, self._horizon = map(max, payload, (self._clock, self._horizon))
                self._forget(TICK_FORGETS)
                continue
            op, session, sequence, floor, *fields = decode_command(payload)
            if op == REGISTER:
                self._register(index, *fields[:3])
                continue
            if session and not self._first(session, sequence, floor):
                continue
            compare, revision, key, value = fields
            if not self._first_under_key(payload):
                continue
            if op in (PUT_IF, DELETE_IF):
                held = self._revisions[key][-1] if key in self.state else 0
                if (held != revision) if compare == IS_REVISION else not held:
                    continue
            if op in (PUT, PUT_IF):
                assert value not in self.of_value or self._may_come_again(payload), (
                    f"{value!r} was applied twice")
                self._change(key, value)
                self.of_value.setdefault(value, []).append(self.revision)
            elif op in (DELETE, DELETE_IF) and key in self.state:
                self._change(key, None)

    def _reconfigure(self, members: dict[int, int]) -> None:
        """Sessions of directories that are no members any more end."""
        self._members = members
        for node, (incarnation, _, session) in list(self._sessions.items()):
            if members.get(incarnation) != node:
                del self._sessions[node], self._done[session]

    def _register(self, index: int, node: int, incarnation: int, nonce: int) -> None:
        if self._members.get(incarnation) != node:
            return                              # it was removed since it asked
        if self._sessions.get(node, ())[:2] != (incarnation, nonce):
            if node in self._sessions:
                del self._done[self._sessions[node][2]]
            self._sessions[node] = incarnation, nonce, index
            self._done[index], self._floors[index] = set(), 1

    def _first(self, session: int, sequence: int, floor: int) -> bool:
        """Is a write to be applied? Not twice, not once nobody waits for it, not of a process that
        the next one of its node has followed."""
        if session not in self._done:
            return False
        self._floors[session] = max(floor, self._floors[session])
        if sequence in self._done[session] or sequence < self._floors[session]:
            self.copies += 1
            return False
        self._done[session].add(sequence)
        return True

    def _first_under_key(self, command: bytes) -> bool:
        """Is it the first of its Idempotency-Key, as far as that is remembered? Or it has none."""
        if (known := idempotency_of(command)) is None:
            return True
        if known[0] in self._keys:
            self.again += 1
            return False
        self._forget(ADD_FORGETS)
        self._keys[known[0]] = self._clock, known[1]
        return True

    def _may_come_again(self, command: bytes) -> bool:
        known = idempotency_of(command)
        return known is not None and known[0] in self._gone

    def _forget(self, limit: int) -> None:
        """So many that are older than the horizon are remembered no more."""
        for key in list(islice(self._keys, limit)):
            if self._keys[key][0] >= self._horizon:
                return
            del self._keys[key]
            self._gone.add(key)
            self.forgotten += 1

    def _change(self, key: bytes, value: bytes | None) -> None:
        self.revision += 1
        self._revisions[key].append(self.revision)
        self._values[key].append(value)
        if value is None:
            del self.state[key]
        else:
            self.state[key] = value

    def lost(self, revision: int) -> bool:
        """May this be the revision of a write that was on no disk when a majority forgot?"""
        return any(low < revision < high for low, high in self.gaps)

    def at(self, key: bytes, revision: int) -> bytes | None:
        """The value of `key` after the change of that revision."""
        return self._values[key][bisect_right(self._revisions[key], revision) - 1]


def check(commands: Commands, clients: list[Any], configs: Configs) -> Replay:
    """Every answer must follow from the log. Values of puts are unique in the run."""
    replay = Replay(commands, configs)
    for c in clients:
        assert c.status >= 0, f"{c!r} was never answered"
        if c.status <= MISSING and replay.lost(c.revision):
            assert c.value not in replay.of_value or c.kind == GET or c.repeated, (
                f"{c!r}: it is there again")
        elif c.kind in (PUT, PUT_IF):
            if c.status == OK:
                assert c.revision in replay.of_value.get(c.value, ()), (
                    f"{c!r}: acknowledged and lost")
            elif not c.repeated and c.status in (
                    NOT_PROPOSED, NO_SPACE, CONFLICT, KEYS_FULL, OVERLOADED):
                assert c.value not in replay.of_value, f"{c!r}: it was applied"
        elif c.kind in (DELETE, DELETE_IF):
            if c.status == OK:
                assert replay.at(c.key_text, c.revision) is None, f"{c!r}: it is not deleted"
        elif c.status in (OK, MISSING):
            assert replay.at(c.key_text, c.revision) == c.value, f"{c!r}: that never was its value"
    return replay
