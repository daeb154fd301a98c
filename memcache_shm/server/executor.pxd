"""The seam between protocol and storage: execute(request) -> reply bytes in the out buffer."""

cimport cython

from libc.stdint cimport uint64_t
from libc.string cimport memset, strlen

from memcache_shm.protocol.request cimport Parser, Request
from memcache_shm.server.buffers cimport Buffer, Pool
from memcache_shm.server.channels cimport Channels
from memcache_shm.server.connection cimport Connection
from memcache_shm.server.counters cimport Counters, WorkerFigures
from memcache_shm.server.events cimport Events, Writer
from memcache_shm.server.prefixes cimport Prefixes
from memcache_shm.server.subscribers cimport Subscribers
from memcache_shm.storage.results cimport Change
from memcache_shm.storage.table cimport Table


cdef enum:
    OUT_SIZE = 128 << 10        # bytes of the out buffer when nothing large is in it
    OUT_MOST = 16 << 20         # ... that it keeps after a turn


@cython.final
cdef class Executor:
    cdef Table table
    cdef Pool pool                  # of the connections' buffers
    cdef Pool own                   # of the worker's, which others may not use up
    cdef Counters counters
    cdef WorkerFigures *figures     # this worker's
    cdef Connection *client         # whose request is executed
    cdef int which                  # the worker's place
    cdef Events events
    cdef Prefixes prefixes
    cdef Subscribers subscribers
    cdef Channels channels
    cdef Writer log                 # to those events
    cdef uint64_t *wanted           # other than 0: somebody wants to know what is done (see observing.pyx)
    cdef bint allows_flush          # what the command line says of a command
    cdef bint allows_shutdown
    cdef bint allows_debugtime
    cdef bint allows_dump
    cdef bint allows_watch
    cdef bint has_certificates
    cdef bint uses_cas              # False: every item has the CAS id 0, and none is equal to it (-C)
    cdef public object backups      # server.backups.Backups, or None: the command backup is not allowed
    cdef object stats_text          # Callable[[bytes], bytes]: the rare command that runs as Python
    cdef Buffer out                 # replies of the running turn; start is always 0
    cdef size_t mark                # where in `out` the running get line began
    cdef bint unwindable            # everything since `mark` is still in `out`
    cdef bint failed                # out of memory: the connection must be closed
    cdef bint patient               # a lock's owner may only have lost the processor: let it run before saying `blocked`
    cdef bint blocked               # the last request met a lock that is taken: nothing of it was done, execute it later

    cdef void execute(self, Parser *parser, const Request *request) noexcept nogil
    cdef void put(self, const char *text, size_t size) noexcept nogil
    cdef void say_failure(self, const Request *request, int result) noexcept nogil
    cdef void unwind(self) noexcept nogil
    cdef char *room(self, size_t size) noexcept nogil

    cdef inline void shrink(self) noexcept nogil:
        """After a turn: an out buffer that grew for a very large value goes back."""
        if self.out.cap > OUT_MOST and self.out.end == 0:
            self.own.release(&self.out)

    cdef inline void say(self, const Request *request, const char *text) noexcept nogil:
        """A fixed reply, unless the client wants none."""
        if not request.noreply:
            self.put(text, strlen(text))


cdef inline void begin_change(Change *change, const Request *request) noexcept nogil:
    memset(change, 0, sizeof(Change))
    change.key = request.key
    change.klen = request.klen


# What is to be done with a request: the reply, if one is due, goes behind the others in `out`.
ctypedef void (*Handler)(Executor self, Parser *parser, const Request *request) noexcept nogil

cdef int handle(int op, Handler handler) except -1
