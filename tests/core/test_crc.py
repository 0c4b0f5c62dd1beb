"""CRC-32C against published vectors and a bit-by-bit oracle, by both ways of computing it."""
import random

import pytest

from dengine._core.crc import checksum

POLYNOMIAL = 0x82F63B78
DATA = random.Random(3720).randbytes(16_384)
WAYS = pytest.mark.parametrize("portable", [False, True])


def bit_by_bit(data: bytes, seed: int = 0) -> int:
    crc = ~seed & 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)
    return ~crc & 0xFFFFFFFF


RFC_3720_READ_COMMAND = bytes.fromhex(
    "01c00000 00000000 00000000 00000000 14000000 00000400 00000014 00000018"
    "28000000 00000000 02000000 00000000"
)


@WAYS
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"a", 0xC1D04330),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),                # RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
        (RFC_3720_READ_COMMAND, 0xD9963A56),
    ],
)
def test_published_vectors(data: bytes, expected: int, portable: bool) -> None:
    assert checksum(data, portable=portable) == expected
    assert bit_by_bit(data) == expected


def test_both_ways_agree_at_every_length_and_offset() -> None:
    view = memoryview(DATA)
    for size in range(1101):
        for offset in range(8):
            part = view[offset:offset + size]
            assert checksum(part, size) == checksum(part, size, portable=True)


@pytest.mark.parametrize("size", [3071, 3072, 3073, 6144, 6144 + 192 + 13, 16_384])
def test_long_streams(size: int) -> None:
    expected = bit_by_bit(DATA[:size], 0xDEADBEEF)
    assert checksum(DATA[:size], 0xDEADBEEF) == expected
    assert checksum(DATA[:size], 0xDEADBEEF, portable=True) == expected


@WAYS
def test_a_checksum_continues_its_seed(portable: bool) -> None:
    whole = checksum(DATA, portable=portable)
    for cut in (0, 1, 7, 8, 191, 192, 1000, 3072, 16_383, 16_384):
        first = checksum(DATA[:cut], portable=portable)
        assert checksum(DATA[cut:], first, portable=portable) == whole


def test_any_changed_bit_changes_the_checksum() -> None:
    record = bytearray(DATA[:300])
    expected = checksum(record)
    for bit in range(8 * len(record)):
        record[bit // 8] ^= 1 << bit % 8
        assert checksum(record) != expected
        record[bit // 8] ^= 1 << bit % 8


def test_refuses_what_is_not_bytes() -> None:
    with pytest.raises(TypeError):
        checksum("text")  # type: ignore[arg-type]
