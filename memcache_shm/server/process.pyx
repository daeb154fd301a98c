# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""What the kernel is asked about a whole process: its memory and its cores."""

from libc.errno cimport errno

cdef extern from "<sys/mman.h>" nogil:
    enum:
        MCL_CURRENT
        MCL_FUTURE
    int mlockall(int flags)

cdef extern from "<sys/prctl.h>" nogil:
    enum:
        PR_SET_DUMPABLE
    int prctl(int option, unsigned long argument)


def lock_memory(bint future):
    """Keep this process's memory from being paged out. Raises OSError."""
    if mlockall(MCL_CURRENT | (MCL_FUTURE if future else 0)) < 0:
        raise OSError(errno, "mlockall")


def allow_core_dumps():
    """After a change of user the kernel writes no core of a process, unless that asks for it. Raises OSError."""
    if prctl(PR_SET_DUMPABLE, 1) < 0:
        raise OSError(errno, "prctl(PR_SET_DUMPABLE)")
