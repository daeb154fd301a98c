# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""`backup`: another process writes the file (see backups.py); its end is the reply.

Until then the client has a stream without a byte, which is asked once a millisecond, as clients are who wait for a lock, and ends the
process when the worker leaves. That a client has gone away is found out by the reply: what it has asked for is done.
"""

import logging

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport free, malloc

from memcache_shm.protocol.request cimport OP_BACKUP, Parser, Request
from memcache_shm.server.executor cimport Executor, handle
from memcache_shm.server.streams cimport FILLED_LAST, FILLED_LATER, Stream

cdef object log = logging.getLogger(__name__)

cdef const char *NOT_ALLOWED = b"CLIENT_ERROR backup not allowed; start the daemon with --backup-dir DIR\r\n"
cdef const char *NO_ROOM = b"SERVER_ERROR out of memory for the backup\r\n"
cdef const char *FAILED = b"SERVER_ERROR backup failed, see the log\r\n"


cdef struct Running:
    Stream stream
    PyObject *backup            # a backups.Backup, a reference of its own


cdef int fill(Stream *stream, Executor self) noexcept with gil:
    cdef bytes reply
    try:
        reply = (<object> (<Running *> stream).backup).reply()
    except Exception:
        log.exception("backup failed")
        reply = FAILED
    if reply is None:
        return FILLED_LATER
    self.put(reply, len(reply))
    return FILLED_LAST


cdef void end(Stream *stream, Executor self) noexcept with gil:
    cdef object backup = <object> (<Running *> stream).backup
    Py_DECREF(backup)
    free(stream)
    try:
        self.backups.forget(backup)
    except Exception:
        log.exception("backup failed")


cdef void _backup(Executor self, Parser *parser, const Request *request) noexcept nogil:
    with gil:
        _begin(self, request)


cdef int _begin(Executor self, const Request *request) noexcept:
    """Start it, or say why not."""
    cdef Running *running
    cdef bytes refusal
    if self.backups is None:
        self.say(request, NOT_ALLOWED)
        return 0
    running = <Running *> malloc(sizeof(Running))
    if running == NULL:
        self.say(request, NO_ROOM)
        return 0
    try:
        begun = self.backups.start(request.key[:request.klen], self.client.listener)
    except Exception:
        log.exception("backup failed")
        begun = FAILED
    if isinstance(begun, bytes):
        free(running)
        refusal = begun
        self.put(refusal, len(refusal))
        return 0
    Py_INCREF(begun)
    running.stream.fill = fill
    running.stream.end = end
    running.backup = <PyObject *> begun
    self.client.outflow = running
    return 0


handle(OP_BACKUP, _backup)
