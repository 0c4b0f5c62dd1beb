"""Records, commands and configurations against a plain encoder, and whatever is damaged in them."""
import struct
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dengine._core.crc import checksum
from dengine.errors import TooLargeError
from tests.sim import views

OK, END, SHORT, LENGTH, CRC, ORDER, KIND = range(7)
MAX_KEY, MAX_VALUE = 4096, 1 << 20
MAX_RECORD = 32 + MAX_KEY + MAX_VALUE + 256
settings.register_profile("core", derandomize=True, deadline=None, max_examples=200)
settings.load_profile("core")

u64 = st.integers(0, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)


def record(term: int, index: int, kind: int, payload: bytes, crc: int, flags: int = 0,
           zero: int = 0, raw: int = 0) -> bytes:
    body = struct.pack("<QQBBHI", term, index, kind, flags, zero, raw) + payload
    data = struct.pack("<II", 8 + len(body), checksum(body, crc)) + body
    return data + bytes(-len(data) % 8)


# ------------------------------------------------------------------------------------ records
@given(st.integers(1, 2**64 - 1), u64, st.integers(1, 3), st.binary(max_size=100), u32)
def test_a_record_is_what_the_format_says(
        term: int, index: int, kind: int, payload: bytes, crc: int) -> None:
    data = views.encode_record(term, index, kind, payload, crc)
    assert data == record(term, index, kind, payload, crc)
    assert views.check_record(data, index, term, crc) == OK
    assert views.check_record(data + b"behind", index, 0, crc) == OK


def test_a_record_must_continue_the_chain() -> None:
    data = record(5, 9, 2, b"payload", 77)
    assert views.check_record(data, 9, 5, 77) == views.check_record(data, 9, 1, 77) == OK
    assert views.check_record(data, 9, 6, 77) == ORDER             # terms never fall
    assert views.check_record(data, 8, 5, 77) == ORDER
    assert views.check_record(data, 10, 5, 77) == ORDER
    assert views.check_record(data, 9, 5, 78) == CRC
    assert views.check_record(record(0, 9, 2, b"", 77), 9, 0, 77) == ORDER


@pytest.mark.parametrize("size", [0, 1, 7, 8, 40])
def test_every_flipped_bit_of_a_record_is_refused(size: int) -> None:
    data = record(5, 9, 2, b"p" * size, 77)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        padding = bit // 8 >= 32 + size                             # in no checksum, never read
        assert (views.check_record(bytes(damaged), 9, 5, 77) == OK) == padding


@pytest.mark.parametrize("size", [0, 1, 40])
def test_every_truncated_record_is_refused(size: int) -> None:
    data = record(5, 9, 2, b"p" * size, 77)
    for n in range(len(data)):
        assert views.check_record(data[:n], 9, 5, 77) == SHORT


def test_lengths_are_limited() -> None:
    assert views.check_record(bytes(64), 1, 0, 0) == END
    for length in (1, 8, 31, MAX_RECORD + 1, 2**31, 2**32 - 1):
        assert views.check_record(struct.pack("<I", length) + bytes(60), 1, 0, 0) == LENGTH
    data = record(1, 1, 2, bytes(MAX_RECORD - 32), 0)
    assert views.check_record(data, 1, 0, 0) == OK


@pytest.mark.parametrize("fields", [{"kind": 0}, {"kind": 5}, {"kind": 255}, {"flags": 1},
                                    {"zero": 1}, {"raw": 1}])
def test_what_a_newer_version_wrote_is_named_as_such(fields: dict[str, int]) -> None:
    data = record(**{"term": 5, "index": 9, "kind": 2, "payload": b"x", "crc": 7, **fields})
    assert views.check_record(data, 9, 5, 7) == KIND


# ----------------------------------------------------------------------------------- commands
def command(op: int, key: bytes, value: bytes | None, compare: int = 0, revision: int = 0,
            session: tuple[int, int, int] = (0, 0, 0), lease: int = 0) -> bytes:
    data = struct.pack("<BQQQ", op, *session)
    if op in (3, 4):
        data += struct.pack("<BQ", compare, revision)
    if op in (1, 3):
        data += struct.pack("<Q", lease)
    data += struct.pack("<I", len(key)) + key
    if op in (1, 3):
        assert value is not None
        data += struct.pack("<I", len(value)) + value
    return data


@given(st.binary(min_size=1, max_size=50), st.binary(max_size=50), st.integers(0, 1), u64)
def test_a_command_is_what_the_format_says(
        key: bytes, value: bytes, compare: int, revision: int) -> None:
    cases = [
        (views.encode_put(key, value), 1, value, 0, 0),
        (views.encode_delete(key), 2, None, 0, 0),
        (views.encode_put_if(key, value, compare, revision), 3, value, compare, revision),
        (views.encode_delete_if(key, compare, revision), 4, None, compare, revision),
    ]
    for data, op, stored, how, at in cases:
        assert data == command(op, key, stored, how, at)
        assert views.decode_command(data) == (op, 0, 0, 0, how, at, key, stored)


@given(u64, u64, u64)
def test_session_fields_are_read_back(session: int, sequence: int, floor: int) -> None:
    data = command(1, b"k", b"v", session=(session, sequence, floor))
    assert views.decode_command(data)[:4] == (1, session, sequence, floor)
    data = struct.pack("<BQQQQQQ", 16, session, sequence, floor, 1, 2, 3)
    assert views.decode_command(data) == (16, session, sequence, floor, 1, 2, 3, None)


VALID = [command(1, b"key", b"value"), command(2, b"key", None), command(3, b"k", b"v", 1, 7),
         command(4, b"k", None, 0, 9), struct.pack("<BQQQQQQ", 16, 0, 0, 0, 1, 2, 3)]


@pytest.mark.parametrize("data", VALID, ids=lambda d: str(d[0]))
def test_every_truncated_or_longer_command_is_refused(data: bytes) -> None:
    views.decode_command(data)
    for n in range(len(data)):
        with pytest.raises(ValueError, match=r"not a command|newer format"):
            views.decode_command(data[:n])
    with pytest.raises(ValueError, match="not a command"):
        views.decode_command(data + b"\0")


@pytest.mark.parametrize("data", VALID, ids=lambda d: str(d[0]))
def test_a_damaged_command_never_reads_beyond_its_end(data: bytes) -> None:
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            *_, key, value = views.decode_command(bytes(damaged))
        except ValueError:
            continue
        if damaged[0] != 16:
            assert len(key) + len(value or b"") <= len(data)


KEYED = {64 + op for op in (1, 2, 3, 4, 16)}


def test_a_command_under_an_idempotency_key() -> None:
    """Hashes of key and request stand before the fields; a session is never registered so."""
    hashes = struct.pack("<QQQ", 5, 6, 7)
    plain = command(3, b"key", b"value", revision=9, session=(1, 2, 3))
    keyed = bytes([plain[0] + 64]) + plain[1:25] + hashes + plain[25:]
    assert views.decode_command(keyed) == views.decode_command(plain)
    assert views.idempotency_of(keyed) == (hashes[:16], 7)
    assert views.idempotency_of(plain) is None
    for n in range(len(keyed)):
        with pytest.raises(ValueError, match="not a command"):
            views.decode_command(keyed[:n])
    with pytest.raises(ValueError, match="not a command"):
        views.decode_command(struct.pack("<BQQQ", 64 + 16, 0, 0, 0) + bytes(24))


def test_unknown_ops_are_of_a_newer_format() -> None:
    for op in set(range(256)) - {1, 2, 3, 4, 16, *KEYED}:
        with pytest.raises(ValueError, match="newer format"):
            views.decode_command(struct.pack("<BQQQ", op, 0, 0, 0) + bytes(30))


def test_fields_of_a_command_are_checked() -> None:
    bad = [command(1, b"", b"v"), command(1, b"k" * (MAX_KEY + 1), b"v"), command(2, b"", None),
           command(1, b"k", b"v" * (MAX_VALUE + 1)), command(1, b"k", b"v", lease=1),
           command(3, b"k", b"v", compare=2), command(4, b"k", None, compare=255)]
    for data in bad:
        with pytest.raises(ValueError, match="not a command"):
            views.decode_command(data)


def test_limits_of_keys_and_values() -> None:
    views.encode_put(b"k" * MAX_KEY, b"v" * MAX_VALUE)
    for key, value in [(b"", b"v"), (b"k" * (MAX_KEY + 1), b"v"), (b"k", b"v" * (MAX_VALUE + 1))]:
        with pytest.raises(TooLargeError, match="nothing was written"):
            views.encode_put(key, value)
        with pytest.raises(TooLargeError):
            views.encode_put_if(key, value, 0, 0)
    for key in (b"", b"k" * (MAX_KEY + 1)):
        with pytest.raises(TooLargeError):
            views.encode_delete(key)
        with pytest.raises(TooLargeError):
            views.encode_delete_if(key, 0, 0)
    for wrong in (lambda: views.encode_put(None, b""), lambda: views.encode_put(b"k", None),
                  lambda: views.encode_delete(None), lambda: views.encode_delete("k")):
        with pytest.raises(TypeError):
            wrong()


# ------------------------------------------------------------------------------ configurations
Row = tuple[int, int, int, bytes]
rows = st.lists(st.tuples(st.integers(1, 2**64 - 1), u64, st.sampled_from([1, 2, 3, 4, 6]),
                          st.binary(max_size=255)),
                min_size=1, max_size=16, unique_by=lambda row: row[0]).map(sorted)


def configuration(members: list[Row], promise: int, version: int = 1) -> bytes:
    return struct.pack("<HHI", version, len(members), promise) + b"".join(
        struct.pack("<QQBH", *row[:3], len(row[3])) + row[3] for row in members)


@given(rows, u32)
def test_a_configuration_is_what_the_format_says(members: list[Row], promise: int) -> None:
    data = configuration(members, promise)
    assert views.build_members(members, promise) == data
    assert views.roundtrip_members(data) == data


def refused(data: bytes) -> bool:
    try:
        views.roundtrip_members(data)
    except ValueError:
        return True
    return False


MEMBERS: list[Row] = [(1, 11, 1, b"a:1"), (2, 12, 2, b"b:22"), (7, 17, 4, b"")]


def test_every_truncated_or_longer_configuration_is_refused() -> None:
    data = configuration(MEMBERS, 600)
    assert not refused(data)
    assert all(refused(data[:n]) for n in range(len(data)))
    assert refused(data + b"\0")


def test_a_damaged_configuration_is_refused_or_read_as_it_stands() -> None:
    data = configuration(MEMBERS, 600)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        if not refused(bytes(damaged)):
            assert views.roundtrip_members(bytes(damaged)) == damaged


def test_fields_of_a_configuration_are_checked() -> None:
    a, b = (1, 1, 1, b"a"), (2, 2, 1, b"b")
    bad = [[], [b, a], [a, a], [(0, 1, 1, b"a")], [(i, i, 1, b"") for i in range(1, 18)],
           [(1, 1, 0, b"a")], [(1, 1, 8, b"a")], [(1, 1, 5, b"a")]]
    assert all(refused(configuration(members, 600)) for members in bad)
    assert all(refused(configuration([a, b], 600, version)) for version in (0, 2))
    with pytest.raises(ValueError, match="255 bytes"):
        views.build_members([(1, 1, 1, b"x" * 256)], 600)
    with pytest.raises(ValueError, match="too many"):
        views.build_members([(i, i, 1, b"") for i in range(1, 18)], 600)


def test_every_combination_of_flags_is_known_or_refused() -> None:
    for first, second in product(range(256), (1, 3)):
        known = first in (1, 2, 3, 4, 6, 12, 14)    # 8 goes with 4
        assert refused(configuration([(1, 1, first, b""), (2, 2, second, b"")], 1)) != known
