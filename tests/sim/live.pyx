"""The blocks of memory that are alive in a debug build, by the function that allocated them."""
from libc.stdint cimport int64_t

cdef extern from "native.h" nogil:
    """
    #ifdef DENGINE_DEBUG
    #define IS_COUNTED 1
    #else
    #define IS_COUNTED 0
    #endif
    """
    bint IS_COUNTED
    struct live_site:
        const char *file
        const char *function
        int64_t blocks
        live_site *next
    live_site *live_sites()

COUNTED = bool(IS_COUNTED)


def blocks() -> dict[str, int]:
    """function -> blocks; those without any are left out."""
    cdef live_site *s = live_sites()
    cdef dict found = {}
    while s != NULL:
        if s.blocks:
            name = f"{name_of(s.file)}: {name_of(s.function)}"
            found[name] = found.get(name, 0) + s.blocks
        s = s.next
    return found


cdef str name_of(const char *full):
    return full.decode().rpartition("/")[2]
