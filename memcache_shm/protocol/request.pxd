"""One parsed request, and what a parser remembers between two calls: plain C structs, no behaviour."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef enum Step:             # what next_request() found at the head of the bytes
    NEED_MORE = 0           # nothing complete; Request.used bytes may be dropped all the same
    REQUEST = 1             # Request is filled: execute it
    REPLY = 2               # answer Request.reply, there is nothing to execute
    CLOSE = 3               # close the connection without a reply


cdef enum Op:               # the index of a request in the executor's table
    OP_GET = 0              # one key of a get or gat line; Request.first and last frame the line
    OP_GAT = 1
    OP_STORE = 2            # Request.mode says which of the six
    OP_TOO_LARGE = 3        # a storage command above the limit: answer, and drop the old value where mode is SET
    OP_DELETE = 4
    OP_ARITH = 5
    OP_TOUCH = 6
    OP_FLUSH_ALL = 7
    OP_VERSION = 8
    OP_VERBOSITY = 9
    OP_STATS = 10           # Request.key is the rest of the line
    OP_SHUTDOWN = 11        # Request.key is the rest of the line
    OP_MEMLIMIT = 12
    OP_DEBUGTIME = 13       # Request.exptime is by how many seconds
    OP_SIMPLE_GET = 14
    OP_SIMPLE_SET = 15
    OP_SIMPLE_DELETE = 16
    OP_META_GET = 17
    OP_META_SET = 18
    OP_META_DELETE = 19
    OP_META_ARITH = 20
    OP_META_NOOP = 21
    OP_META_DEBUG = 22
    OP_DUMP = 23            # Request.mode is a DumpStyle; number: most items, 0 = all; first: whether the one class there is is meant
    OP_SIZES = 24
    OP_CRAWL = 25           # sweep dead items out now; Request.first as above
    OP_CRAWLER = 26         # Request.mode is a CrawlerSetting, number its value
    OP_WATCH = 27           # Request.number: the Kinds
    OP_REFRESH = 28         # read the certificates again
    OP_SUBSCRIBE = 29       # one pattern of a line: Request.mode is a PatternKind; first and last frame the line
    OP_UNSUBSCRIBE = 30
    OP_SYNC = 31
    OP_BACKUP = 32          # Request.key is the file's name
    OP_CHANNEL = 33         # Request.number and vlen: bytes of the rings of requests and replies, 0: as usual
    OP_COUNT = 34


cdef enum PatternKind:      # what Request.key is
    PATTERN_NONE = 0        # nothing: the line ended without one
    PATTERN_KEY = 1         # that very key
    PATTERN_PREFIX = 2      # what keys begin with; its `*` is not part of it
    PATTERN_TOO_LONG = 3    # a word that is neither: the line ends here, what is left of it is dropped


cdef enum DumpStyle:
    DUMP_META = 0           # lru_crawler metadump
    DUMP_MG = 1             # lru_crawler mgdump
    DUMP_ITEMS = 2          # stats cachedump


cdef enum CrawlerSetting:
    CRAWLER_ENABLED = 0
    CRAWLER_SLEEP_US = 1
    CRAWLER_TOCRAWL = 2


cdef enum Kind:             # of what a client may watch
    WATCH_FETCHERS = 1
    WATCH_MUTATIONS = 2
    WATCH_EVICTIONS = 4
    WATCH_CONNEVENTS = 8
    WATCH_DELETIONS = 16
    WATCH_NOTHING = 32      # memcached's kinds that never happen here


cdef enum StoreMode:        # storage.table's numbers; a test compares them, since this layer does not import that one
    MODE_SET = 0
    MODE_ADD = 1
    MODE_REPLACE = 2
    MODE_APPEND = 3
    MODE_PREPEND = 4
    MODE_CAS = 5


cdef enum Mode:             # where in the stream a parser stands
    AT_LINE = 0             # at the first byte of a command
    IN_KEYS = 1             # in the key list of a get line
    IN_PATTERNS = 2         # in the pattern list of a subscribe or unsubscribe line; up to here something is read
    SWALLOWING = 3          # in a value that nobody wants
    SKIPPING_LINE = 4       # in a line that nobody wants
    AFTER_DATA = 5          # after data of the simple dialect: one newline belongs to it


cdef enum:
    DECODED_MAX = 192       # bytes of a key whose base64 has at most 250


cdef struct Meta:           # what the flags of a meta command say; where a flag was not given its field means nothing
    uint64_t given          # which flags were: see flag_bit
    const char *words       # the flags as they came: their order is that of the reply
    size_t words_size
    uint64_t compare        # C
    uint64_t explicit_cas   # E
    uint64_t delta          # D; 1 without
    uint64_t initial        # J; 0 without
    int64_t birth_exptime   # N
    int64_t recache_exptime  # R
    bint touches_first      # T stands before R
    bint touches_last       # T stands behind N
    char decoded[DECODED_MAX]   # where Request.key leads when it came as base64


cdef inline uint64_t flag_bit(char letter) noexcept nogil:
    return <uint64_t> 1 << (letter & 63)


cdef struct Request:
    # Pointers lead into the caller's bytes, valid until the caller moves them; the key of a meta command may lead into the request.
    const char *key
    const char *value
    const char *reply       # with REPLY: the text
    const char *at_eof      # with NEED_MORE: the reply that is due if the peer closes its side now, or NULL
    size_t used             # bytes at the head of the input that are done with
    size_t need             # with NEED_MORE: no progress before so many bytes are there; 0 unknown
    size_t vlen
    size_t reply_len
    int64_t exptime         # protocol's exptime, seconds
    uint64_t number         # CAS id, delta, verbosity level, megabytes
    uint32_t flags
    uint8_t klen            # 0..250; of OP_STATS: of the sub-command
    uint8_t op
    uint8_t mode            # StoreMode of OP_STORE, OP_META_SET and OP_TOO_LARGE
    bint noreply
    bint decr               # OP_ARITH, OP_META_ARITH
    bint with_cas           # OP_GET, OP_GAT: the CAS id is part of the reply
    bint first              # OP_GET, OP_GAT, OP_SUBSCRIBE, OP_UNSUBSCRIBE: the first key of its line
    bint last               # ... the last key of its line; klen is 0 when it had no key left
    bint unwind             # REPLY: replaces what the line has brought so far, as far as that was not yet sent
    Meta meta               # OP_META_*; the last field, since others do not even clear it


cdef struct Parser:         # a session's own; all zeros is the start
    uint64_t swallow        # bytes still to drop in SWALLOWING
    int64_t exptime         # of the gat line being read
    uint8_t mode            # enum Mode
    uint8_t op              # OP_GET or OP_GAT of the get line being read, OP_SUBSCRIBE or OP_UNSUBSCRIBE of the pattern line
    bint with_cas
    bint first              # no key of the line was handed out yet
    bint newline            # SWALLOWING ends in AFTER_DATA
    bint started            # the connection's first byte was seen
