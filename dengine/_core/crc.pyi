from typing_extensions import Buffer

def checksum(data: Buffer, seed: int = 0, portable: bool = False) -> int:
    """The CRC-32C of a bytes-like object that continues `seed`.

    `portable` computes it without the CPU's help, to the same result.
    """
