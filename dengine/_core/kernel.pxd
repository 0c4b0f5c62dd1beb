# The real kernel behind the border Io: one thin function per system call.
from dengine._core.types cimport Io

cdef const Io *kernel() noexcept nogil
