"""Replies that are made bit by bit, for as long as the client takes them: dumps, and what watching clients are told.

A handler hangs a stream on its client; nothing further of that client is parsed before the stream is at its end. `fill` is called once
a turn and puts up to about STREAM_BYTES into the executor's out buffer; while the client does not take them it is not called. Whoever
makes a stream allocates it with `malloc`, the `Stream` first; `end` frees what it holds, itself included. Between two turns the table may
be another one.
"""

from memcache_shm.server.connection cimport Connection
from memcache_shm.server.executor cimport Executor

cdef enum:
    STREAM_BYTES = 64 << 10


cdef enum Filled:
    FILLED_MORE = 0             # there is more: another turn, please
    FILLED_LAST = 1             # that was all
    FILLED_LATER = 2            # a shard's lock is taken: another turn in a moment
    FILLED_IDLE = 3             # nothing to tell until the worker's bell rings; the client's bytes are read and dropped


cdef struct Stream:
    int (*fill)(Stream *self, Executor executor) noexcept nogil
    void (*end)(Stream *self, Executor executor) noexcept nogil


cdef inline int pour(Connection *c, Executor executor) noexcept nogil:
    """A piece of a client's stream, which is gone when it was the last. A Filled."""
    cdef Stream *stream = <Stream *> c.outflow
    cdef int filled = stream.fill(stream, executor)
    executor.blocked = filled == FILLED_LATER
    executor.figures.beats += 1
    if filled == FILLED_LAST:
        cut_off(c, executor)
    return filled


cdef inline void cut_off(Connection *c, Executor executor) noexcept nogil:
    """End a client's stream, if it has one, wherever it stands."""
    cdef Stream *stream = <Stream *> c.outflow
    if stream != NULL:
        c.outflow = NULL
        stream.end(stream, executor)
