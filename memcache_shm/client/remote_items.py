"""Whole items out of a table behind a socket and into one: with flags, expiry, CAS id and the marks of the meta commands.

Any memcached since 1.6.18 will do. Its expiries are whole seconds. CAS ids can be given to a later one only (meta `E`); elsewhere the
server chooses them.
"""

from __future__ import annotations

import re
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from memcache_shm.client.items import STALE, TOKEN_SENT, Item
from memcache_shm.client.remote import PIPELINED, RemoteTable, key_words
from memcache_shm.client.wire import Connection
from memcache_shm.errors import RemoteError

_DUMPED = re.compile(rb"key=(\S+) exp=(-?\d{1,18}) .*?cas=(\d{1,20})\b(?:.* size=(\d{1,10})\b)?.*")
_DIGITS = re.compile(rb"\d{1,20}")
_IN_MEMORY_BYTES = 8 << 20  # of a list of keys
_READ_BYTES = 4 << 20  # of items that are asked for at once, but for one that is larger alone
_FLAGS_MOST = (1 << 32) - 1
_CAS_MOST = (1 << 64) - 1
_LEFT_MOST_S = 1 << 40
_FAR_S = 2  # two ways to tell one expiry differ by less
_SENT_BYTES = 1 << 18  # after so many, replies are read
_EXPTIME_MOST_S = (1 << 31) - 1  # what 1.6.18 takes
_CLAIMED_S = 60, 3600  # an item that lives for the first is due when the second is asked for
_REFUSALS = (b"SERVER_ERROR object too large", b"SERVER_ERROR out of memory")


class _Dumped(NamedTuple):
    key: bytes
    exptime: int  # unix time, -1 never
    cas: int
    size_bytes: int  # of all of the item; 0 where it is not told


class RemoteItems:
    """The items of a table, in no order: those that stay meanwhile once, others as they are before or after a change, or not at all."""

    def __init__(self, table: RemoteTable) -> None:
        self._table = table
        self._sets_cas: bool | None = None
        self.unnamed = 0  # keys that were listed, but that the protocol cannot name to ask for
        self.gone = 0  # ... and were not there any more when they were asked for, though it was not their time

    def __iter__(self) -> Iterator[Item]:
        """Raises RemoteError, also when another server than the one that listed the keys answers later."""
        with self._table.one_server():
            for some in self._asked_at_once():
                with _uninterrupted():
                    items = self._read(some)
                yield from items

    def _asked_at_once(self) -> Iterator[list[_Dumped]]:
        """What is listed and can be asked for: so much of it at a time as is held in memory."""
        some: list[_Dumped] = []
        size_bytes = 0
        for each in self._listed():
            if not self._table.can_ask(each.key):
                self.unnamed += 1
                continue
            if len(some) == PIPELINED or (some and size_bytes + each.size_bytes > _READ_BYTES):
                yield some
                some, size_bytes = [], 0
            some.append(each)
            size_bytes += each.size_bytes
        if some:
            yield some

    def _read(self, some: list[_Dumped]) -> list[Item]:
        """The items, once the right to make some of them anew is given back: whatever befalls who takes them, it is not kept."""
        items, won = [], []
        requests = [b"mg %b%b v f c t u\r\n" % key_words(each.key) for each in some]
        try:
            for each, reply in zip(some, self._table.replies(requests, self._table.read_value, True), strict=True):
                if reply is not None:
                    item, wins = self._item(each, *reply)
                    items.append(item)
                    won += [item] if wins else []
                elif each.exptime < 0 or each.exptime > time.time():
                    self.gone += 1
        finally:
            self._give_back(won)
        return items

    def keys(self) -> Iterator[bytes]:
        """Those of the items. Raises RemoteError."""
        for each in self._listed():
            yield each.key

    def _listed(self) -> Iterator[_Dumped]:
        """What the server lists, put by (on the disk, where it is much) before the first is told: a memcached that waits for its list to be
        taken holds a lock, for which a get of ours might wait."""
        with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as spool:
            try:
                for line in self._dump():
                    spool.write(line + b"\n")
                spool.seek(0)
            except OSError as error:
                where = tempfile.gettempdir()
                raise RemoteError(
                    f"{self._table.name}: no room for its keys in {where}: {error.strerror}; set TMPDIR to where it is"
                ) from None
            yield from map(self._dumped, spool)

    def _dump(self) -> Iterator[bytes]:
        """By memcached's hash table, where each key stays in its place. While that is made larger nothing is listed, and an older one
        refuses: then by its LRU lists, where keys that move meanwhile may be missed."""
        begun = False
        try:
            for line in self._table.dump(b"hash"):
                begun = True
                yield line
        except RemoteError as error:
            if begun or "CLIENT_ERROR" not in str(error):
                raise
        if not begun:
            yield from self._table.dump()

    def _dumped(self, line: bytes) -> _Dumped:
        match = _DUMPED.match(line)
        if match is None:
            raise RemoteError(f"{self._table.name}: unexpected line {line[:60]!r} amid the keys")
        return _Dumped(unquote_to_bytes(match[1]), int(match[2]), int(match[3]), int(match[4] or 0))

    def _item(self, dumped: _Dumped, line: bytes, value: bytes) -> tuple[Item, bool]:
        """The item of an answer, and whether it came with the right to make it anew."""
        told = {word[:1]: word[1:] for word in line.split()[2:]}
        try:
            flags, cas = _number(told[b"f"], _FLAGS_MOST), _number(told[b"c"], _CAS_MOST)
            left_s = -1 if told[b"t"] == b"-1" else _number(told[b"t"], _LEFT_MOST_S)
        except (KeyError, ValueError):
            raise RemoteError(f"{self._table.name}: unexpected answer {line[:60]!r}") from None
        exptime = 0 if left_s < 0 else int(time.time()) + left_s
        if cas == dumped.cas and exptime and abs(dumped.exptime - exptime) <= _FAR_S:
            exptime = dumped.exptime  # exact; the rest of a second is lost in the other
        state = (STALE if b"X" in told else 0) | (TOKEN_SENT if b"Z" in told else 0)
        return Item(dumped.key, value, flags, exptime * 1000, cas, state), b"W" in told

    def _give_back(self, won: list[Item]) -> None:
        """Looking at a stale item is to ask for the right to make it anew; who comes next shall have it. Marked stale once more it is as
        before, but that a memcached without `E` gives it another CAS id."""
        if not won:
            return
        if self._sets_cas is None:
            self._sets_cas = sets_cas(self._table)
        requests = []
        for item in won:
            word, flag = key_words(item.key)
            same = b" C%d" % item.cas if item.cas else b""  # 0 where the server runs without CAS ids
            keeps = b" E%d" % item.cas if self._sets_cas and item.cas else b""
            requests.append(b"md %b%b I%b%b\r\n" % (word, flag, same, keeps))
        for reply in self._table.replies(requests, Connection.line, False):
            if reply not in (b"HD", b"NF", b"EX"):
                raise self._table.refusal(reply)


def _number(word: bytes, most: int) -> int:
    """ValueError: it is none, or one above `most`."""
    if not _DIGITS.fullmatch(word) or int(word) > most:
        raise ValueError
    return int(word)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Signals that end a program in order wait for the end of this: amid replies nobody can tell any more what was won."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def sets_cas(table: RemoteTable) -> bool:
    """Whether the server lets a client say which CAS id an item has. RemoteError."""
    (reply,) = table.replies([b"mg memcache_shm-asks E1\r\n"], Connection.line, True)
    return not reply.startswith(b"CLIENT_ERROR")


class RemotePutter:
    """Stores items in a table behind a socket, over what is there: `put` each, then `flush`."""

    def __init__(self, table: RemoteTable) -> None:
        """RemoteError."""
        self._table = table
        self._requests: list[tuple[bytes, bool]] = []  # and whether its reply tells what became of an item
        self._bytes = 0
        self.sets_cas = sets_cas(table)
        self.stored = 0
        self.refused = 0  # for want of room, or as too large
        self.expired = 0  # over when their turn came
        self.unnamed = 0  # with a key that the protocol cannot name

    def put(self, item: Item) -> None:
        """Store `item`, soon. RemoteError: the server, which has done some of what was put before."""
        if not self._table.can_ask(item.key):
            self.unnamed += 1
        elif item.expires_ms and item.expires_ms <= time.time() * 1000:
            self.expired += 1
        else:
            self._add(item)
            if len(self._requests) >= PIPELINED or self._bytes >= _SENT_BYTES:
                self.flush()

    def flush(self) -> None:
        """Send what was put and is not sent yet, and see what became of it. RemoteError."""
        requests, self._requests, self._bytes = self._requests, [], 0
        replies = self._table.replies([request for request, _ in requests], Connection.line, False)
        for (_, tells), reply in zip(requests, replies, strict=True):
            if reply.startswith(_REFUSALS):
                self.refused += tells
            elif reply.startswith((b"HD", b"NF", b"EN")) if not tells else reply == b"HD":
                self.stored += tells
            else:
                raise self._table.refusal(reply)

    def _add(self, item: Item) -> None:
        word, flag = key_words(item.key)
        exptime = -(-item.expires_ms // 1000)
        exptime = exptime if self.sets_cas else min(exptime, _EXPTIME_MOST_S)
        cas = b" E%d" % item.cas if self.sets_cas and item.cas else b""
        lives = _CLAIMED_S[0] if item.state & TOKEN_SENT else exptime
        self._send(b"ms %b %d%b F%d T%d%b\r\n%b\r\n" % (word, len(item.value), flag, item.flags, lives, cas, item.value), True)
        if item.state & STALE:
            self._send(b"md %b%b I%b\r\n" % (word, flag, cas))
        if item.state & TOKEN_SENT:  # as if a client had just got the right to make it anew
            self._send(b"mg %b%b R%d\r\n" % (word, flag, _CLAIMED_S[1]))
            self._send(b"mg %b%b T%d\r\n" % (word, flag, exptime))

    def _send(self, request: bytes, tells: bool = False) -> None:
        self._requests.append((request, tells))
        self._bytes += len(request)
