"""What a mirror's callback is told, and what it may do."""

from __future__ import annotations

import logging
import sys
import threading

import pytest
from support.hearing import pairs
from support.mirrors import Heard, mirror_threads
from support.waiting import until

import memcache_shm
from memcache_shm import Change, Mirror

Cache = memcache_shm.Cache
FAR_S = 1000


def test_callback(source: tuple[str, Cache]) -> None:
    address, cache = source
    cache.set("there", b"1")
    heard = []
    done = threading.Event()

    def hear(change: Change) -> None:
        """What was told is in the mirror by then."""
        assert change.key is not None
        heard.append((change.kind, change.key, mirrors[0].get(change.key)))
        if change.key == b"last":
            done.set()

    mirrors: list[Mirror] = []
    with Mirror(address, hear) as mirror:
        mirrors.append(mirror)
        cache.set("key", b"1")
        until(lambda: "key" in mirror, "the set")
        cache.touch("key", FAR_S)
        until(lambda: mirror.item("key").exptime, "the touch")
        cache.delete("key")
        until(lambda: "key" not in mirror, "the delete")
        cache.set("last", b"2")
        assert done.wait(10)
    assert heard == [("set", b"key", b"1"), ("touch", b"key", b"1"), ("delete", b"key", None), ("set", b"last", b"2")]


def test_callback_for_what_is_there_at_first(source: tuple[str, Cache]) -> None:
    address, cache = source
    for number in range(100):
        cache.set(f"key{number}", b"x")
    heard = Heard()
    with Mirror(address, heard, initial=True):
        assert sorted(pairs(heard)) == sorted(("set", b"key%d" % number) for number in range(100))


def test_a_callback_that_fails(source: tuple[str, Cache], caplog: pytest.LogCaptureFixture) -> None:
    address, cache = source

    def fail(change: Change) -> None:
        raise ZeroDivisionError

    with Mirror(address, fail) as mirror:
        for number in range(3):
            cache.set(f"key{number}", b"x")
        until(lambda: len(mirror) == 3, "the mirror to go on")
        until(lambda: len(caplog.records) == 3, "the failures in the log")
        assert mirror.in_step
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert "on_change failed at set of b'key" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_callback_that_exits(source: tuple[str, Cache], caplog: pytest.LogCaptureFixture) -> None:
    """It is the mirror's thread that it would end: nothing would be followed any more."""
    address, cache = source
    with Mirror(address, lambda change: sys.exit(3)) as mirror:
        for number in range(3):
            cache.set(f"key{number}", b"x")
            until(lambda number=number: f"key{number}" in mirror, "the mirror to go on")  # type: ignore[misc]
        until(lambda: len(caplog.records) == 3, "the failures in the log")
        assert mirror.in_step


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_is_noticed(source: tuple[str, Cache]) -> None:
    class Exits(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise SystemExit

    address, cache = source
    log, handler = logging.getLogger("memcache_shm.client.keeping"), Exits()
    log.addHandler(handler)
    try:
        with Mirror(address, lambda change: sys.exit(3)) as mirror:
            cache.set("key", b"x")
            until(lambda: not mirror.in_step, "the end to be seen")
            assert "ended with SystemExit()" in str(mirror.problem)
    finally:
        log.removeHandler(handler)


def test_a_callback_that_closes(source: tuple[str, Cache]) -> None:
    address, cache = source
    mirrors: list[Mirror] = []
    with Mirror(address, lambda change: mirrors[0].close()) as mirror:
        mirrors.append(mirror)
        cache.set("key", b"x")
        until(lambda: not mirror_threads(), "the thread to end")
        with pytest.raises(memcache_shm.ClosedError):
            len(mirror)
