# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Who used a semaphore set, by its id: the one question about sets that neither /proc nor sysv_ipc answers."""

cdef extern from "<sys/sem.h>" nogil:
    int semctl(int semid, int semnum, int cmd, ...)
    int GETPID


def users(int semid, int count) -> set[int]:
    """The processes that last changed each of the set's `count` semaphores, its maker included; 0 stands for "never given a value".

    Empty when the set does not exist or may not be asked.
    """
    cdef int i, pid
    pids = set()
    for i in range(count):
        pid = semctl(semid, i, GETPID)
        if pid < 0:
            return set()
        pids.add(pid)
    return pids
