# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""`channel`: from now on this connection's bytes go through rings in shared memory (see server/channels.pyx)."""

from memcache_shm.protocol.request cimport OP_CHANNEL, Parser, Request
from memcache_shm.server.buffers cimport waiting
from memcache_shm.server.channels cimport NO_MEANS, NOT_LOCAL, TOO_MANY_CHANNELS
from memcache_shm.server.executor cimport Executor, handle
from memcache_shm.storage.rings cimport RING_USUAL, is_ring_size

cdef const char *BAD_SIZE = b"CLIENT_ERROR channel: sizes are powers of two from 4096 to 1048576\r\n"
cdef const char *NOT_OVER_THIS = b"CLIENT_ERROR channel: only over a UNIX socket without TLS\r\n"
cdef const char *HAS_ONE = b"CLIENT_ERROR channel: this is one already\r\n"
cdef const char *NOT_ALONE = b"CLIENT_ERROR channel: replies to earlier requests are on their way; read them first\r\n"
cdef const char *TOO_MANY = b"SERVER_ERROR too many channels (--channels)\r\n"
cdef const char *SHORT = b"SERVER_ERROR no descriptor or memory for a channel\r\n"


cdef void _channel(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef size_t request_bytes = request.number if request.number else RING_USUAL
    cdef size_t reply_bytes = request.vlen if request.vlen else RING_USUAL
    cdef int opened
    if not is_ring_size(request_bytes) or not is_ring_size(reply_bytes):
        self.say(request, BAD_SIZE)
        return
    if self.client != NULL and self.client.channel != NULL:
        self.say(request, HAS_ONE)
        return
    if self.out.end or self.client != NULL and (waiting(&self.client.output) or self.client.subscriber != NULL):
        self.say(request, NOT_ALONE)
        return
    opened = self.channels.open(self.client, request_bytes, reply_bytes)
    if opened == NOT_LOCAL:
        self.say(request, NOT_OVER_THIS)
    elif opened == TOO_MANY_CHANNELS:
        self.say(request, TOO_MANY)
    elif opened == NO_MEANS:
        self.say(request, SHORT)


handle(OP_CHANNEL, _channel)
