"""System V objects of a table and the view onto them (see segment.pyx)."""

from memcache_shm.storage.view cimport View

cdef int open_view(View *v, geometry, int shmid, int semid, bint readonly) except -1
cdef void close_view(View *v) noexcept
