# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""The parser for Python: tests, fuzzing and tools feed it bytes and look at the requests."""

from libc.string cimport memset

from memcache_shm.protocol.parser cimport next_request
from memcache_shm.protocol.request cimport (
    CLOSE, NEED_MORE, OP_ARITH, OP_BACKUP, OP_CRAWL, OP_CRAWLER, OP_DEBUGTIME, OP_DELETE, OP_DUMP, OP_FLUSH_ALL, OP_GAT, OP_GET,
    OP_MEMLIMIT, OP_META_ARITH, OP_META_DEBUG, OP_META_DELETE, OP_META_GET, OP_META_NOOP, OP_META_SET, OP_REFRESH, OP_SHUTDOWN,
    OP_SIMPLE_DELETE, OP_SIMPLE_GET, OP_SIMPLE_SET, OP_SIZES, OP_STATS, OP_STORE, OP_SUBSCRIBE, OP_SYNC, OP_TOO_LARGE, OP_TOUCH,
    OP_UNSUBSCRIBE, OP_VERBOSITY, OP_VERSION, OP_WATCH, REPLY, Parser, Request, flag_bit,
)

_OPS = {
    OP_GET: "get", OP_GAT: "gat", OP_STORE: "store", OP_TOO_LARGE: "too_large", OP_DELETE: "delete", OP_ARITH: "arith",
    OP_TOUCH: "touch", OP_FLUSH_ALL: "flush_all", OP_VERSION: "version", OP_VERBOSITY: "verbosity", OP_STATS: "stats",
    OP_SHUTDOWN: "shutdown", OP_DEBUGTIME: "debugtime", OP_MEMLIMIT: "cache_memlimit", OP_SIMPLE_GET: "GET", OP_SIMPLE_SET: "SET",
    OP_SIMPLE_DELETE: "DELETE", OP_META_GET: "mg", OP_META_SET: "ms", OP_META_DELETE: "md", OP_META_ARITH: "ma", OP_META_NOOP: "mn",
    OP_META_DEBUG: "me",
    OP_DUMP: "dump", OP_SIZES: "sizes", OP_CRAWL: "crawl", OP_CRAWLER: "crawler", OP_WATCH: "watch", OP_REFRESH: "refresh_certs",
    OP_SUBSCRIBE: "subscribe", OP_UNSUBSCRIBE: "unsubscribe", OP_SYNC: "sync", OP_BACKUP: "backup",
}
_META = (OP_META_GET, OP_META_SET, OP_META_DELETE, OP_META_ARITH)
_PATTERNS = ("none", "key", "prefix", "too long")
_MODES = ("set", "add", "replace", "append", "prepend", "cas")


cdef class RequestReader:
    """One client's stream: `feed` bytes as they come, in any cutting."""

    cdef Parser _parser
    cdef bytes _pending             # bytes of an incomplete request
    cdef size_t _max_value
    cdef size_t _need               # no progress before so many bytes are pending
    cdef bytes _at_eof
    cdef readonly bint closed       # the stream asked for its end

    def __init__(self, max_value=1 << 20):
        memset(&self._parser, 0, sizeof(Parser))
        self._pending = b""
        self._max_value = max_value
        self._need = 0
        self._at_eof = b""
        self.closed = False

    @property
    def pending(self):
        return len(self._pending)

    @property
    def at_eof(self):
        return self._at_eof

    def feed(self, bytes data):
        self._pending += data
        found = []
        used = 0
        while not self.closed and len(self._pending) - used >= self._need:
            taken, item = self._next(used)
            used += taken
            if item is None:
                break
            found.append(item)
        self._pending = self._pending[used:]
        return found

    cdef tuple _next(self, size_t start):
        """(bytes used, request or ready reply or None)"""
        cdef Request request
        cdef const char *head = <const char *> self._pending + start
        cdef size_t size = len(self._pending) - start
        cdef int step
        step = next_request(&self._parser, head, size, self._max_value, &request)
        self._need = request.need if step == NEED_MORE else 0
        self._at_eof = request.at_eof if request.at_eof != NULL else b""
        if step == NEED_MORE:
            return request.used, None
        if step == CLOSE:
            self.closed = True
            return request.used, ("close",)
        if step == REPLY:
            return request.used, ("reply", request.reply[:request.reply_len], bool(request.unwind))
        return request.used, _describe(&request)


cdef tuple _describe(const Request *request):
    """The name of the command and what it carries."""
    cdef bytes key = request.key[:request.klen] if request.key != NULL else b""
    name = _OPS[request.op]
    if request.op == OP_GET or request.op == OP_GAT:
        return name, key, request.exptime, bool(request.with_cas), bool(request.first), bool(request.last)
    if request.op == OP_SUBSCRIBE or request.op == OP_UNSUBSCRIBE:
        return name, key, _PATTERNS[request.mode], bool(request.first), bool(request.last)
    if request.op == OP_STORE:
        return (_MODES[request.mode], key, request.value[:request.vlen], request.flags, request.exptime, request.number,
                bool(request.noreply))
    if request.op == OP_TOO_LARGE:
        return name, _MODES[request.mode], key, request.vlen, bool(request.noreply)
    if request.op == OP_SIMPLE_SET:
        return name, key, request.value[:request.vlen]
    if request.op == OP_DUMP or request.op == OP_CRAWL:
        return name, request.mode, request.number, bool(request.first)
    if request.op == OP_CRAWLER or request.op == OP_WATCH:
        return name, request.mode, request.number
    if request.op in _META:
        return name, key, *_describe_meta(request)
    if request.op == OP_ARITH:
        return "decr" if request.decr else "incr", key, request.number, bool(request.noreply)
    return name, key, request.exptime, request.number, bool(request.noreply)


cdef tuple _describe_meta(const Request *request):
    """The flags as they came, and what was read of them."""
    cdef bytes words = request.meta.words[:request.meta.words_size] if request.meta.words_size else b""
    read = {}
    for letter, number in (
        (b"T", request.exptime), (b"N", request.meta.birth_exptime), (b"R", request.meta.recache_exptime), (b"C", request.meta.compare),
        (b"E", request.meta.explicit_cas), (b"D", request.meta.delta), (b"J", request.meta.initial), (b"F", request.flags),
    ):
        if request.meta.given & flag_bit(letter[0]):
            read[letter.decode()] = number
    if request.op == OP_META_SET:
        return words, read, _MODES[request.mode], request.value[:request.vlen]
    if request.op == OP_META_ARITH:
        return words, read, "decr" if request.decr else "incr"
    return words, read
