"""Plays a scenario file: commands in, what happened out, as docs/testing.md specifies them.

It decides what the commands mean and how a cluster is shown. The cluster is the simulator's, with
the shipping core in it and every invariant checked after each step, but without chance.
"""
from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from dengine.errors import Error
from tests.sim import history
from tests.sim.stage import Stage
from tests.sim.views import build_frame, build_members, decode_command, encode_put, encode_record

MS, SECOND = 1000, 1_000_000
PATIENCE_US = 30 * SECOND       # of `until`
TIMES = {"us": 1, "ms": MS, "s": SECOND}
SIZES = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20}
ROLES = ["precandidate", "candidate", "leader"]
STRATEGIES = ["DiskFirst", "MemFirst"]
POLICIES = ["linearizable", "lease", "eventual"]
VOTE, VOTED, APPEND, HEARD, DURABLE = range(2, 7)       # kinds of frames
FLAGS = {"pre": 1, "granted": 2, "rejected": 8}         # of frames
VOTER = 1                                               # flag of a member
NOOP, COMMAND, CONFIGURATION = 1, 2, 3                  # kinds of entries
PUT, REGISTER = 1, 16                                   # operations
HEADER = struct.Struct("<IIQQBBHI")                     # of a record
FRAME = re.compile(r"\d+ -> \d+: (\S+)")                # of the story, as the network tells it
NOTHING = "(nothing)"


class Failure(AssertionError):
    """A command that cannot be done, or a rule that was broken: the message says where."""


def quantity(text: str, units: dict[str, int]) -> int:
    """500ms, +3s, 64KiB."""
    match = re.fullmatch(r"([+-]?\d+)(\D*)", text)
    if match is None or match[2] not in units:
        raise Failure(f"{text!r} is not a number of {', '.join(filter(None, units))}")
    return int(match[1]) * units[match[2]]


def us(text: str) -> int:
    return quantity(text, TIMES)


class Play:
    """One scenario: a cluster, and what is told of it."""

    def __init__(self) -> None:
        self.stage: Any = None
        self.traced: set[str] = set()

    def close(self) -> None:
        if self.stage is not None:
            self.stage.close()

    def do(self, line: str) -> list[str]:
        """What commands, separated by semicolons, give."""
        out = []
        for command in line.split(";"):
            name, *words = command.split()
            action = getattr(self, "do_" + name, None)
            if action is None:
                raise Failure(f"no such command: {name}")
            if self.stage is None and name != "cluster":
                raise Failure("the first command is `cluster`")
            shown = action(*words) or ()
            out += [*self.news(), *shown]
        return out

    def news(self) -> Iterator[str]:
        """What the story told since it was read last, frames only where they are traced."""
        story, self.stage.story = self.stage.story, []
        for text in story:
            frame = FRAME.match(text)
            if not text.endswith(": asked") and (frame is None or frame[1] in self.traced):
                yield text

    # ------------------------------------------------------------------------------- arguments
    def node(self, text: str, alive: bool | None = True) -> int:
        i = int(text) - 1 if text.isdigit() else -1
        if not 0 <= i < len(self.stage.nodes):
            raise Failure(f"{text!r} is no node")
        if alive is not None and self.stage.nodes[i].alive != alive:
            raise Failure(f"node {text} is {'dead' if alive else 'alive'}")
        return i

    def way(self, text: str) -> tuple[int, int]:
        """1->2."""
        ends = text.split("->")
        if len(ends) != 2:
            raise Failure(f"{text!r} is no way from a node to another, such as 1->2")
        return self.node(ends[0], None), self.node(ends[1], None)

    def pairs(self, words: tuple[str, ...]) -> Iterator[tuple[int, int, bool]]:
        """1->2 one way, 1-2 both, 1 to and from all others."""
        for word in words:
            if "->" in word:
                yield *self.way(word), False
            elif "-" in word:
                yield *self.way(word.replace("-", "->")), True
            else:
                a = self.node(word, None)
                yield from ((a, b, True) for b in range(len(self.stage.nodes)) if b != a)

    def turns(self) -> Iterator[tuple[int, Any]]:
        """Each node, and its core; None: it is dead."""
        return ((n.index + 1, n.turn if n.alive else None) for n in self.stage.nodes)

    # --------------------------------------------------------------------------------- cluster
    def do_cluster(self, *words: str) -> None:
        given = dict(word.split("=") for word in words)
        strategy = STRATEGIES.index(given.pop("strategy", "DiskFirst"))
        options: dict[str, int] = {}
        for name in ("promise", "timeout", "heartbeat", "lease"):
            if name in given:
                options[name + "_ms"] = us(given.pop(name)) // MS
        if "segment" in given:
            options["segment_bytes"] = quantity(given.pop("segment"), SIZES)
        if "snapshot" in given:                 # after so many entries; the log behind it goes
            options["snapshot_entries"] = int(given.pop("snapshot"))
            options["snapshot_keep_bytes"] = 0
        self.stage = Stage(int(given.pop("nodes", "3")), strategy, **options)
        if given:
            raise Failure(f"no such option: {' '.join(given)}")

    def do_form(self) -> Iterator[str]:
        """All start, and go on until one leads and all agree with it."""
        self.stage.start()
        self.do_until("settled")
        leader = self.stage.leader()
        self.stage.story = []
        yield f"node {leader + 1} leads term {self.stage.states()[leader]['term']}"

    def do_has(self, node: str, *words: str) -> None:
        """Before its start: the log of a node, as the terms of its entries. A leader of its last
        term, or of term=, has sent it."""
        i, given = self.node(node, False), [w for w in words if not w.startswith("term=")]
        terms = [int(w) for w in given]
        term = max([terms[-1], *(int(w[5:]) for w in words if w.startswith("term="))])
        stage = self.stage
        stage.boot(i)
        crc, body = stage.crc(i, 0), b""
        for index, entry in enumerate(terms, 1):
            kind, payload = COMMAND, encode_put(b"e%d" % index, b"%d/%d" % (index, entry))
            if index == 1:
                kind, payload = CONFIGURATION, build_members(
                    [(n.index + 1, n.setup.incarnation, VOTER, b"node:%d" % (n.index + 1))
                     for n in stage.nodes], stage.nodes[i].setup.promise_ms)
            record = encode_record(entry, index, kind, payload, crc)
            crc = HEADER.unpack_from(record)[1]
            body += record
        head = struct.pack("<QQIQQQI", 0, 0, stage.crc(i, 0), 0, 1, len(terms), len(terms))
        sender = (i + 1) % len(stage.nodes)
        stage.stands_in(sender, term)
        self.hand(sender, i, build_frame(APPEND, 0, term, head + body))
        stage.run_for(50 * MS)
        stage.stop(i)
        stage.stands_in(-1, term)
        stage.story = []

    def do_promise(self, node: str, time: str) -> None:
        """From its next start on the file of this node says so."""
        self.stage.nodes[self.node(node, False)].setup.promise_ms = us(time) // MS

    # -------------------------------------------------------------------------------- time
    def do_run(self, time: str) -> None:
        self.stage.run_for(us(time))

    def do_until(self, what: str, *words: str) -> None:
        if not self.stage.run_until(self.condition(what, words), PATIENCE_US):
            raise Failure(f"not within {PATIENCE_US // SECOND} s: {[*self.do_nodes()]}")

    def condition(self, what: str, words: tuple[str, ...]) -> Callable[[], bool]:
        stage, nodes = self.stage, [self.node(w, None) for w in words]
        if what == "primary":
            return lambda: any(map(self.primary, nodes or range(len(stage.nodes))))
        if what == "answered":
            return lambda: all(c.status >= 0 for c in stage.clients)
        if what == "settled":
            return lambda: bool(stage.settled())
        if what == "dead":
            return lambda: not any(stage.nodes[i].alive for i in nodes)
        if what not in ROLES:
            raise Failure(f"until what? {what}")
        return lambda: all(stage.nodes[i].alive and stage.states()[i]["role"] == what
                           for i in nodes)

    def primary(self, i: int) -> bool:
        return bool(self.stage.nodes[i].alive and self.stage.primary(i))

    def do_campaign(self, *nodes: str) -> None:
        """Their time-outs end, as soon as their promises allow; until they ask for votes."""
        for i in [self.node(n) for n in nodes]:
            self.stage.time_out(i)
        for n in nodes:
            self.do_until("precandidate", n)

    def do_clock(self, node: str, time: str) -> None:
        self.stage.jump(self.node(node, None), us(time))

    # ------------------------------------------------------------------------------- processes
    def do_start(self, *nodes: str) -> Iterator[str]:
        chosen = nodes or [str(n) for n, turn in self.turns() if turn is None]
        for i in [self.node(n, False) for n in chosen]:
            self.stage.mend(i)
            try:
                self.stage.boot(i)
            except Error as error:
                yield f"node {i + 1} does not start: {error}"

    def do_kill(self, *nodes: str) -> None:
        for i in [self.node(n) for n in nodes]:
            self.stage.kill(i)

    def do_power(self, *nodes: str) -> None:
        for i in [self.node(n, None) for n in nodes]:
            if self.stage.nodes[i].alive:
                self.stage.kill(i, power=True)
            else:
                self.stage.cut_power(i)

    def do_stop(self, *nodes: str) -> None:
        for i in [self.node(n) for n in nodes]:
            self.stage.stop(i)

    def do_wipe(self, node: str) -> None:
        self.stage.wipe(self.node(node, False))

    def do_pause(self, node: str, time: str) -> None:
        self.stage.pause(self.node(node), us(time))

    # ----------------------------------------------------------------------------------- disks
    def do_stall(self, node: str, time: str) -> None:
        self.stage.stall(self.node(node), us(time))

    def do_fail(self, node: str, call: str, nth: str = "1") -> None:
        self.stage.fail(self.node(node), call, int(nth))

    def do_tear(self, node: str, size: str) -> None:
        self.stage.tear(self.node(node), int(size))

    def do_fill(self, node: str, size: str) -> None:
        self.stage.fill(self.node(node), quantity(size, SIZES))

    def do_free(self, node: str) -> None:
        self.stage.free(self.node(node, None))

    def do_unreserve(self, node: str) -> None:
        """Somebody removes the reserve of a dead node; its disk is full again at once."""
        self.stage.lose_reserve(self.node(node, False))

    def do_flip(self, node: str, what: str, *numbers: str) -> None:
        """It dies, and one bit goes bad: of a copy (0, 1) of the hard state, of an entry, or of the
        newest snapshot."""
        i, stage = self.node(node), self.stage
        which = list(map(int, numbers))
        if what == "meta" and which:
            stage.kill(i)
            for number in which:
                stage.nodes[i].disk.flip("/node/meta", 8 * (4096 * number + 40))
        elif what == "entry" and which:
            places = [stage.place(i, number) for number in which]
            stage.kill(i)
            for number, (epoch, offset) in zip(which, places, strict=True):
                stage.damage(i, number, epoch, 8 * (offset + HEADER.size))
        elif what == "snapshot" and not which:
            stage.kill(i)
            stage.damage_snapshot(i, stage.snapshots(i)[-1], 8 * 4100, only=False)
        else:
            raise Failure("flip takes `meta` or `entry`, and numbers, or `snapshot`")

    # --------------------------------------------------------------------------------- network
    def do_cut(self, *words: str) -> None:
        for a, b, both in self.pairs(words):
            self.stage.cut(a, b, both=both)

    def do_heal(self, *words: str) -> None:
        for a, b, _ in self.pairs(words):
            self.stage.heal(a, b)
        if not words:
            self.stage.heal()

    def do_reset(self, word: str) -> None:
        """The connection of two nodes breaks."""
        for a, b, _ in self.pairs((word,)):
            self.stage.disconnect(a, b)

    def do_hold(self, *words: str) -> None:
        for word in words:
            self.stage.hold(*self.way(word))

    do_release = do_heal

    def do_messages(self, word: str) -> Iterator[str]:
        held = self.stage.held(*self.way(word))
        yield from (f"{n}. {text}" for n, (text, _) in enumerate(held, 1))
        if not held:
            yield NOTHING

    def take(self, word: str, numbers: tuple[str, ...], keep: bool = False) -> list[bytes]:
        """Those frames that are held back, or all; they leave the line, unless they are kept."""
        a, b = self.way(word)
        held = [frame for _, frame in self.stage.held(a, b)]
        chosen = [int(n) - 1 for n in numbers] or range(len(held))
        if max(chosen, default=0) >= len(held):
            raise Failure(f"only {len(held)} frames are held back")
        if not keep:
            self.stage.keep(a, b, [f for i, f in enumerate(held) if i not in chosen])
        return [held[i] for i in chosen]

    def do_drop(self, word: str, *numbers: str) -> None:
        self.take(word, numbers)

    def do_deliver(self, word: str, *numbers: str) -> None:
        for frame in self.take(word, numbers):
            self.hand(*self.way(word), frame)

    def do_repeat(self, word: str, *numbers: str) -> None:
        for frame in self.take(word, numbers, keep=True):
            self.hand(*self.way(word), frame)

    def hand(self, a: int, b: int, frame: bytes) -> None:
        why = self.stage.hand(a, b, frame)
        if why is not None:
            self.stage.tell(f"node {b + 1} refuses node {a + 1}: {why}")

    def do_append(self, word: str, entries: str, *words: str) -> None:
        """Node 1, as it is, tells 2 of its entries 4..5 only, in a frame of their own."""
        a, b = self.way(word)
        first, last = map(int, entries.split(".."))
        given = dict(w.split("=") for w in words)
        raft, prev = self.stage.nodes[a].turn.raft, first - 1
        commit, term = int(given.get("commit", raft.commit)), int(given.get("term", raft.term))
        crc = self.stage.crc(a, prev) ^ (given.get("crc") == "other")
        head = struct.pack("<QQIQQQI", prev, self.term_of(a, prev), crc, commit, raft.round,
                           max(raft.last, last), max(0, last - prev))
        body = b"".join(self.stage.record(a, i) for i in range(first, last + 1))
        self.hand(a, b, build_frame(APPEND, 0, term, head + body))

    def do_frame(self, word: str, kind: str, *words: str) -> None:
        """A frame that somebody made up: vote, voted, heard, durable."""
        given = dict(w.split("=") for w in words if "=" in w)
        flags = sum(FLAGS[w] for w in words if "=" not in w)
        fields: dict[str, tuple[int, list[str]]] = {
            "vote": (VOTE, ["last", "of"]), "voted": (VOTED, []),
            "heard": (HEARD, ["round", "last", "of"]), "durable": (DURABLE, ["last"])}
        number, names = fields[kind]
        body = b"".join(struct.pack("<Q", int(given.get(name, 0))) for name in names)
        self.hand(*self.way(word), build_frame(number, flags, int(given["term"]), body))

    def do_trace(self, *kinds: str) -> None:
        self.traced = set(kinds)

    # --------------------------------------------------------------------------------- clients
    def do_put(self, node: str, key: str, value: str, time: str = "5s") -> None:
        text, _, times = value.partition("*")
        self.stage.put(self.node(node), key.encode(), text.encode() * int(times or 1), us(time))

    def do_delete(self, node: str, key: str, time: str = "5s") -> None:
        self.stage.delete(self.node(node), key.encode(), us(time))

    def do_get(self, node: str, key: str, policy: str, time: str = "5s") -> None:
        self.stage.get(self.node(node), key.encode(), POLICIES.index(policy), us(time))

    # ----------------------------------------------------------------------------- what it shows
    def do_told(self) -> Iterator[str]:
        for c in self.stage.clients:
            yield f"{c.words()}: {c.outcome()}"

    def do_nodes(self) -> Iterator[str]:
        for n, turn in self.turns():
            if turn is None:
                yield f"node {n}: dead"
                continue
            s, raft = self.stage.states()[n - 1], turn.raft
            what = "diverged" if s["diverged"] else "primary" if self.primary(n - 1) else ""
            what += "  disk full" if s["disk_full"] else ""
            yield (f"node {n}: {s['role']:12} term {raft.term}  vote {raft.vote or '-'}  last "
                   f"{raft.last}  commit {raft.commit}  applied {s['applied']}  {what}".rstrip())

    def do_logs(self) -> Iterator[str]:
        """The terms of all entries; a bar after what this node knows to be committed."""
        for n, turn in self.turns():
            if turn is None:
                yield f"node {n}: dead"
                continue
            terms = [self.term_of(n - 1, i + 1) for i in range(turn.raft.last)]
            commit = turn.raft.commit
            yield f"node {n}: {' '.join([*runs(terms[:commit]), '|', *runs(terms[commit:])])}"

    def term_of(self, i: int, index: int) -> int:
        return int(HEADER.unpack_from(self.stage.record(i, index))[2]) if index else 0

    def do_log(self, node: str) -> Iterator[str]:
        """What the entries are."""
        i = self.node(node)
        for index in range(self.stage.first(i), self.stage.nodes[i].turn.raft.last + 1):
            record = self.stage.record(i, index)
            length, _, term, _, kind, *_ = HEADER.unpack_from(record)
            yield f"{index} in term {term}: {said(kind, record[HEADER.size:length])}"

    def do_agree(self) -> Iterator[str]:
        """All nodes have the same state, and every answer follows from the log."""
        self.do_until("settled")
        replay = history.check(self.stage.commands(), self.stage.clients, self.stage.configs())
        for n, _ in self.turns():
            if self.stage.items(n - 1) != replay.state:
                raise Failure(f"node {n} has another state than the log")
        state = (pair(*item) for item in sorted(replay.state.items()))
        yield f"all nodes hold {' '.join(state) or NOTHING}"


def runs(terms: list[int]) -> Iterator[str]:
    """1 1 1 2, and 3x12 for many of a kind."""
    for term, same in groupby(terms):
        n = len(list(same))
        yield from [str(term)] * n if n <= 6 else [f"{term}x{n}"]


def said(kind: int, payload: bytes) -> str:
    """An entry in words."""
    if kind != COMMAND:
        return {NOOP: "no-op", CONFIGURATION: "configuration"}[kind]
    op, _, _, _, first, _, key, value = decode_command(payload)
    if op == REGISTER:
        return f"session of node {first}"
    return f"put {pair(key, value)}" if op == PUT else f"delete {key.decode()}"


def pair(key: bytes, value: bytes) -> str:
    return f"{key.decode()}={value[:20].decode()}"


def play(path: Path) -> Iterator[str]:
    """The lines of the file as it should be: commands and comments, with what commands gave."""
    current = Play()
    try:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line or line.startswith(("#", "> ")):
                yield line
            if line.startswith("> "):
                try:
                    yield from current.do(line[2:])
                except Exception as error:
                    raise Failure(f"{path}:{number}: {line}: {error}") from error
    finally:
        current.close()
