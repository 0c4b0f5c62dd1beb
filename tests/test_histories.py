"""The checkers of histories: what they accuse, what they must accept, and one history of a real
cluster. The long forms are `python -m tests.check.power` and `python -m tests.check.campaign`.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tests.check._witness", reason="built with DENGINE_TESTS=1")

from benchmarks.history_client import record, take_answer
from tests.check import campaign, power
from tests.check.history import ANY, Operation, read, read_header, write
from tests.check.model import generate
from tests.check.mutate import MUTATIONS
from tests.check.oracle import register_explains, store_explains
from tests.check.search import Key, by_key, search, search_all
from tests.check.witness import check, check_file
from tests.cluster import Cluster

BAD = 30                # histories of each kind of fault
TINY = 1500             # histories that are compared with the oracles


class Story:
    """Operations one after the other, unless told otherwise; an op takes 10, its successor starts
    10 later."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.now = 0

    def add(self, kind: str, outcome: str = "ok", start: int | None = None,
            end: int | None = None, **more: Any) -> Operation:
        if start is None:
            start, self.now = self.now, self.now + 20
        process = len(self.operations)
        if kind == "get":
            more.setdefault("policy", "linearizable")
        op = Operation(process=process, kind=kind, key=more.pop("key", "k"), outcome=outcome,
                       start=start, end=start + 10 if end is None else end, **more)
        self.operations.append(op)
        return op

    def put(self, value: str, revision: int, **more: Any) -> Operation:
        return self.add("put", value=value, revision=revision, **more)

    def get(self, value: str | None, mod: int, revision: int, **more: Any) -> Operation:
        outcome = "ok" if mod else "missing"
        return self.add("get", outcome, value=value, mod=mod, revision=revision, **more)

    def accused(self, base: int | None = 0) -> str:
        violation = check(self.operations, base)
        return violation.what if violation else ""


# ---------------------------------------------------------------- good ones
def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    operations = generate(1, 200)
    path = tmp_path / "history"
    write(path, operations, base=7)
    assert read(path) == operations
    assert read_header(path).base == 7
    with path.open("ab") as file:
        file.write(b'{"process":1,"kind":"put')             # the recorder was killed
    assert read(path) == operations


def test_good_histories_are_accepted() -> None:
    assert power.false_alarms(500, seed=1_000_000) == []
    for seed in range(1000):
        history = generate(seed, 3 + seed % 30, clients=1 + seed % 8, keys=1 + seed % 3,
                           unknown=seed % 5 * 0.1)
        assert check(history, 0) is None, seed
        assert check(history) is None, seed
        assert search_all(history).good, seed


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**63), operations=st.integers(1, 60), clients=st.integers(1, 10),
       keys=st.integers(1, 4), unknown=st.floats(0, 0.5), refused=st.floats(0, 0.3))
def test_good_histories_of_any_shape(seed: int, operations: int, **shape: Any) -> None:
    history = generate(seed, operations, **shape)
    assert check(history, 0) is None
    assert search_all(history).good


def test_a_long_key_of_ten_clients_is_searched_within_the_budget() -> None:
    assert search_all(generate(3, 1000, clients=10, keys=1, unknown=0.03)).good


# ---------------------------------------------------------------- bad ones
@pytest.mark.parametrize("kind", MUTATIONS)
def test_faults_are_noticed(kind: str) -> None:
    measured = power.measure(kind, BAD, seed=1)
    assert measured.histories == BAD
    assert measured.complete, measured


def perturbed(history: Sequence[Operation], rng: random.Random) -> list[Operation]:
    """Up to two answers or times are changed: it may still be right."""
    ops = [copy(op) for op in history]
    revisions = [r for op in ops for r in (op.revision, op.mod) if r] or [1]
    writes = [op for op in ops if op.kind in ("put", "cas")]
    for _ in range(rng.choice((0, 1, 1, 2))):
        op, change = rng.choice(ops), rng.randrange(7)
        answered = op.outcome in ("ok", "missing")
        if change == 0 and answered:
            op.revision = max(1, op.revision + rng.choice((-1, 1)))
        elif change == 1 and op.kind == "get" and answered and writes:
            w = rng.choice(writes)
            op.value, op.mod, op.outcome = w.value, w.revision or rng.choice(revisions), "ok"
        elif change == 2 and op.kind == "get" and answered:
            op.value, op.mod, op.outcome = None, 0, "missing"
        elif change == 3 and op.outcome == "conflict":
            op.mod = rng.choice([0, *revisions])
        elif change == 4 and op.kind != "get" and op.outcome == "unknown":
            op.outcome, op.revision = "ok", rng.choice(revisions)
        elif change == 5 and op.kind != "get" and op.outcome == "ok":
            op.outcome, op.revision = rng.choice(("refused", "unknown")), 0
        elif change == 6:
            moved = rng.randrange(-6, 6) * 4096
            op.start, op.end = op.start + moved, op.end + moved
    return ops


def test_the_checkers_agree_with_trying_every_order() -> None:
    """The search exactly. The witness never accuses what an order explains; it misses only where
    writes of unknown outcome could not be placed."""
    compared: Counter[tuple[bool, bool]] = Counter()
    for seed in range(TINY):
        rng = random.Random(seed)
        history = perturbed(generate(
            seed, rng.randint(2, 6), clients=rng.randint(1, 4), keys=rng.randint(1, 2),
            unknown=rng.choice((0, 0.2, 0.4)), refused=0.05), rng)
        good, accepted = store_explains(history), check(history, 0) is None
        compared[good, accepted] += 1
        assert accepted or not good, seed
        assert good or not accepted or any(op.outcome == "unknown" for op in history), seed
        if not any(op.policy == "eventual" for op in history):
            for operations in by_key(history).values():
                explained = register_explains(operations, Key(operations).values)
                assert search(operations).good == explained, seed
    assert compared[False, False] > 20 * compared[False, True], compared
    assert compared[True, True] > TINY / 2


def test_a_violation_is_told_as_a_story() -> None:
    story = Story()
    story.put("a", 1)
    story.put("b", 2)
    story.get("a", 1, 1, policy="lease", node=3)
    violation = check(story.operations, 0)
    assert violation is not None
    what, put, get = str(violation).splitlines()
    assert what == "a stale answer: a later revision was known before it began:"
    assert "put k = b -> ok, revision 2" in put
    assert "at node 3 (life 0): lease get k -> a of revision 1, read at 1" in get
    found = search(story.operations)
    assert (found.result, found.operation) == ("violation", story.operations[2])


# ---------------------------------------------------------------- unknown outcomes
def test_an_unknown_write_may_appear_once_and_late() -> None:
    story = Story()
    story.put("a", 1)
    unknown = story.add("put", "unknown", value="b")
    story.get("a", 1, 1)
    story.get("b", 2, 2)
    assert not story.accused()
    story.put("c", 3)
    story.get("b", 4, 4)
    assert "applied twice" in story.accused()
    assert not search(story.operations).good
    unknown.outcome = "refused"
    assert "refused was applied" in story.accused()


def test_an_unknown_write_has_no_effect_before_it_began() -> None:
    story = Story()
    story.get("b", 1, 1)
    story.add("put", "unknown", value="b")
    assert "before it began" in story.accused()
    assert not search(story.operations).good


def test_an_unknown_delete_explains_one_disappearance() -> None:
    story = Story()
    story.put("a", 1)
    story.add("delete", "unknown")
    story.get(None, 0, 2)
    story.put("b", 3)
    assert not story.accused()
    assert search(story.operations).good
    story.get(None, 0, 4)
    assert "still there" in story.accused()
    assert not search(story.operations).good


def test_every_revision_belongs_to_somebody_if_the_history_is_alone() -> None:
    story = Story()
    story.put("a", 1)
    story.put("b", 3)
    assert "revision 2 belongs to no write" in story.accused()
    assert not story.accused(base=None)
    story.add("put", "unknown", value="c", start=5)
    assert not story.accused()


def test_conflicts_are_judged_too() -> None:
    story = Story()
    story.put("a", 1)
    story.put("b", 2)
    conflict = story.add("cas", "conflict", value="c", expect=7, mod=2)
    assert not story.accused()
    conflict.mod = 1
    assert "stale conflict" in story.accused()
    conflict.mod = 0
    assert "missing a key that was there" in story.accused()
    conflict.mod = conflict.expect = 2
    assert "a condition that held" in story.accused()
    assert not search(story.operations).good
    conflict.expect = ANY
    assert "a condition that held" in story.accused()


def test_a_node_goes_back_only_in_another_life() -> None:
    story = Story()
    story.put("a", 1)
    story.get("a", 1, 1, policy="eventual", node=2, life=1)
    later = story.get(None, 0, 0, policy="eventual", node=2, life=2)
    assert not story.accused()
    later.life = 1
    assert "a node went back" in story.accused()


def test_a_search_says_what_it_cannot_decide() -> None:
    story = Story()
    for i in range(65):
        story.put(f"v{i}", i + 1, start=i, end=1000)
    assert search(story.operations).result == "unknown"
    assert search_all(generate(1, 300, clients=10, keys=1), budget=100).result == "unknown"


def test_equal_values_are_no_history() -> None:
    story = Story()
    story.put("a", 1)
    story.put("a", 2)
    with pytest.raises(ValueError, match="same value"):
        check(story.operations)


# ---------------------------------------------------------------- the recorder
@pytest.mark.parametrize(("kind", "status", "body", "outcome"), [
    ("put", "200 OK", '{"revision":7}', "ok"),
    ("delete", "200 OK", '{"revision":7,"deleted":0}', "missing"),
    ("cas", "412 Precondition Failed", '{"code":"conflict","revision":6}', "conflict"),
    ("put", "503 Service Unavailable", '{"code":"not_proposed"}', "refused"),
    ("put", "503 Service Unavailable", '{"code":"stopped"}', "unknown"),
    ("get", "503 Service Unavailable", '{"code":"unavailable"}', "refused"),
    ("put", "504 Gateway Timeout", '{"code":"outcome_unknown"}', "unknown"),
])
def test_answers_are_written_down_as_what_they_say(
    kind: str, status: str, body: str, outcome: str
) -> None:
    op = Story().add(kind, "unknown", expect=5 if kind == "cas" else None)
    answer = f"HTTP/1.1 {status}\r\nDengine-Revision: 7\r\n\r\n{body}".encode()
    assert take_answer(op, answer)
    assert op.outcome == outcome
    assert op.revision == (7 if outcome in ("ok", "missing") else 0)
    assert op.mod == (6 if outcome == "conflict" else 0)


@pytest.mark.parametrize("closes", [False, True])
def test_whoever_hears_nothing_does_not_know(closes: bool, tmp_path: Path) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        if not closes:
            await reader.read()
        writer.transport.abort()

    async def main() -> None:
        server = await asyncio.start_server(never, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        totals = await record({1: ("127.0.0.1", port)}, tmp_path / "h", seconds=0.5, clients=3)
        server.close()
        assert totals.operations == totals.of("unknown") > 0

    uvloop.run(main())
    asked = read(tmp_path / "h")
    assert {op.outcome for op in asked} == {"unknown"}
    assert len({op.process for op in asked}) == len(asked)
    assert len({op.value for op in asked if op.value}) == sum(
        op.kind in ("put", "cas") for op in asked)


def test_a_real_history_through_the_death_of_a_leader(tmp_path: Path) -> None:
    path = tmp_path / "history"

    async def main(cluster: Cluster) -> None:
        lives = dict.fromkeys(cluster.nodes, 1)
        endpoints = {i: ("127.0.0.1", node.http) for i, node in cluster.nodes.items()}
        recording = asyncio.create_task(record(
            endpoints, path, seconds=3.0, clients=12, seed=1, keys=4, lives=lives, alone=True))
        await asyncio.wait([recording], timeout=1.0)
        leader = await asyncio.to_thread(cluster.wait_leader)
        await asyncio.to_thread(cluster.kill, leader)
        lives[leader] += 1
        await asyncio.to_thread(cluster.restart, leader)
        totals = await recording
        assert totals.unexpected == []
        assert totals.of("ok") > 300
        assert totals.of("unknown") > 0

    with Cluster(tmp_path / "nodes") as cluster:
        uvloop.run(main(cluster))
    operations, violation = check_file(path)
    assert operations == len(read(path))
    assert violation is None, violation
    for operations_of_key in by_key(read(path)).values():
        assert search(operations_of_key).good


# ---------------------------------------------------------------- campaigns
def test_void_runs_are_counted_apart_and_repeated(tmp_path: Path) -> None:
    file = tmp_path / "histories.json"
    evidence = campaign.Evidence(file)
    good = campaign.Run(1, 1000, operations=1000, unknown=20, kills={"any": 2}, searched=3)
    few = campaign.Run(2, 1000, operations=800, kills={"any": 2})
    quiet = campaign.Run(3, 1000, operations=1000)
    for verdict in (good, few, quiet):
        evidence.add(verdict)
    again = campaign.Evidence(file)
    assert [again.has(seed, 1000) for seed in (1, 2, 3)] == [True, False, False]
    assert again.campaign["totals"] == {
        "histories": 1, "void": 2, "operations": 1000, "unknown_fraction": 0.02, "kills": 2,
        "keys_searched": 3, "violations": 0,
    }
