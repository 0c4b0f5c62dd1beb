# Opens, watches and closes the core of one node: the order of recovery, and what Python sees of it.
from dengine._core.turn cimport Turn
from dengine._core.types cimport Io

# `names` are the files in directory/log, `snapshots` those in directory/snapshot; `setup` is a
# storage.Setup. No thread is started.
cdef Turn boot(const Io *io, bytes directory, bint has_meta, list names, list snapshots,
               object setup)
