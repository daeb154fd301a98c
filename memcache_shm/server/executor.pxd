"""The seam between protocol and storage: execute(request) -> reply bytes in the out buffer."""

from libc.stdint cimport uint64_t

from memcache_shm.protocol.request cimport Parser, Request
from memcache_shm.server.buffers cimport Buffer, Pool
from memcache_shm.server.counters cimport Counters, WorkerFigures
from memcache_shm.storage.table cimport Table


cdef class Executor:
    cdef Table table
    cdef Pool pool
    cdef Counters counters
    cdef WorkerFigures *figures     # this worker's
    cdef object stats_text          # Callable[[bytes], bytes]: the rare command that runs as Python
    cdef Buffer out                 # replies of the running turn; start is always 0
    cdef size_t mark                # where in `out` the running get line began
    cdef bint unwindable            # everything since `mark` is still in `out`
    cdef bint failed                # out of memory: the connection must be closed
    cdef bint patient               # a lock's owner may only have lost the processor: let it run before saying `blocked`
    cdef bint blocked               # the last request met a lock that is taken: nothing of it was done, execute it later

    cdef void execute(self, Parser *parser, const Request *request) noexcept nogil
    cdef void put(self, const char *text, size_t size) noexcept nogil
    cdef void unwind(self) noexcept nogil
    cdef char *room(self, size_t size) noexcept nogil
