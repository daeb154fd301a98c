"""Which session hears of which key: one place in the table's feed for all of them, held while anybody is subscribed.

    writers -> feed -> Bell (a thread, asleep in a futex) -> hear: what happened, what the key holds now -> the sessions that subscribed it

For each session and key the version is kept of which it knows. Versions of a key only grow, so what happened before it subscribed is told
from what happens after, and nothing is told twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from memcache_shm.client.changes import Change
from memcache_shm.client.keyfeed import KeyFeed, listen_to_keys
from memcache_shm.client.local import LocalTable
from memcache_shm.errors import BusyError, MemcacheError
from memcache_shm.ops.bell import Bell
from memcache_shm.ops.pipe_messages import TEXT_MAX_BYTES
from memcache_shm.ops.pipe_session import Session
from memcache_shm.ops.remarks import Remarks
from memcache_shm.server.outage import Outage

#: Keys of one session.
SUBSCRIPTIONS_MOST = 4096
_CHANGES_A_TURN = 256
_SWEEP_EVERY_S = 0.5
_RECLAIM_S = 0.002
_BUSY_S = 0.01  # until a locked shard is tried again, and
_OUTAGE_S = 0.1  # ... a table that is gone
_LOOK_S = 1.0  # ... what the bell may have failed to ring for
_LINGER_S = 1.0  # that the place in the feed is held when nobody is subscribed any more
_NEVER = float("inf")


class Hub:
    """Of one table. `bell` is an eventfd: whenever it is ready, `hear` is to be called. `reclaims`: nobody else sweeps the table."""

    def __init__(self, table: LocalTable, bell: int, reclaims: bool, remarks: Remarks) -> None:
        self._table = table
        self._descriptor = bell
        self._reclaims = reclaims
        self._remarks = remarks
        self._outage = Outage()
        self._feed: KeyFeed | None = None
        self._bell: Bell | None = None
        self._uuid: str | None = None  # of the table that the versions are of
        self._known: dict[bytes, dict[Session, int]] = {}  # by key, who has subscribed it and the version that each knows
        self._expiring: set[bytes] = set()  # those of them that will expire
        self._change: Change | None = None  # taken from the feed, not told yet
        self._doubtful: set[bytes] = set()  # keys to be looked at: what came of them was not told
        self._restless: set[Session] = set()  # whose notifications are to be sent
        self._due_s = _NEVER  # when to hear again without being rung for
        self._sweep_s = 0.0
        self._idle_s = _NEVER  # since when nobody is subscribed

    # Sessions

    def subscribe(self, who: Session, key: bytes) -> bool:
        """Whether `key` is there, and is subscribed. BusyError: that cannot be said yet, ask again."""
        if len(who.keys) >= SUBSCRIPTIONS_MOST and key not in who.keys:
            self._remarks.say(f"pipe session of {who.name}: more than {SUBSCRIPTIONS_MOST} keys, the others are refused")
            return False
        if not key:
            return False
        feed = self._listen()
        feed.add(key)
        try:
            seen = feed.look(key)
        except BusyError:
            self._drop_unknown(key)
            raise
        if seen is None:
            self._tell_gone([key])
            self._drop_unknown(key)
            return False
        who.keys.add(key)
        self._idle_s = _NEVER
        known = self._known.setdefault(key, {})
        if known.get(who, seen[1]) != seen[1]:  # again, before it was told that the key is another one by now
            self._tell(who, key, seen[0])
        known[who] = seen[1]
        self._note_expiry(key, seen[3])
        return True

    def unsubscribe(self, who: Session, key: bytes) -> bool:
        """Whether `who` had subscribed it."""
        if key not in who.keys:
            return False
        self._forget(who, key)
        return True

    def leave(self, who: Session) -> None:
        """Whatever `who` had subscribed, no more."""
        for key in list(who.keys):
            self._forget(who, key)
        self._restless.discard(who)

    # Changes

    @property
    def due_s(self) -> float:
        """When `look` is to be called at the latest."""
        sweep_s = self._sweep_s if self._known else _NEVER
        return min(self._due_s, sweep_s, self._idle_s + _LINGER_S)

    def look(self, now_s: float) -> None:
        """What is done by the clock, and what is left to be sent."""
        if now_s >= self._due_s:
            self.hear()
        self._send()
        if self._known and now_s >= self._sweep_s:
            self._sweep_s = now_s + _SWEEP_EVERY_S
            self._sweep()
        if now_s >= self._idle_s + _LINGER_S:
            self.close()

    def hear(self) -> None:
        """Take what came, so much a turn, and tell it."""
        if self._feed is None or self._bell is None:
            return
        self._due_s = time.monotonic()
        try:
            for _ in range(_CHANGES_A_TURN):
                self._change = self._change or self._feed.poll()
                if self._change is None:
                    break
                self._apply(self._change)
                self._change = None
            else:
                return  # there is more; others first
            self._examine(list(self._doubtful))
        except BusyError:
            self._due_s += _BUSY_S
        except (MemcacheError, OSError) as error:  # the table was removed, and there is no other yet
            self._outage.goes_on(f"pipe sessions hear of no changes: {error}")
            self._due_s += _OUTAGE_S
        else:
            self._outage.is_over("pipe sessions hear of changes again")
            self._due_s += _LOOK_S
            self._bell.arm()
        finally:
            self._send()

    def close(self) -> None:
        """Give up the place in the feed."""
        if self._bell is not None:
            self._bell.end()
        if self._feed is not None:
            self._feed.close()
        self._feed = self._bell = self._change = None
        self._due_s = self._idle_s = _NEVER

    # Beneath

    def _listen(self) -> KeyFeed:
        """The feed, with a place in it; BusyError as long as it has none."""
        if self._feed is None:
            self._feed = listen_to_keys(self._table)
            self._bell = Bell(self._feed, self._descriptor)
            self._due_s = 0.0
        if not self._feed.has_place and self._due_s <= time.monotonic():
            self.hear()
        if not self._feed.has_place:
            raise BusyError("the feed has a locked shard, or its table is gone")
        if not self._known:
            self._uuid = self._feed.table_uuid
            self._idle_s = time.monotonic()
        return self._feed

    def _apply(self, change: Change) -> None:
        """Tell one. BusyError, TableRemovedError: not yet, the same again."""
        kind, key = change.kind, change.key
        if kind == "lost":
            if self._feed is not None and self._feed.table_uuid != self._uuid:
                self._tell_gone(list(self._known))  # another table: everything has gone, whatever is there by now
                self._uuid = self._feed.table_uuid
            self._doubtful.update(self._known)
        elif kind == "flush":
            self._tell_flushed()
        elif key in self._known:
            if kind in ("set", "touch"):
                self._tell_set(key, change.cas)
            else:
                self._tell_gone([key], change.cas)

    def _tell_set(self, key: bytes, version: int) -> None:
        """Of a key that holds another version by now a later event follows."""
        assert self._feed is not None
        seen = self._feed.look(key)
        if seen is None:
            self._tell_gone([key])
        elif seen[1] == version:
            self._note_expiry(key, seen[3])
            self._tell_value(key, seen[0], version)

    def _tell_value(self, key: bytes, value: bytes, version: int) -> None:
        known = self._known[key]
        for who, knows in known.items():
            if knows != version:
                known[who] = version
                self._tell(who, key, value)

    def _tell(self, who: Session, key: bytes, value: bytes | None) -> None:
        who.notify(key, value if value is None else value[:TEXT_MAX_BYTES])
        self._restless.add(who)

    def _tell_gone(self, keys: Iterable[bytes], version: int | None = None) -> None:
        """Who knows of a later version than the one that went has subscribed the key since; None: there is none now."""
        for key in keys:
            for who, knows in list(self._known.get(key, {}).items()):
                if version is None or knows <= version:
                    self._forget(who, key)
                    self._tell(who, key, None)

    def _tell_flushed(self) -> None:
        """What is there again, or was not reached, is told from what went by the version up to which its shard was flushed."""
        assert self._feed is not None
        for key in list(self._known):
            seen = self._feed.look(key)
            self._tell_gone([key], None if seen is None else seen[2])

    def _examine(self, keys: Iterable[bytes]) -> None:
        """Look at keys whose changes were missed."""
        assert self._feed is not None
        for key in keys:
            if key in self._known:
                seen = self._feed.look(key)
                self._tell_gone([key], None if seen is None else seen[2])
                if seen is not None and key in self._known:
                    self._note_expiry(key, seen[3])
                    self._tell_value(key, seen[0], seen[1])
            self._doubtful.discard(key)

    def _sweep(self) -> None:
        """Expiry makes no event until somebody comes by."""
        if self._feed is None:
            return
        try:
            if self._reclaims:
                self._table.attached_table.reclaim(_RECLAIM_S)
            for key in list(self._expiring):
                if self._feed.look(key) is None:
                    self._tell_gone([key])
        except (MemcacheError, OSError):
            self._due_s = time.monotonic()  # `hear` finds out, and says what is the matter
        self._send()

    def _send(self) -> None:
        restless, self._restless = self._restless, set()
        for who in restless:
            who.flush()

    def _note_expiry(self, key: bytes, exptime: int) -> None:
        if exptime:
            self._expiring.add(key)
        else:
            self._expiring.discard(key)

    def _forget(self, who: Session, key: bytes) -> None:
        who.keys.discard(key)
        self._known[key].pop(who, None)
        if not self._known[key]:
            del self._known[key]
            self._expiring.discard(key)
            self._doubtful.discard(key)
            self._drop_unknown(key)
        if not self._known:
            self._idle_s = time.monotonic()

    def _drop_unknown(self, key: bytes) -> None:
        """Listen to no key that nobody has subscribed."""
        if key not in self._known and self._feed is not None:
            self._feed.discard(key)
