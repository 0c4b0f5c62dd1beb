# Arrays that grow.

# `array`, moved to where it has room for `needed` elements of `size` bytes: `capacity`, at first
# `first`, is doubled until they fit.
cdef void *grown(void *array, size_t needed, size_t *capacity, size_t size,
                 size_t first) except NULL
