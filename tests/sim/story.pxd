from dengine._core.wire cimport Frame

cdef str describe(const Frame *f)               # one frame, in words
