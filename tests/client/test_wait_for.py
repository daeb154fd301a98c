"""Waiting for a key, by an attached cache, by one behind a stream, and by one that reads the mapping and writes through the daemon."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import memcache_shm

Cache = memcache_shm.Cache
by_each_door = pytest.mark.parametrize("opened", ["attached", "tcp", "channel", "write-through"], indirect=True)


def soon(call: object, *args: object) -> threading.Timer:
    timer = threading.Timer(0.1, call, args)  # type: ignore[arg-type]
    timer.start()
    return timer


@pytest.fixture
def door(opened: Callable[..., Cache]) -> Cache:
    """An empty cache, by each door."""
    return opened()


@by_each_door
def test_what_is_there_comes_at_once(door: Cache) -> None:
    door.set("key", b"value")
    assert door.wait_for("key") == b"value"
    assert door.wait_for("key", 0) == b"value"


def test_a_reader_waits_for_what_is_there(cache: Cache) -> None:
    cache.set("key", b"value")
    with memcache_shm.attach("test", readonly=True) as reader:
        assert reader.wait_for(b"key", 0) == b"value"


@by_each_door
def test_what_comes_later(door: Cache) -> None:
    began_s = time.monotonic()
    timer = soon(door.set, "key", b"value")
    assert door.wait_for("key", 20) == b"value"
    assert time.monotonic() - began_s < 5
    timer.join()


@by_each_door
def test_default_after_the_time(door: Cache) -> None:
    began_s = time.monotonic()
    assert door.wait_for("key", 0.2) is None
    assert door.wait_for("key", timeout=0.2, default="none") == "none"
    assert 0.4 <= time.monotonic() - began_s < 5
    assert door.wait_for("key", 0, 7) == 7


@by_each_door
def test_other_keys_do_not_matter(door: Cache) -> None:
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            door.set(f"key{number % 100}", b"x")
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert door.wait_for("key", 0.5) is None
        timer = soon(door.set, "key", b"value")
        assert door.wait_for("key", 20) == b"value"
        timer.join()
    finally:
        over.set()
        writer.join()


@by_each_door
def test_one_that_is_gone_again_has_not_come(door: Cache) -> None:
    def come_and_go() -> None:
        door.set("key", b"value", expire=-1)
        door.delete("key")

    timer = soon(come_and_go)
    assert door.wait_for("key", 0.5) in (None, b"value")
    timer.join()
    assert door.wait_for("key", 0.1) is None


@by_each_door
def test_serde_prefix_and_odd_keys(opened: Callable[..., Cache]) -> None:
    cache = opened()

    class Upper:
        def serialize(self, key: object, value: str) -> tuple[bytes, int]:
            return value.encode(), 1

        def deserialize(self, key: object, value: bytes, flags: int) -> str:
            return value.decode().upper()

    mine = opened(key_prefix=b"mine:", serde=Upper())
    timer = soon(mine.set, "key", "value")
    assert mine.wait_for("key", 20) == "VALUE"
    timer.join()
    timer = soon(cache.set, "a*", b"star")
    assert cache.wait_for("a*", 20) == b"star"
    timer.join()
    for key in ("", "a b", "x" * 251):
        with pytest.raises(memcache_shm.IllegalInputError):
            cache.wait_for(key, 0)


def test_the_table_is_replaced_meanwhile(cache: Cache, state_dir: Path) -> None:
    def replace() -> None:
        memcache_shm.unlink("test")
        with memcache_shm.open("test", memory="1m", max_item="64k") as anew:
            anew.set("key", b"new table")

    timer = soon(replace)
    try:
        assert cache.wait_for("key", 20) == b"new table"
    except memcache_shm.TableRemovedError:  # it looked between the end of the one and the beginning of the other
        timer.join()
        assert cache.wait_for("key", 20) == b"new table"
    timer.join()


def test_closed_meanwhile(cache: Cache) -> None:
    own = memcache_shm.attach("test")
    timer = soon(own.close)
    with pytest.raises(memcache_shm.ClosedError):
        own.wait_for("key", 20)
    timer.join()
