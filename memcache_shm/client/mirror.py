"""A table's items as a mapping of this process, which follows every change of the table."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from types import TracebackType

from memcache_shm.client.changes import Change
from memcache_shm.client.keeping import Keeper, opener
from memcache_shm.client.mirrored import Item
from memcache_shm.errors import ClosedError, MemcacheError

_JOIN_S = 1.0


class Mirror(Mapping[bytes, bytes]):
    """A read-only mapping of all items of a table, complete when it is made, then in step. Keys may be given as str, too (UTF-8).

    `source` is the name of a table of this host, HOST:PORT, [V6]:PORT, the path of a daemon's UNIX socket, or channel: and such a path. A
    thread follows the changes, usually within a millisecond. While the source is away the items stay as they were (`in_step` is False), and
    only expire; when it is there again, all of it is read anew. An item expires by this host's clock, within a second after its time,
    whether or not the source says so.

    `on_change` is called in that thread with each `Change` after it was applied: not for the items of the first copy unless `initial`.
    What it raises is logged. A callback that takes longer than five seconds, or for each change longer than changes take to come, makes the
    mirror fall behind and read all anew; then, too, only differences are told.

    Each process needs a mirror of its own: in a forked child its methods raise MemcacheError. Raises TimeoutError when the first copy is
    not complete within `timeout` seconds (None: no limit), RemoteError or what `attach` raises when there is no such source, FeedOffError.
    """

    def __init__(
        self,
        source: str,
        on_change: Callable[[Change], object] | None = None,
        timeout: float | None = 5.0,
        *,
        initial: bool = False,
    ) -> None:
        self.source = source
        self._pid = os.getpid()
        self._keeper = Keeper(opener(source), on_change, initial)
        self._mirrored = self._keeper.mirrored
        self._end = weakref.finalize(self, self._keeper.end)
        try:
            self._wait_until_complete(timeout)
        except BaseException:
            self.close()
            raise

    def _wait_until_complete(self, timeout: float | None) -> None:
        if not self._keeper.settled.wait(timeout):
            raise TimeoutError(f"mirror of {self.source}: the copy was not complete within {timeout:g} s; give it a longer timeout")
        problem = self._keeper.problem
        if problem is not None and not self._keeper.complete:
            raise problem

    # The mapping

    def __getitem__(self, key: bytes | str) -> bytes:
        return self.item(key).value

    def item(self, key: bytes | str) -> Item:
        """Value, flags, exptime (unix time, 0 for never) and CAS id of `key`. KeyError."""
        self._check()
        item = self._mirrored.items[key.encode() if isinstance(key, str) else key]
        if item.exptime and item.is_over(time.time()):
            raise KeyError(key)
        return item

    def __contains__(self, key: object) -> bool:
        try:
            self.item(key)  # type: ignore[arg-type]  # what is no key is not there
        except KeyError:
            return False
        return True

    def __len__(self) -> int:
        self._check()
        return self._mirrored.count(time.time())

    def __iter__(self) -> Iterator[bytes]:
        """The keys of this moment, whatever changes meanwhile."""
        return iter([key for key, _ in self.snapshot()])

    def items(self) -> ItemsView[bytes, bytes]:
        """Pairs of key and value; each iteration is over those of its beginning."""
        return _Items(self)

    def values(self) -> ValuesView[bytes]:
        """The values; each iteration is over those of its beginning."""
        return _Values(self)

    def snapshot(self) -> list[tuple[bytes, Item]]:
        """All keys and items of this moment."""
        self._check()
        now_s = time.time()
        return [(key, item) for key, item in self._mirrored.items.copy().items() if not item.is_over(now_s)]

    # Its state

    @property
    def in_step(self) -> bool:
        """Whether all is here and the source is there; False while it is read anew."""
        self._check()
        return self._keeper.in_step.is_set()

    def wait_in_step(self, timeout: float | None = None) -> bool:
        """Wait until it is in step; False when that is not so within `timeout` seconds."""
        self._check()
        return self._keeper.in_step.wait(timeout)

    @property
    def problem(self) -> Exception | None:
        """Why the source cannot be followed at the moment; None while it can."""
        return self._keeper.problem

    def close(self) -> None:
        """Stop following; further calls raise ClosedError. May be called by `on_change`."""
        self._end()
        if self._pid == os.getpid():
            self._keeper.join(_JOIN_S)

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<memcache_shm.Mirror of {self.source!r}>"

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise MemcacheError(f"this mirror is kept in step by process {self._pid}; make another one in the forked child")
        if not self._end.alive:
            raise ClosedError(f"the mirror of {self.source!r} is closed; make another one")


class _Items(ItemsView[bytes, bytes]):
    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        mirror: Mirror = self._mapping  # type: ignore[attr-defined]
        return iter([(key, item.value) for key, item in mirror.snapshot()])


class _Values(ValuesView[bytes]):
    def __iter__(self) -> Iterator[bytes]:
        mirror: Mirror = self._mapping  # type: ignore[attr-defined]
        return iter([item.value for _, item in mirror.snapshot()])
