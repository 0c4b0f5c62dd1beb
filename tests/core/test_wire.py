"""Frames: every kind, and whatever a broken or hostile peer makes of them."""
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dengine._core.crc import checksum
from tests.sim import views

OK, PART, LENGTH, CRC, UNKNOWN = range(5)
KINDS = range(1, 18)
(HELLO, VOTE, VOTED, APPEND, HEARD, DURABLE, FORWARD, REFUSED, READ, GRANTED, PING, BYE,
 OFFER, FETCH, PIECE, TIMEOUT_NOW, NAMED) = KINDS
FRAME_MAX = (1 << 20) + 32 + 4096 + (1 << 20) + 256 + 4096
settings.register_profile("core", derandomize=True, deadline=None, max_examples=200)
settings.load_profile("core")

BODIES = {
    HELLO: struct.pack("<HQQQQQQQQ", 1, 7, 1, 9, 2, 40, 5, 99, 3),
    VOTE: struct.pack("<QQ", 40, 3),
    VOTED: b"",
    APPEND: struct.pack("<QQIQQQI", 40, 3, 99, 38, 5, 47, 2) + b"two records, unread here",
    HEARD: struct.pack("<QQQ", 5, 40, 3),
    DURABLE: struct.pack("<Q", 40),
    TIMEOUT_NOW: struct.pack("<QQ", 40, 3),
}
FIELDS = {
    HELLO: (1, 7, 1, 9, 2, 40, 5, 99, 3),
    VOTE: (40, 3, 0),
    VOTED: (0, 0, 0),
    APPEND: (40, 3, 99, 38, 5, 47, 2, b"two records, unread here"),
    HEARD: (40, 3, 5),
    DURABLE: (40, 0, 0),
    TIMEOUT_NOW: (40, 3, 0),
}


def frame(kind: int, flags: int, term: int, body: bytes, zero: int = 0) -> bytes:
    rest = struct.pack("<BBHQ", kind, flags, zero, term) + body
    return struct.pack("<II", 4 + len(rest), checksum(rest)) + rest


@given(st.sampled_from(KINDS), st.integers(0, 255), st.integers(0, 2**64 - 1),
       st.binary(max_size=300), st.binary(max_size=40))
def test_a_frame_is_what_the_format_says(
        kind: int, flags: int, term: int, body: bytes, behind: bytes) -> None:
    data = frame(kind, flags, term, body)
    assert views.build_frame(kind, flags, term, body) == data
    assert views.check_frame(data + behind) == (OK, kind, flags, term, body, len(data))


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_frame_needs_more_bytes(kind: int) -> None:
    data = frame(kind, 0, 5, BODIES.get(kind, b"body"))
    for n in range(len(data)):
        fault, *_, used = views.check_frame(data[:n])
        assert (fault, used) == (PART, len(data) if n >= 4 else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_is_refused(kind: int) -> None:
    data = frame(kind, 1, 5, BODIES.get(kind, b"body"))
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        fault = views.check_frame(bytes(damaged))[0]
        assert fault != OK
        if bit >= 32:
            assert fault == CRC
        assert views.decode_fields(bytes(damaged)) is None


def test_lengths_are_limited() -> None:
    for length in (0, 1, 15, FRAME_MAX + 1, 2**31, 2**32 - 1):
        assert views.check_frame(struct.pack("<I", length) + bytes(60))[0] == LENGTH
    assert views.check_frame(struct.pack("<I", FRAME_MAX) + bytes(60))[::5] == (PART, FRAME_MAX + 4)
    body = bytes(FRAME_MAX - 16)
    assert views.check_frame(frame(FORWARD, 0, 1, body))[0] == OK


def test_what_another_version_sends_is_named_as_such() -> None:
    for kind in set(range(256)) - set(KINDS):
        assert views.check_frame(frame(kind, 0, 1, b""))[0] == UNKNOWN
    assert views.check_frame(frame(PING, 0, 1, b"", zero=1))[0] == UNKNOWN


@pytest.mark.parametrize("kind", sorted(BODIES))
def test_fields_are_read_back(kind: int) -> None:
    assert views.decode_fields(frame(kind, 0, 5, BODIES[kind])) == FIELDS[kind]


@pytest.mark.parametrize("kind", sorted(BODIES))
def test_every_shorter_or_longer_body_is_refused(kind: int) -> None:
    body = BODIES[kind]
    fixed = 40 if kind == APPEND else len(body)
    for n in range(fixed):
        assert views.decode_fields(frame(kind, 0, 5, body[:n])) is None
    if kind != APPEND:                          # which ends with records; the turn counts them
        assert views.decode_fields(frame(kind, 0, 5, body + b"\0")) is None


def test_a_handshake_of_another_version_may_be_longer() -> None:
    """So that the answer can name both versions."""
    body = struct.pack("<H", 2) + BODIES[HELLO][2:] + b"more"
    assert views.decode_fields(frame(HELLO, 0, 0, body)) == (2, *FIELDS[HELLO][1:])
    assert views.decode_fields(frame(HELLO, 0, 0, BODIES[HELLO][:-1])) is None


@pytest.mark.parametrize("kind", [VOTE, VOTED, APPEND, HEARD, DURABLE])
def test_term_0_is_refused(kind: int) -> None:
    assert views.decode_fields(frame(kind, 0, 0, BODIES[kind])) is None


@pytest.mark.parametrize(("prev_term", "last", "count", "records"), [
    (6, 41, 1, b"record"),                      # prev of a later term than the leader's
    (3, 41, 0, b"record"), (3, 41, 1, b""),     # a count that does not fit
    (3, 39, 0, b""), (3, 40, 1, b"record"),     # beyond the leader's last entry
])
def test_an_impossible_append_is_refused(
        prev_term: int, last: int, count: int, records: bytes) -> None:
    body = struct.pack("<QQIQQQI", 40, prev_term, 99, 38, 5, last, count) + records
    assert views.decode_fields(frame(APPEND, 0, 5, body)) is None


def test_an_append_without_entries_is_a_heartbeat() -> None:
    body = struct.pack("<QQIQQQI", 40, 3, 99, 38, 5, 40, 0)
    assert views.decode_fields(frame(APPEND, 0, 5, body)) == (40, 3, 99, 38, 5, 40, 0, b"")


@given(st.sampled_from(KINDS), st.integers(0, 255), st.integers(0, 2**64 - 1),
       st.binary(max_size=120))
def test_no_body_crashes_a_decoder(kind: int, flags: int, term: int, body: bytes) -> None:
    fields = views.decode_fields(frame(kind, flags, term, body))
    assert fields is None or kind in BODIES


@given(st.binary(max_size=80))
def test_noise_is_no_frame(noise: bytes) -> None:
    assert views.check_frame(noise)[0] != OK
    assert views.decode_fields(noise) is None
