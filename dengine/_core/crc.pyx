"""CRC-32C: picks the way of computing it that this CPU does best, once, at import.

How it is computed stands in crc32c.h. Nothing here knows what the bytes mean.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

cdef extern from "crc32c.h" nogil:
    ctypedef uint32_t (*crc32c_function)(const void *p, size_t n, uint32_t seed) noexcept nogil
    crc32c_function crc32c_choose()
    uint32_t crc32c_portable(const void *p, size_t n, uint32_t seed)

cdef crc32c_function best = crc32c_choose()


cdef uint32_t crc32c(const void *p, size_t n, uint32_t seed) noexcept nogil:
    return best(p, n, seed)


def checksum(data, uint32_t seed=0, bint portable=False) -> int:
    """The CRC-32C of a bytes-like object that continues `seed`.

    `portable` computes it without the CPU's help, to the same result.
    """
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return (crc32c_portable if portable else best)(view.buf, view.len, seed)
    finally:
        PyBuffer_Release(&view)
