# Planted bugs, for the tests that show that the tests would notice, and points where a process can
# be made to die or fail: see fault.h.
cdef extern from "fault.h" nogil:
    bint MUTANT(int n)                  # 0, a constant, but in the build "faults"
    unsigned FORMAT(int n)              # n, of the format of a file
    int FAILPOINT(const char *name)     # likewise, or the errno to go on with
