# CRC-32C (Castagnoli) of bytes, in hardware where the CPU has it, chosen once at import.
from libc.stdint cimport uint32_t

# The checksum of n bytes at p that continues `seed` (0 at the start of a chain):
# crc32c(b, crc32c(a, 0)) is the checksum of a + b.
cdef uint32_t crc32c(const void *p, size_t n, uint32_t seed) noexcept nogil
