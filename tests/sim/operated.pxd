# The in-memory cluster as its operators and its disks change it.
from tests.sim.network cimport Network


cdef class Operated(Network):
    pass
