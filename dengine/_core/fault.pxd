# Planted bugs, for the tests that show that the tests would notice: see fault.h.
cdef extern from "fault.h" nogil:
    bint MUTANT(int n)          # 0, a constant, but in the build "faults"
