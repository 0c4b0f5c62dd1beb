"""What a peer may say and what is refused: with a sentence, nothing changed, the node goes on."""
from __future__ import annotations

import random
import struct

import pytest

from tests.sim.cluster import Cluster
from tests.sim.views import build_frame, encode_put, encode_record

(HELLO, VOTE, VOTED, APPEND, HEARD, DURABLE, FORWARD, REFUSED, READ, GRANTED, PING,
 BYE) = range(1, 13)
NAMED = 17
FLAG_REJECTED = 8
COMMAND, NOOP = 2, 1
REGISTER = 16
HUGE = 2**64 - 1


@pytest.fixture
def cluster():
    c = Cluster(5, nodes=3)
    c.start()
    assert c.run_until(c.settled, 5_000_000)
    for i in range(3):
        c.put(i, b"k%d" % i, b"v%d" % i)
    assert c.run_until(c.settled, 5_000_000)
    c.strict = False
    yield c
    c.close()


def visible(c):
    """All that a refused frame must leave alone."""
    return [{k: v for k, v in s.items() if k not in ("counters", "lease_ms")} for s in c.states()]


def pair(c, role):
    """(a node of this role, another node)."""
    leader = c.leader()
    node = leader if role == "leader" else (leader + 1) % 3
    return node, leader if role == "follower" else (leader + 1) % 3


def refused(c, node, peer, kind, body, *, flags=0, term=None):
    """The sentence; nothing changed, and the cluster still serves."""
    before = visible(c)
    term = c.states()[node]["term"] if term is None else term
    why = c.receive(node, peer, build_frame(kind, flags, term, body))
    assert isinstance(why, str), why
    assert why
    assert visible(c) == before
    again = c.put(node, b"after", b"after")
    assert c.run_until(lambda: again.status >= 0, 5_000_000)
    assert again.status == 0
    return why


def append(prev, prev_term, crc, commit, round_, count, records=b""):
    return struct.pack("<QQIQQQI", prev, prev_term, crc, commit, round_, prev + count,
                       count) + records


BODIES = {
    VOTE: struct.pack("<QQ", 1, 1), VOTED: b"", HEARD: struct.pack("<QQQ", 1, 1, 1),
    DURABLE: struct.pack("<Q", 1), READ: struct.pack("<Q", 1), GRANTED: struct.pack("<QQ", 1, 1),
    NAMED: struct.pack("<Q", 1), REFUSED: struct.pack("<IQ", 1, 1),
    APPEND: append(0, 0, 0, 0, 1, 0),
    FORWARD: struct.pack("<II", 1, 60) + encode_put(b"k" * 10, b"v" * 4).ljust(60, b"\0")}


@pytest.mark.parametrize("role", ["leader", "follower"])
@pytest.mark.parametrize("kind", sorted(BODIES))
def test_a_body_with_a_byte_more_or_less(cluster, role, kind):
    node, peer = pair(cluster, role)
    refused(cluster, node, peer, kind, BODIES[kind] + b"\0")
    if BODIES[kind]:
        refused(cluster, node, peer, kind, BODIES[kind][:-1])
        refused(cluster, node, peer, kind, b"")


@pytest.mark.parametrize("kind", [VOTE, VOTED, HEARD, DURABLE, APPEND])
@pytest.mark.parametrize("term", [0, 2**48 + 1, HUGE])
def test_impossible_terms(cluster, kind, term):
    node, peer = pair(cluster, "follower")
    refused(cluster, node, peer, kind, BODIES[kind], term=term)


def test_a_second_handshake(cluster):
    assert "handshake" in refused(cluster, *pair(cluster, "leader"), HELLO, b"")


def test_a_goodbye_says_why(cluster):
    assert "enough" in refused(cluster, *pair(cluster, "leader"), BYE, b"enough of \xff this")


@pytest.mark.parametrize("kind", [HEARD, DURABLE])
@pytest.mark.parametrize("flags", [0, FLAG_REJECTED])
def test_answers_about_entries_that_were_never_sent(cluster, kind, flags):
    last = cluster.states()[cluster.leader()]["last"]
    for index in (last + 1, HUGE):
        body = struct.pack("<QQQ", 1, index, 1) if kind == HEARD else struct.pack("<Q", index)
        refused(cluster, *pair(cluster, "leader"), kind, body, flags=flags)


def test_answers_to_a_leader_that_lost_its_tail(cluster):
    """It restarts behind a follower in the same term: no reason to end the connection."""
    node, peer = pair(cluster, "follower")
    state = cluster.states()[node]
    frame = build_frame(DURABLE, 0, state["term"], struct.pack("<Q", state["last"] + 2))
    assert cluster.receive(node, peer, frame) is None
    assert cluster.states()[node] == state | {"counters": cluster.states()[node]["counters"]}


def test_appends_that_do_not_continue_the_chain(cluster):
    node, peer = pair(cluster, "follower")
    state = cluster.states()[node]
    last, term = state["last"], state["term"]
    crc = cluster.crc(node, last)
    good = encode_record(term, last + 1, COMMAND, encode_put(b"k", b"v"), crc)
    bad = {
        "another crc before it": (crc ^ 1, 1, good),
        "a changed byte": (crc, 1, good[:40] + bytes([good[40] ^ 1]) + good[41:]),
        "a gap": (crc, 1, encode_record(term, last + 2, NOOP, b"", crc)),
        "a term that falls": (crc, 1, encode_record(term - 1, last + 1, NOOP, b"", crc)),
        "a term above the frame's": (crc, 1, encode_record(term + 1, last + 1, NOOP, b"", crc)),
        "an unknown kind": (crc, 1, encode_record(term, last + 1, 99, b"", crc)),
        "fewer than it says": (crc, 2, good),
        "more than it says": (crc, 1, good + good),
        "half a record": (crc, 1, good[:20]),
        "none": (crc, 1, b""),
        "a count without end": (crc, 2**32 - 1, good)}
    for name, (prev_crc, count, records) in bad.items():
        body = append(last, term, prev_crc, last, 10**6, count, records)
        assert refused(cluster, node, peer, APPEND, body), name
        assert cluster.run_until(cluster.settled, 5_000_000)
        state = cluster.states()[node]      # a write came between: the next one continues it
        last, crc = state["last"], cluster.crc(node, state["last"])
        good = encode_record(term, last + 1, COMMAND, encode_put(b"k", b"v"), crc)
        break_here = name == "a count without end"
    assert break_here


def test_an_equal_entry_with_another_crc_is_a_diverged_log(cluster):
    """It says so, acknowledges nothing more, and goes on saying it."""
    node, peer = pair(cluster, "follower")
    state = cluster.states()[node]
    crc = cluster.crc(node, state["last"])
    body = append(state["last"], state["term"], crc ^ 1, state["last"], 10**6, 0)
    assert cluster.receive(node, peer, build_frame(APPEND, 0, state["term"], body)) is None
    assert cluster.states()[node]["diverged"]
    write = cluster.put(peer, b"k", b"v")
    assert cluster.run_until(lambda: write.status >= 0, 5_000_000)
    cluster.run_for(500_000)
    assert cluster.states()[node]["last"] == state["last"]


@pytest.mark.parametrize(("prev", "prev_term"), [(0, 1), (5, 0)])
def test_an_append_after_an_entry_that_cannot_be(cluster, prev, prev_term):
    refused(cluster, *pair(cluster, "follower"), APPEND, append(prev, prev_term, 0, 0, 1, 0))


def test_more_changes_of_term_than_a_frame_has(cluster):
    node, peer = pair(cluster, "follower")
    state = cluster.states()[node]
    records, crc = b"", cluster.crc(node, state["last"])
    for i in range(65):
        record = encode_record(state["term"] + i, state["last"] + 1 + i, NOOP, b"", crc)
        crc = int.from_bytes(record[4:8], "little")
        records += record
    body = append(state["last"], state["term"], cluster.crc(node, state["last"]), 0, 1, 65, records)
    refused(cluster, node, peer, APPEND, body, term=state["term"] + 100)


@pytest.mark.parametrize("command", [
    b"", b"\0", bytes(25), bytes([1]) + bytes(24), bytes([77]) + struct.pack("<QQQ", 9, 1, 1),
    encode_put(b"k", b"v"), encode_put(b"k", b"v")[:-1]],
    ids=["empty", "one byte", "no op", "no fields", "unknown op", "no session", "cut short"])
@pytest.mark.parametrize("role", ["leader", "follower"])
def test_forwarded_rubbish(cluster, role, command):
    good = struct.pack("<BQQQ", 1, 9, 1, 1) + encode_put(b"k", b"v")[25:]
    body = struct.pack("<I", 2) + b"".join(struct.pack("<I", len(x)) + x for x in (good, command))
    refused(cluster, *pair(cluster, role), FORWARD, body)


def test_a_count_without_commands(cluster):
    refused(cluster, *pair(cluster, "leader"), FORWARD, struct.pack("<I", 2**32 - 1))
    refused(cluster, *pair(cluster, "leader"), REFUSED, struct.pack("<I", 2**32 - 1))


def test_a_session_in_another_s_name(cluster):
    node, peer = pair(cluster, "leader")
    for stranger in (node + 1, 77):
        command = struct.pack("<BQQQQQQ", REGISTER, 0, 0, 0, stranger, 5, 5)
        body = struct.pack("<II", 1, len(command)) + command
        assert "session" in refused(cluster, node, peer, FORWARD, body)


def test_a_repeated_registration_changes_nothing(cluster):
    """It arrives late, behind writes of its session that are under way."""
    leader = cluster.leader()
    node = (leader + 1) % 3
    setup = cluster.nodes[node].setup
    command = struct.pack("<BQQQQQQ", REGISTER, 0, 0, 0, node + 1, setup.incarnation, setup.nonce)
    body = struct.pack("<II", 1, len(command)) + command
    put = cluster.put(node, b"k", b"v")
    frame = build_frame(FORWARD, 0, cluster.states()[leader]["term"], body)
    assert cluster.receive(leader, node, frame) is None
    assert cluster.run_until(lambda: put.status >= 0, 6_000_000)
    assert put.status == 0


def test_a_read_with_a_ticket_of_another_s(cluster):
    refused(cluster, *pair(cluster, "leader"), READ, struct.pack("<Q", 1 << 40))


def test_answers_that_nobody_waits_for_change_nothing(cluster):
    node, peer = pair(cluster, "follower")
    before = visible(cluster)
    for kind, body in ((GRANTED, struct.pack("<QQ", 999, 1)), (REFUSED, struct.pack("<IQ", 1, 999)),
                       (VOTED, b""), (PING, b"")):
        term = cluster.states()[node]["term"]
        assert cluster.receive(node, peer, build_frame(kind, 0, term, body)) is None
    assert visible(cluster) == before


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_noise_never_stops_a_node(cluster, role):
    """Damaged bodies of every kind: refused, ignored or believed, but the node does not fail."""
    r = random.Random(3)
    node, peer = pair(cluster, role)
    for _ in range(3000):
        kind = r.choice(sorted(BODIES))
        body = bytearray(BODIES[kind])
        for _ in range(r.randrange(4)):
            if body:
                body[r.randrange(min(len(body), 20))] = r.choice((0, 1, 2, 255, r.randrange(256)))
        term = r.choice((0, 1, 1, 1))
        if kind == APPEND and role == "leader":
            term = 0  # of its own term it is proof of two leaders: the node has to stop
        frame = build_frame(kind, r.choice((0, 1, 2, 3, 8)), term, bytes(body))
        cluster.receive(node, peer, frame)
        assert cluster.failed(node) is None, (kind, bytes(body))
