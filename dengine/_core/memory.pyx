"""Arrays that grow: how fast, and what happens when memory is out."""
from libc.stdlib cimport realloc


cdef void *grown(void *array, size_t needed, size_t *capacity, size_t size,
                 size_t first) except NULL:
    cdef size_t wider = capacity[0] if capacity[0] else first
    cdef void *moved
    while wider < needed:
        wider *= 2
    if wider == capacity[0]:
        return array
    moved = realloc(array, wider * size)
    if moved == NULL:
        raise MemoryError
    capacity[0] = wider
    return moved
