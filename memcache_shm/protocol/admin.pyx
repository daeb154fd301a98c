# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""memcached's commands about the cache as a whole: stats, dumps of keys, watching, and the knobs of its slabs and LRU.

What has no counterpart here - slab pages, the LRU's segments, the maintainer's threads - is checked and answered as memcached 1.6.18
does it, and changes nothing. All items are in class 1, the only one there is.
"""

from libc.stdint cimport INT32_MAX, INT32_MIN, UINT32_MAX, int64_t, uint8_t, uint64_t
from libc.stdlib cimport strtod
from libc.string cimport memcpy

from memcache_shm.protocol.commands cimport ANY_NUMBER, KEY_MAX, Command, Line, answer, register
from memcache_shm.protocol.request cimport (
    CRAWLER_ENABLED, CRAWLER_SLEEP_US, CRAWLER_TOCRAWL, DUMP_ITEMS, DUMP_META, DUMP_MG, OP_BACKUP, OP_CHANNEL, OP_CRAWL, OP_CRAWLER,
    OP_DUMP, OP_SIZES, OP_STATS, OP_WATCH, REQUEST, WATCH_CONNEVENTS, WATCH_DELETIONS, WATCH_EVICTIONS, WATCH_FETCHERS, WATCH_MUTATIONS,
    WATCH_NOTHING, Parser, Request,
)
from memcache_shm.protocol.text cimport Token, is_word, parse_i64, parse_u64

cdef enum:
    CLASSES = 64            # memcached's number of slab classes; 1 to 63 are in use there
    SLEEP_MAX_US = 1000000
    MOST_PERCENT = 80       # of the hot and the warm segment together
    NUMBER_TEXT = 32        # bytes of a number with a point
    FILE_NAME_MAX = 200     # bytes: whoever writes the file needs some more for a temporary name (NAME_MAX is 255)

cdef const char *ERROR = b"ERROR\r\n"
cdef const char *DONE = b"OK\r\n"
cdef const char *BAD_LINE = b"CLIENT_ERROR bad command line format\r\n"
cdef const char *BAD_CLASS = b"BADCLASS invalid class id\r\n"
cdef const char *BAD_FILE = b"CLIENT_ERROR bad file name: 1 to 200 printable ASCII characters without a slash, the first no dot\r\n"


cdef bint _parse_float(const Token *token, double *out) noexcept nogil:
    cdef char text[NUMBER_TEXT]
    cdef char *end
    if token.len == 0 or token.len >= NUMBER_TEXT:
        return False
    memcpy(text, token.at, token.len)
    text[token.len] = 0
    out[0] = strtod(text, &end)
    return end == text + token.len


cdef bint _read_classes(const Token *token, bint *ours) noexcept nogil:
    """`all`, `hash`, or numbers with commas between; `ours`: class 1 is among them. False: no class."""
    cdef const char *end = token.at + token.len
    cdef Token part
    cdef uint64_t number
    ours[0] = is_word(token, b"all", 3) or is_word(token, b"hash", 4)
    if ours[0]:
        return True
    part.at = token.at
    while part.at <= end:
        part.len = 0
        while part.at + part.len < end and part.at[part.len] != c',':
            part.len += 1
        if part.len and (not parse_u64(&part, &number) or not 0 < number < CLASSES):
            return False
        ours[0] = ours[0] or (part.len != 0 and number == 1)
        part.at += part.len + 1
    return True


cdef int read_stats(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """stats [group [...]]: the words are left to whoever prints the figures; what walks through the table is apart."""
    if line.count == 0:
        return REQUEST
    if is_word(&line.args[0], b"cachedump", 9):
        return _read_cachedump(line, request)
    if is_word(&line.args[0], b"sizes", 5):
        request.op = OP_SIZES
        return REQUEST
    request.key = line.args[0].at
    request.klen = <uint8_t> min(line.args[line.count - 1].at + line.args[line.count - 1].len - request.key, KEY_MAX)
    return REQUEST


cdef int _read_cachedump(const Line *line, Request *request) noexcept nogil:
    """stats cachedump <class> <most items, 0 for all>"""
    cdef uint64_t number
    if line.count < 3:
        return answer(request, b"CLIENT_ERROR bad command line\r\n")
    if not parse_u64(&line.args[1], &number) or not parse_u64(&line.args[2], &request.number):
        return answer(request, BAD_LINE)
    if number >= CLASSES:
        return answer(request, b"CLIENT_ERROR Illegal slab id\r\n")
    request.op = OP_DUMP
    request.mode = DUMP_ITEMS
    request.first = number == 1
    return REQUEST


cdef int read_lru_crawler(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """lru_crawler enable|disable, sleep <us>, tocrawl <items>, crawl|metadump|mgdump <classes>"""
    cdef const Token *word = &line.args[0]
    if line.count == 1 and (is_word(word, b"enable", 6) or is_word(word, b"disable", 7)):
        request.op = OP_CRAWLER
        request.mode = CRAWLER_ENABLED
        request.number = is_word(word, b"enable", 6)
        return REQUEST
    if line.count != 2:
        return answer(request, ERROR)
    if is_word(word, b"sleep", 5) or is_word(word, b"tocrawl", 7):
        return _read_crawler_setting(word, &line.args[1], request)
    if is_word(word, b"crawl", 5):
        request.op = OP_CRAWL
    elif is_word(word, b"metadump", 8):
        request.op = OP_DUMP
        request.mode = DUMP_META
    elif is_word(word, b"mgdump", 6):
        request.op = OP_DUMP
        request.mode = DUMP_MG
    else:
        return answer(request, ERROR)
    return REQUEST if _read_classes(&line.args[1], &request.first) else answer(request, BAD_CLASS)


cdef int _read_crawler_setting(const Token *word, const Token *value, Request *request) noexcept nogil:
    request.op = OP_CRAWLER
    request.mode = CRAWLER_SLEEP_US if word.len == 5 else CRAWLER_TOCRAWL
    if not parse_u64(value, &request.number) or request.number > UINT32_MAX:
        return answer(request, BAD_LINE)
    if request.mode == CRAWLER_SLEEP_US and request.number > SLEEP_MAX_US:
        return answer(request, b"CLIENT_ERROR sleep must be one second or less\r\n")
    return REQUEST


cdef int read_slabs(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """slabs reassign <from> <to>, automove <0|1|2>: there are no pages to move."""
    if line.count == 3 and is_word(&line.args[0], b"reassign", 8):
        return _read_reassign(line, request)
    if line.count < 2 or not is_word(&line.args[0], b"automove", 8):
        return answer(request, ERROR)
    return _read_automove(line, request)


cdef int _read_reassign(const Line *line, Request *request) noexcept nogil:
    cdef int64_t source, target
    if not parse_i64(&line.args[1], &source) or not parse_i64(&line.args[2], &target):
        return answer(request, BAD_LINE)
    if not (INT32_MIN <= source <= INT32_MAX and INT32_MIN <= target <= INT32_MAX):
        return answer(request, BAD_LINE)
    if source == target:
        return answer(request, b"SAME src and dst class are identical\r\n")
    if not (0 <= source < CLASSES and 0 <= target < CLASSES):
        return answer(request, b"BADCLASS invalid src or dst class id\r\n")
    return answer(request, b"NOSPARE source class has no spare pages\r\n")


cdef int _read_automove(const Line *line, Request *request) noexcept nogil:
    cdef uint64_t level
    cdef double ratio
    if is_word(&line.args[1], b"ratio", 5):
        return answer(request, DONE if line.count > 2 and _parse_float(&line.args[2], &ratio) else ERROR)
    if not parse_u64(&line.args[1], &level) or level > UINT32_MAX:
        return answer(request, BAD_LINE)
    return answer(request, DONE if level <= 2 else ERROR)


cdef int read_lru(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """lru tune <hot %> <warm %> <hot age> <warm age>, mode flat|segmented, temp_ttl <s>: items are not kept in lists."""
    cdef int64_t number
    if is_word(&line.args[0], b"tune", 4) and line.count >= 5:
        return _read_tune(line, request)
    if is_word(&line.args[0], b"mode", 4) and line.count >= 2:
        return answer(request, DONE if is_word(&line.args[1], b"flat", 4) or is_word(&line.args[1], b"segmented", 9) else ERROR)
    if is_word(&line.args[0], b"temp_ttl", 8) and line.count >= 2 and parse_i64(&line.args[1], &number):
        return answer(request, DONE)
    return answer(request, ERROR)


cdef int _read_tune(const Line *line, Request *request) noexcept nogil:
    cdef uint64_t hot, warm
    cdef double hot_age, warm_age
    if not (parse_u64(&line.args[1], &hot) and parse_u64(&line.args[2], &warm)
            and _parse_float(&line.args[3], &hot_age) and _parse_float(&line.args[4], &warm_age)):
        return answer(request, ERROR)
    if hot > MOST_PERCENT or warm > MOST_PERCENT or hot + warm > MOST_PERCENT:
        return answer(request, b"ERROR hot and warm pcts must not exceed 80\r\n")
    if not (hot_age > 0 and warm_age > 0):
        return answer(request, b"ERROR hot/warm age factors must be greater than 0\r\n")
    return answer(request, DONE)


cdef uint64_t _kind_of(const Token *token) noexcept nogil:
    """The Kind of a word, 0 for none."""
    if is_word(token, b"fetchers", 8):
        return WATCH_FETCHERS
    if is_word(token, b"mutations", 9):
        return WATCH_MUTATIONS
    if is_word(token, b"evictions", 9):
        return WATCH_EVICTIONS
    if is_word(token, b"connevents", 10):
        return WATCH_CONNEVENTS
    if is_word(token, b"deletions", 9):
        return WATCH_DELETIONS
    if is_word(token, b"sysevents", 9) or is_word(token, b"rawcmds", 7):
        return WATCH_NOTHING
    if is_word(token, b"proxyreqs", 9) or is_word(token, b"proxyevents", 11) or is_word(token, b"proxyuser", 9):
        return WATCH_NOTHING
    return 0


cdef int read_watch(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """watch [kind ...]: fetchers where none is named."""
    cdef uint64_t kind
    cdef int at
    request.number = 0 if line.count else WATCH_FETCHERS
    for at in range(line.count):
        kind = _kind_of(&line.args[at])
        if kind == 0:
            return answer(request, ERROR)
        request.number |= kind
    return REQUEST


cdef int read_backup(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """backup <file>: a name within a directory, never a path out of it."""
    cdef const Token *name = &line.args[0]
    cdef size_t at
    if name.len > FILE_NAME_MAX or name.at[0] == c'.':
        return answer(request, BAD_FILE)
    for at in range(name.len):
        if not c'!' <= name.at[at] <= c'~' or name.at[at] == c'/':
            return answer(request, BAD_FILE)
    request.key = name.at
    request.klen = <uint8_t> name.len
    return REQUEST


cdef int read_channel(Parser *parser, const Command *command, const Line *line, Request *request) noexcept nogil:
    """channel [<bytes of the ring of requests> [<of replies>]]"""
    cdef uint64_t reply_bytes = 0
    request.number = 0
    if line.count > 0 and not parse_u64(&line.args[0], &request.number) or line.count > 1 and not parse_u64(&line.args[1], &reply_bytes):
        return answer(request, BAD_LINE)
    request.vlen = reply_bytes
    return REQUEST


register(b"stats", ERROR, read_stats, OP_STATS, 0, 0, ANY_NUMBER)
register(b"lru_crawler", ERROR, read_lru_crawler, OP_CRAWLER, 0, 1, ANY_NUMBER)
register(b"slabs", ERROR, read_slabs, 0, 0, 1, ANY_NUMBER)
register(b"lru", ERROR, read_lru, 0, 0, 1, ANY_NUMBER)
register(b"watch", ERROR, read_watch, OP_WATCH, 0, 0, ANY_NUMBER)
register(b"backup", ERROR, read_backup, OP_BACKUP, 0, 1, 1)
register(b"channel", ERROR, read_channel, OP_CHANNEL, 0, 0, 2)
