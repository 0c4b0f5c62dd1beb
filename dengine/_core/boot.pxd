# Opens, watches and closes the core of one node: the order of recovery, and what Python sees of it.
from dengine._core.meta cimport Meta
from dengine._core.recovery cimport Found, Scan
from dengine._core.turn cimport Turn
from dengine._core.types cimport Io

# `names` are the files in directory/log, `snapshots` those in directory/snapshot; `setup` is a
# storage.Setup. No thread is started.
cdef Turn boot(const Io *io, bytes directory, bint has_meta, list names, list snapshots,
               object setup)

# The steps of it, for tools: none of them changes a file of a directory that holds a node.
cdef int open_meta(Meta meta, const Io *io, bytes directory, bint exists, list names,
                   object setup) except -1
cdef Scan read_log(Turn turn, bytes directory, list names, list snapshots, object setup,
                   list notes)
cdef int look(Turn turn, Found found, bytes directory, object setup) except -1
