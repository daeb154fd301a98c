"""Mirrored items whose time is over, by a clock that is right or wrong: put aside, told once, and there again if need be."""

from __future__ import annotations

import time

import pytest
from support.hearing import pairs
from support.mirrors import Heard
from support.scripted import Scripted
from support.waiting import until

import memcache_shm
from memcache_shm import Change, Item, Mirror
from memcache_shm.client.mirrored import MirroredItems

Cache = memcache_shm.Cache
FAR_S = 1000


def test_clock_that_goes_ahead() -> None:
    """An item that is over by this host's clock only comes back when its source gives it more time."""
    soon = int(time.time()) - 10
    later = soon + FAR_S
    told = b"OK\r\nNOTIFY set a 3 %d 1 1\r\nx\r\nNOTIFY set b 0 %d 1 2\r\nx\r\nSYNCED 9\r\nALIVE 9\r\n" % (soon, soon)
    heard = Heard()
    with Scripted(
        [(b"sync\r\n", told), (b"", b"NOTIFY touch a 3 %d 0 1\r\nNOTIFY expire b 0 0 0 2\r\n" % later), (b"-", Scripted.SILENCE)]
    ) as server:
        with Mirror(server.address, heard) as mirror:
            until(lambda: "a" in mirror, "the touch")
            assert mirror.item("a") == Item(b"x", 3, later, 1)
            assert dict(mirror.items()) == {b"a": b"x"}
            until(lambda: {("set", b"a"), ("touch", b"a")} & {*pairs(heard)}, "it to be told")
        assert {("expire", b"b"), ("expire", b"a")} >= {pair for pair in pairs(heard) if pair[0] == "expire"}


def test_what_is_over_by_the_clock_is_told_once() -> None:
    """It is put aside; then it comes back, or goes for good, or is not among what is copied anew."""
    mirrored = MirroredItems()
    for key in (b"a", b"b", b"c", b"d"):
        assert pairs(mirrored.apply(Change("set", key, b"x", 0, 100, 1))) == [("set", key)]
    assert mirrored.apply(Change("set", b"a", b"x", 0, 100, 1)) == ()
    assert mirrored.apply(Change("synced", None)) == []
    assert (mirrored.count(99), mirrored.count(100)) == (4, 0)
    assert mirrored.expire(99) == []
    assert sorted(pairs(mirrored.expire(100))) == [("expire", key) for key in (b"a", b"b", b"c", b"d")]
    assert mirrored.expire(200) == []
    assert mirrored.items == {}
    assert mirrored.apply(Change("expire", b"a")) == ()
    assert mirrored.apply(Change("touch", b"a", None, 0, 200, 1)) == ()
    assert list(mirrored.apply(Change("touch", b"b", None, 0, 200, 1))) == [Change("set", b"b", b"x", 0, 200, 1)]
    assert mirrored.apply(Change("set", b"c", b"x", 0, 100, 1)) == ()
    assert list(mirrored.apply(Change("set", b"c", b"y", 0, 200, 2))) == [Change("set", b"c", b"y", 0, 200, 2)]
    mirrored.begin()
    assert pairs(mirrored.apply(Change("set", b"b", b"x", 0, 200, 1))) == []
    assert pairs(mirrored.apply(Change("synced", None))) == [("delete", b"c")]
    assert mirrored.items.keys() == {b"b"}
    assert mirrored.apply(Change("touch", b"d", None, 0, 300, 1)) == ()


def test_what_was_over_by_a_clock_that_was_ahead_comes_back() -> None:
    mirrored = MirroredItems()
    for number in range(3):
        mirrored.apply(Change("set", b"%d" % number, b"x", 7, 100 * (1 + number), number))
    mirrored.apply(Change("synced", None))
    assert pairs(mirrored.expire(1000)) == [("expire", b"0"), ("expire", b"1"), ("expire", b"2")]
    assert mirrored.expire(150) == [Change("set", b"1", b"x", 7, 200, 1), Change("set", b"2", b"x", 7, 300, 2)]
    assert mirrored.items.keys() == {b"1", b"2"}
    assert mirrored.count(150) == 2
    assert mirrored.expire(150) == []
    assert pairs(mirrored.expire(200)) == [("expire", b"1")]
    assert pairs(mirrored.expire(300)) == [("expire", b"2")]


def test_a_touch_that_comes_with_its_value_is_told_as_a_touch() -> None:
    mirrored = MirroredItems()
    mirrored.apply(Change("set", b"key", b"x", 7, 100, 1))
    assert list(mirrored.apply(Change("set", b"key", b"x", 7, 200, 1))) == [Change("touch", b"key", None, 7, 200, 1)]
    assert mirrored.items[b"key"] == Item(b"x", 7, 200, 1)
    assert list(mirrored.apply(Change("set", b"key", b"x", 7, 200, 2))) == [Change("set", b"key", b"x", 7, 200, 2)]
    assert pairs(mirrored.expire(200)) == [("expire", b"key")]
    assert list(mirrored.apply(Change("set", b"key", b"x", 7, 300, 2))) == [Change("set", b"key", b"x", 7, 300, 2)]


def test_a_clock_that_is_set_wrong_for_a_moment(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.set("key", b"value", expire=FAR_S)
    right = time.time
    heard = Heard()
    with Mirror("test", heard) as mirror:
        monkeypatch.setattr(time, "time", lambda: right() + 2 * FAR_S)
        until(lambda: pairs(heard) == [("expire", b"key")], "it to be over")
        monkeypatch.setattr(time, "time", right)
        until(lambda: mirror.get("key") == b"value", "it to be there again")
        assert pairs(heard) == [("expire", b"key"), ("set", b"key")]


def test_what_the_table_has_as_over_is_no_more_in_a_mirror(cache: Cache) -> None:
    """Stored or touched with a time that is over: nobody sweeps this table, and the mirror must not serve the old value."""
    heard = Heard()
    for key in ("stored", "touched"):
        cache.set(key, b"old")
    with Mirror("test", heard) as mirror:
        cache.set("stored", b"new", expire=-1)
        cache.touch("touched", -1)
        until(lambda: not mirror, "both to go")
        assert sorted(pairs(heard)) == [("expire", b"stored"), ("expire", b"touched")]


def test_expiries_that_change_take_no_room() -> None:
    mirrored = MirroredItems()
    for number in range(20_000):
        mirrored.apply(Change("set", b"key%d" % (number % 10), b"x", 0, 1000 + number, number))
    assert len(mirrored._due) < 2000
    assert len(list(mirrored.expire(10**6))) == 10
