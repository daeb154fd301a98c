"""A mirror of an attached table, over TCP and over a UNIX socket: complete at once, then in step, and how it ends."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable

import pytest
from support.hearing import pairs
from support.mirrors import Heard, mirror_threads
from support.waiting import until

import memcache_shm
from memcache_shm import Item, Mirror

Cache = memcache_shm.Cache
FAR_S = 1000
NEAR_S = 20  # that a test may take


def is_item(mirror: Mirror, cache: Cache, key: str, flags: int, exptime: float) -> bool:
    """Whether a mirrored item is the table's, its expiry within some seconds."""
    value, cas = cache.gets(key)
    item = mirror.item(key)
    return (item.value, item.flags, b"%d" % item.cas) == (value, flags, cas) and abs(item.exptime - exptime) <= NEAR_S


# A mapping


def test_complete_and_then_in_step(source: tuple[str, Cache]) -> None:
    address, cache = source
    for number in range(3000):
        cache.set(f"key{number}", b"%d" % number, flags=number)
    with Mirror(address) as mirror:
        assert dict(mirror.items()) == {b"key%d" % number: b"%d" % number for number in range(3000)}
        assert len(mirror) == 3000
        assert mirror.in_step
        assert is_item(mirror, cache, "key7", 7, 0)
        cache.set("key7", b"new", flags=8, expire=FAR_S)
        until(lambda: mirror["key7"] == b"new", "the new value")
        assert is_item(mirror, cache, "key7", 8, time.time() + FAR_S)
        cache.touch("key7", 2 * FAR_S)
        until(lambda: mirror.item(b"key7").exptime > time.time() + FAR_S + NEAR_S, "the new expiry")
        assert is_item(mirror, cache, "key7", 8, time.time() + 2 * FAR_S)
        cache.delete("key8")
        until(lambda: "key8" not in mirror, "the delete")
        cache.incr("key9", 1)
        until(lambda: mirror["key9"] == b"10", "the number")
        cache.flush_all()
        cache.set("after", b"flush")
        until(lambda: dict(mirror.items()) == {b"after": b"flush"}, "the flush")


def test_it_is_a_mapping(source: tuple[str, Cache]) -> None:
    address, cache = source
    cache.set("a", b"1")
    cache.set("b", b"2", flags=3)
    with Mirror(address) as mirror:
        assert sorted(mirror) == sorted(mirror.keys()) == [b"a", b"b"]
        assert sorted(mirror.items()) == [(b"a", b"1"), (b"b", b"2")]
        assert sorted(mirror.values()) == [b"1", b"2"]
        assert mirror == {b"a": b"1", b"b": b"2"}
        assert (mirror["a"], mirror[b"b"], mirror.get("c"), mirror.get("c", b"3")) == (b"1", b"2", None, b"3")
        assert "a" in mirror
        assert b"c" not in mirror
        assert 1 not in mirror
        assert (b"a", b"1") in mirror.items()
        assert isinstance(mirror.item("b"), Item)
        assert mirror.item("b")[:3] == (b"2", 3, 0)
        for call in (lambda: mirror["c"], lambda: mirror.item(b"c")):
            with pytest.raises(KeyError):
                call()
        with pytest.raises(TypeError):
            mirror["a"] = b"2"  # type: ignore[index]
        assert address in repr(mirror)


def test_iteration_while_it_changes(source: tuple[str, Cache]) -> None:
    """Each one is of the keys of its beginning; nothing is skipped that was there all along."""
    address, cache = source
    stay = {b"stay%d" % number: b"x" for number in range(200)}
    for key, value in stay.items():
        cache.set(key, value)
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            cache.set(f"k{number % 500}", b"y")
            cache.delete(f"k{(number + 250) % 500}")
            number += 1

    writer = threading.Thread(target=write)
    with Mirror(address) as mirror:
        writer.start()
        try:
            end_s = time.monotonic() + 1
            while time.monotonic() < end_s:
                assert stay.items() <= dict(mirror.items()).items()
                assert stay.keys() <= set(mirror)
                assert len(list(mirror.values())) >= len(stay)
                assert len(mirror) >= len(stay)
        finally:
            over.set()
            writer.join()


def test_expired_items_vanish_without_being_told(source: tuple[str, Cache]) -> None:
    address, cache = source
    heard = Heard()
    cache.set("short", b"x", expire=2)
    cache.set("long", b"x", expire=FAR_S)
    with Mirror(address, heard) as mirror:
        end_s = mirror.item("short").exptime
        assert len(mirror) == 2
        until(lambda: "short" not in mirror, "the end")
        assert time.time() <= end_s + 1
        assert len(mirror) == 1
        assert list(mirror) == list(dict(mirror.items())) == [b"long"]
        assert len(list(mirror.values())) == 1
        until(lambda: heard, "it to be told")
        cache.attached_table.reclaim(0.1)
        cache.set("other", b"x")
        until(lambda: "other" in mirror, "a later change")
        assert pairs(heard) == [("expire", b"short"), ("set", b"other")]


# Ending


def test_close(source: tuple[str, Cache]) -> None:
    mirror = Mirror(source[0])
    assert len(mirror_threads()) == 1
    mirror.close()
    assert mirror_threads() == []
    mirror.close()
    calls: list[Callable[[], object]] = [
        lambda: mirror["key"], lambda: len(mirror), lambda: list(mirror), lambda: "key" in mirror, lambda: list(mirror.items()),
        lambda: mirror.in_step, lambda: mirror.wait_in_step(1), lambda: mirror.item("key"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(memcache_shm.ClosedError, match="make another one"):
            call()


def test_one_that_is_forgotten_ends(source: tuple[str, Cache]) -> None:
    mirror = Mirror(source[0])
    assert mirror_threads()
    del mirror
    gc.collect()
    until(lambda: not mirror_threads(), "the thread to end")


def test_forked_child_has_none(source: tuple[str, Cache]) -> None:
    """A clear error there, and another one works; the parent's goes on."""
    address, cache = source
    cache.set("key", b"1")
    with Mirror(address) as mirror:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                try:
                    mirror["key"]
                except memcache_shm.MemcacheError as error:
                    status = 2 if f"process {os.getppid()}; make another one" in str(error) else 3
                mirror.close()
                with Mirror(address) as own:
                    status = 0 if status == 2 and own["key"] == b"1" else 4
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        cache.set("key", b"2")
        until(lambda: mirror["key"] == b"2", "the parent's to go on")
