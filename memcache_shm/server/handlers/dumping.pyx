# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""What walks through the table: dumps of keys, the histogram of sizes, and the sweep that `lru_crawler crawl` asks for.

A dump is a stream: some buckets a turn, so others are served meanwhile, and as fast as its client reads. Any number may run at a time.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from libc.time cimport time

from memcache_shm.protocol.base64 cimport encode_base64
from memcache_shm.protocol.encoding cimport ENCODED_MAX, is_binary, url_encoded
from memcache_shm.protocol.request cimport (
    CRAWLER_ENABLED, CRAWLER_SLEEP_US, DUMP_ITEMS, DUMP_META, DUMP_MG, OP_CRAWL, OP_CRAWLER, OP_DUMP, OP_SIZES, Parser, Request,
)
from memcache_shm.server.executor cimport Executor, handle
from memcache_shm.server.streams cimport FILLED_LAST, FILLED_LATER, FILLED_MORE, STREAM_BYTES, Stream
from memcache_shm.storage.results cimport NOT_FOUND, OK, POLL, RETIRED, WOULD_BLOCK
from memcache_shm.storage.walk cimport Batch, Walk, Walked, next_batch, unix_expiry

cdef enum:
    LINE_MAX = ENCODED_MAX + 200
    BUCKETS_A_TURN = 512        # full ones make about STREAM_BYTES; empty ones take little time
    ITEMS_BYTES_MAX = 2 << 20   # of one `stats cachedump`, as in memcached
    SIZE_UNIT = 32              # of `stats sizes`, bytes
    SIZE_UNITS = 32768          # the last one is for all from 1 MiB up
    SWEEP_MS = 2                # of `crawl`: what the daemon does by itself anyway, a piece of it at once


cdef struct Dump:
    Stream stream
    Walk walk
    int shmid                   # of the table it walks: one that was made anew in its place is another
    int style
    uint64_t left               # items still to be shown
    uint64_t shown_bytes        # of DUMP_ITEMS
    Batch batch


cdef struct Sizes:
    Stream stream
    Walk walk
    uint32_t printed            # units whose lines are out, once the walk is over
    bint over
    uint32_t count[SIZE_UNITS]
    Batch batch


cdef int put_meta(Executor self, char *at, const Walked *item) noexcept nogil:
    cdef char key[ENCODED_MAX + 1]
    key[url_encoded(key, item.key, item.klen)] = 0
    return snprintf(
        at, LINE_MAX, b"key=%s exp=%lld la=%lld cas=%llu fetch=%s cls=1 size=%llu flags=%u \n", key,
        <long long> unix_expiry(&self.table.view, item.expiry), <long long> time(NULL) - <long long> item.idle_s,
        <unsigned long long> item.cas, <const char *> b"yes" if item.fetched else <const char *> b"no",
        <unsigned long long> item.bytes, item.flags,
    )


cdef int put_mg(char *at, const Walked *item) noexcept nogil:
    cdef size_t size = 3
    memcpy(at, b"mg ", 3)
    if is_binary(item.key, item.klen):
        size += encode_base64(item.key, item.klen, at + size)
        memcpy(at + size, b" b", 2)
        size += 2
    else:
        memcpy(at + size, item.key, item.klen)
        size += item.klen
    memcpy(at + size, b"\r\n", 2)
    return <int> size + 2


cdef int put_item(Executor self, char *at, const Walked *item) noexcept nogil:
    cdef size_t size = 5
    memcpy(at, b"ITEM ", 5)
    memcpy(at + size, item.key, item.klen)
    size += item.klen
    return <int> size + snprintf(at + size, LINE_MAX - size, b" [%u b; %lld s]\r\n", item.vlen,
                                 <long long> unix_expiry(&self.table.view, item.expiry) if item.expiry else <long long> 0)


cdef bint put_batch(Executor self, Dump *dump) noexcept nogil:
    """The lines of a bucket. False: no more are wanted, or memory is out. A line of DUMP_ITEMS has its key as it is, so one with bytes
    that would end the line, or look like the end of the dump, has none."""
    cdef char *at = self.room(dump.batch.n * LINE_MAX)
    cdef uint32_t i
    cdef int size
    if at == NULL:
        return False
    for i in range(dump.batch.n):
        if dump.style == DUMP_META:
            size = put_meta(self, at, &dump.batch.item[i])
        elif dump.style == DUMP_MG:
            size = put_mg(at, &dump.batch.item[i])
        elif is_binary(dump.batch.item[i].key, dump.batch.item[i].klen):
            continue
        else:
            size = put_item(self, at, &dump.batch.item[i])
            dump.shown_bytes += size
            if dump.shown_bytes > ITEMS_BYTES_MAX:
                return False
        at += size
        self.out.end += size
        dump.left -= 1
        if dump.left == 0:
            return False
    return True


cdef int fill_dump(Stream *stream, Executor self) noexcept nogil:
    cdef Dump *dump = <Dump *> stream
    cdef int result = OK
    cdef int _bucket
    for _bucket in range(BUCKETS_A_TURN):
        if self.out.end >= STREAM_BYTES:
            return FILLED_MORE
        result = RETIRED
        if self.table.shmid == dump.shmid:
            result = next_batch(&self.table.view, &dump.walk, &dump.batch, POLL)
        if result == WOULD_BLOCK:
            return FILLED_LATER
        if result != OK or not put_batch(self, dump):
            break
    else:
        return FILLED_MORE
    if result != OK and result != NOT_FOUND:
        self.put(b"SERVER_ERROR dump ended early\r\n", 31)
    elif dump.style == DUMP_MG:
        self.put(b"EN\r\n", 4)
    else:
        self.put(b"END\r\n", 5)
    return FILLED_LAST


cdef void end(Stream *stream, Executor self) noexcept nogil:
    free(stream)


cdef void _dump(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef Dump *dump
    if not self.allows_dump:
        self.say(request, b"CLIENT_ERROR stats cachedump not allowed\r\n" if request.mode == DUMP_ITEMS
                 else b"ERROR metadump not allowed\r\n")
        return
    if request.mode != DUMP_ITEMS and not self.log.shared.crawler:
        self.say(request, b"CLIENT_ERROR lru crawler disabled\r\n")
        return
    if not request.first:                   # a class that has no items
        self.say(request, b"EN\r\n" if request.mode == DUMP_MG else b"END\r\n")
        return
    dump = <Dump *> malloc(sizeof(Dump))
    if dump == NULL:
        self.say(request, b"SERVER_ERROR out of memory for the dump\r\n")
        return
    dump.stream.fill = fill_dump
    dump.stream.end = end
    dump.walk.shard = dump.walk.tries = 0
    dump.walk.at = 0
    dump.shmid = self.table.shmid
    dump.style = request.mode
    dump.left = request.number if request.number else <uint64_t> -1
    dump.shown_bytes = 0
    self.client.outflow = dump


cdef void count_sizes(Sizes *sizes) noexcept nogil:
    cdef uint32_t i
    cdef uint64_t unit
    for i in range(sizes.batch.n):
        unit = (sizes.batch.item[i].bytes - 1) // SIZE_UNIT
        sizes.count[min(unit, <uint64_t> SIZE_UNITS - 1)] += 1


cdef int fill_sizes(Stream *stream, Executor self) noexcept nogil:
    """Count first, then print what was counted."""
    cdef Sizes *sizes = <Sizes *> stream
    cdef char *at
    cdef int result, _bucket
    for _bucket in range(0 if sizes.over else BUCKETS_A_TURN):
        result = next_batch(&self.table.view, &sizes.walk, &sizes.batch, POLL)
        if result == WOULD_BLOCK:
            return FILLED_LATER
        if result != OK:
            sizes.over = True
            break
        count_sizes(sizes)
    while sizes.over and sizes.printed < SIZE_UNITS:
        if self.out.end >= STREAM_BYTES:
            return FILLED_MORE
        if sizes.count[sizes.printed]:
            at = self.room(LINE_MAX)
            if at == NULL:
                return FILLED_LAST
            self.out.end += snprintf(at, LINE_MAX, b"STAT %u %u\r\n", (sizes.printed + 1) * SIZE_UNIT, sizes.count[sizes.printed])
        sizes.printed += 1
    if not sizes.over:
        return FILLED_MORE
    self.put(b"END\r\n", 5)
    return FILLED_LAST


cdef void _sizes(Executor self, Parser *parser, const Request *request) noexcept nogil:
    cdef Sizes *sizes
    if not self.log.shared.sizes:
        self.say(request, b"STAT sizes_status disabled\r\nEND\r\n")
        return
    sizes = <Sizes *> calloc(1, sizeof(Sizes))
    if sizes == NULL:
        self.say(request, b"SERVER_ERROR out of memory writing stats\r\n")
        return
    sizes.stream.fill = fill_sizes
    sizes.stream.end = end
    self.client.outflow = sizes


cdef void _crawl(Executor self, Parser *parser, const Request *request) noexcept nogil:
    if not self.log.shared.crawler:
        self.say(request, b"CLIENT_ERROR lru crawler disabled\r\n")
        return
    if request.first:
        with gil:
            _sweep(self)
    self.say(request, b"OK\r\n")


cdef int _sweep(Executor self) except -1:
    self.table.reclaim(SWEEP_MS / 1000)
    return 0


cdef void _crawler(Executor self, Parser *parser, const Request *request) noexcept nogil:
    if request.mode == CRAWLER_ENABLED:
        if request.number and self.log.shared.crawler:
            self.say(request, b"ERROR failed to start lru crawler thread\r\n")      # memcached's words: it runs already
            return
        self.log.shared.crawler = request.number
    elif request.mode == CRAWLER_SLEEP_US:
        self.log.shared.crawler_sleep_us = request.number
    else:
        self.log.shared.crawler_tocrawl = request.number
    self.say(request, b"OK\r\n")


handle(OP_DUMP, _dump)
handle(OP_SIZES, _sizes)
handle(OP_CRAWL, _crawl)
handle(OP_CRAWLER, _crawler)
