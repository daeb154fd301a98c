"""Request files with the requests they hold: what every cutting of the bytes must yield."""

from __future__ import annotations

from typing import Any, NamedTuple

KEY = b"k" * 250
LONG = b"k" * 251
BAD_LINE = ("reply", b"CLIENT_ERROR bad command line format\r\n", False)
SILENT = ("reply", b"", False)
TOO_LONG = ("reply", b"CLIENT_ERROR line too long\r\n", False)
ERROR = ("reply", b"ERROR\r\n", False)
BAD_FILE = ("reply", b"CLIENT_ERROR bad file name: 1 to 200 printable ASCII characters without a slash, the first no dot\r\n", False)
BAD_CLASS = ("reply", b"BADCLASS invalid class id\r\n", False)


class Golden(NamedTuple):
    """One stream of bytes, and what it says."""

    name: str
    stream: bytes
    requests: list[tuple[Any, ...]]


def get(key: bytes, *, first: bool = True, last: bool = True, cas: bool = False) -> tuple[Any, ...]:
    return ("get", key, 0, cas, first, last)


def pattern(word: str, key: bytes, kind: str = "key", *, first: bool = True, last: bool = True) -> tuple[Any, ...]:
    return (word, key, kind, first, last)


def store(mode: str, key: bytes, value: bytes, *, flags: int = 0, exptime: int = 0, cas: int = 0, noreply: bool = False) -> Any:
    return (mode, key, value, flags, exptime, cas, noreply)


GOLDEN = [
    Golden("get", b"get a\r\n", [get(b"a")]),
    Golden("get with a bare newline", b"get a\n", [get(b"a")]),
    Golden("get of two", b"gets a  b \r\n", [get(b"a", last=False, cas=True), get(b"b", first=False, cas=True)]),
    Golden("get of the longest key", b"get " + KEY + b"\r\n", [get(KEY)]),
    Golden("get of too long a key", b"get a " + LONG + b" b\r\nget a\r\n", [BAD_LINE, get(b"a")]),
    Golden("key that ends in a carriage return", b"get a\r\r\n", [get(b"a\r")]),
    Golden("get without a key", b"get\r\nget \r\n", [ERROR, ERROR]),
    Golden("gat", b"gat 10 a\r\ngats -1 a\r\n", [("gat", b"a", 10, False, True, True), ("gat", b"a", -1, True, True, True)]),
    Golden("gat with nothing", b"gat\r\ngats \r\n", [ERROR, ERROR]),
    Golden("gat without keys", b"gat 10\r\n", [("gat", b"", 10, False, True, True)]),
    Golden("gat without a time", b"gat a\r\n", [("reply", b"CLIENT_ERROR invalid exptime argument\r\n", False)]),
    Golden("set", b"set a 1 2 3\r\nabc\r\n", [store("set", b"a", b"abc", flags=1, exptime=2)]),
    Golden("set of nothing", b"set a 0 0 0\r\n\r\n", [store("set", b"a", b"")]),
    Golden("binary value", b"add a 0 0 6\r\n\r\n\0\xff\r\n\r\n", [store("add", b"a", b"\r\n\0\xff\r\n")]),
    Golden("noreply", b"append a 0 0 1 noreply\r\nx\r\n", [store("append", b"a", b"x", noreply=True)]),
    Golden("cas", b"cas a 0 0 1 18446744073709551615\r\nx\r\n", [store("cas", b"a", b"x", cas=2**64 - 1)]),
    Golden(
        "flags are 32 bits", b"set a 4294967295 0 0\r\n\r\nset a 4294967296 0 0\r\n", [store("set", b"a", b"", flags=2**32 - 1), BAD_LINE]
    ),
    Golden("flags with a sign", b"set a +1 0 1\r\nx\r\nset a -1 0 1\r\n", [store("set", b"a", b"x", flags=1), BAD_LINE]),
    Golden("size below zero", b"set a 0 0 -1\r\n", [BAD_LINE]),
    Golden("size above 2^31", b"set a 0 0 2147483646\r\n", [BAD_LINE]),
    Golden(
        "bad data", b"set a 0 0 1\r\nxyzversion\r\n", [("reply", b"CLIENT_ERROR bad data chunk\r\n", False), ("version", b"", 0, 0, False)]
    ),
    Golden("backup", b"backup Mon-1.x\r\nbackup\nbackup a b\r\n", [("backup", b"Mon-1.x", 0, 0, False), ERROR, ERROR]),
    Golden("backup of the longest name", b"backup " + b"n" * 200 + b"\r\n", [("backup", b"n" * 200, 0, 0, False)]),
    Golden("backup elsewhere", b"backup a/b\r\nbackup .x\r\nbackup \x7f\r\nbackup " + b"n" * 201 + b"\r\n", [BAD_FILE] * 4),
    Golden("bad data, noreply", b"set a 0 0 1 noreply\r\nxyz", [SILENT]),
    Golden("set at the limit", b"set a 0 0 1000\r\n" + b"x" * 1000 + b"\r\n", [store("set", b"a", b"x" * 1000)]),
    Golden(
        "set above the limit",
        b"set a 0 0 1001\r\n" + b"x" * 1001 + b"\r\nget a\r\n",
        [("too_large", "set", b"a", 1001, False), get(b"a")],
    ),
    Golden("incr", b"incr a 5\r\ndecr a 18446744073709551615 noreply\r\n", [("incr", b"a", 5, False), ("decr", b"a", 2**64 - 1, True)]),
    Golden("incr by too much", b"incr a 18446744073709551616\r\n", [("reply", b"CLIENT_ERROR invalid numeric delta argument\r\n", False)]),
    Golden("incr by less than nothing", b"incr a -1 noreply\r\n", [SILENT]),
    Golden("delete", b"delete a\r\ndelete a 0\r\ndelete a 0 noreply\r\n", [("delete", b"a", 0, 0, n) for n in (False, False, True)]),
    Golden(
        "delete with a time",
        b"delete a 1\r\n",
        [("reply", b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n", False)],
    ),
    Golden("delete of the key noreply", b"delete noreply\r\n", [("delete", b"noreply", 0, 0, False)]),
    Golden("touch", b"touch a -1\r\n", [("touch", b"a", -1, 0, False)]),
    Golden("flush_all", b"flush_all\r\nflush_all 5 noreply\r\n", [("flush_all", b"", 0, 0, False), ("flush_all", b"", 5, 0, True)]),
    Golden("stats", b"stats  items x\r\n", [("stats", b"items x", 0, 0, False)]),
    Golden("stats sizes and cachedump", b"stats sizes\r\nstats cachedump 1 5\r\n", [("sizes", b"", 0, 0, False), ("dump", 2, 5, True)]),
    Golden(
        "dumps",
        b"lru_crawler metadump all\r\nlru_crawler mgdump 5,1,7\r\nlru_crawler mgdump 5,7\r\nlru_crawler crawl hash\r\n",
        [("dump", 0, 0, True), ("dump", 1, 0, True), ("dump", 1, 0, False), ("crawl", 0, 0, True)],
    ),
    Golden("dump of no class", b"lru_crawler metadump 1,\r\nlru_crawler metadump 5,64\r\n", [("dump", 0, 0, True), BAD_CLASS]),
    Golden("crawler", b"lru_crawler sleep 7\r\nlru_crawler disable\r\n", [("crawler", 1, 7), ("crawler", 0, 0)]),
    Golden("watch", b"watch\r\nwatch mutations evictions\r\nwatch rawcmds\r\n", [("watch", 0, 1), ("watch", 0, 6), ("watch", 0, 32)]),
    Golden("subscribe", b"subscribe a\r\nsubscribe a*\n", [pattern("subscribe", b"a"), pattern("subscribe", b"a", "prefix")]),
    Golden(
        "subscribe to several",
        b"subscribe * a*b  ** \r\n",
        [
            pattern("subscribe", b"", "prefix", last=False),
            pattern("subscribe", b"a*b", first=False, last=False),
            pattern("subscribe", b"*", "prefix", first=False),
        ],
    ),
    Golden(
        "subscribe to the longest patterns",
        b"subscribe " + KEY + b" " + KEY + b"*\r\n",
        [pattern("subscribe", KEY, last=False), pattern("subscribe", KEY, "prefix", first=False)],
    ),
    Golden(
        "subscribe to too long a pattern",
        b"subscribe a " + LONG + b" b\r\nunsubscribe " + LONG + b"*\r\nget a\r\n",
        [
            pattern("subscribe", b"a", last=False),
            pattern("subscribe", b"", "too long", first=False),
            pattern("unsubscribe", b"", "too long"),
            get(b"a"),
        ],
    ),
    Golden("pattern that ends in a carriage return", b"subscribe a*\r\r\n", [pattern("subscribe", b"a*\r")]),
    Golden("subscribe to nothing", b"subscribe\r\nsubscribe \r\n", [pattern("subscribe", b"", "none")] * 2),
    Golden(
        "unsubscribe",
        b"unsubscribe\r\nunsubscribe a b*\r\n",
        [
            pattern("unsubscribe", b"", "none"),
            pattern("unsubscribe", b"a", last=False),
            pattern("unsubscribe", b"b", "prefix", first=False),
        ],
    ),
    Golden("sync", b"sync\r\nsync all\r\n", [("sync", b"", 0, 0, False), ERROR]),
    Golden("unknown", b"\r\nfoo\r\nGETS a\r\n", [ERROR, ERROR, ("reply", b"ERR INVALID_COMMAND\r\n", False)]),
    Golden("quit", b"quit\r\nget a\r\n", [("close",)]),
    Golden("a web client", b"GET / HTTP/1.1\r\nHost: a\r\n", [("close",)]),
    Golden("binary protocol", b"\x80\0\0\0", [("close",)]),
    Golden("byte 0x80 later", b"foo\r\n\x80\r\n", [ERROR, ERROR]),
    Golden("endless line", b"x" * 5000 + b"\r\nget a\r\n", [TOO_LONG, get(b"a")]),
    Golden("endless blanks", b"get" + b" " * 2100 + b"a\r\ngat 1" + b"0" * 2100 + b" a\r\n", [TOO_LONG, TOO_LONG]),
    Golden("endless blanks in front", b" " * 2045 + b"get a\r\n" + b" " * 2044 + b"get a\r\n", [TOO_LONG, get(b"a")]),
    Golden("longest line", b"x" * 2047 + b"\r\n" + b"x" * 2048 + b"\r\n", [ERROR, TOO_LONG]),
    Golden("simple", b"SET a 3\nabcGET a\n", [("SET", b"a", b"abc"), ("GET", b"a", 0, 0, False)]),
    Golden("simple, as a terminal sends it", b"SET a 3\r\nabc\r\nDELETE a\r\n", [("SET", b"a", b"abc"), ("DELETE", b"a", 0, 0, False)]),
    Golden("simple data that ends in a newline", b"SET a 4\nabc\n\nGET a\n", [("SET", b"a", b"abc\n"), ("GET", b"a", 0, 0, False)]),
    Golden(
        "simple, bad names",
        b"GET " + LONG + b"\nGET a\tb\nSET \x01 2\nxyQUIT\n",
        [("reply", b"ERR NAME_TOO_LONG\r\n", False), *[("reply", b"ERR BAD_NAME\r\n", False)] * 2, ("close",)],
    ),
    Golden(
        "simple, bad sizes",
        b"SET a 0\nSET a x\nSET a +1\nSET a 1001\n" + b"x" * 1001 + b"\nSET a\n",
        [*[("reply", b"ERR INVALID_SIZE\r\n", False)] * 4, ("reply", b"ERR INVALID_COMMAND\r\n", False)],
    ),
]
