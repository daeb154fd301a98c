"""Subscribers that fall behind: told that something was lost, then what there is, and never less than that."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from model.hammering import Fleet
from support.hearing import Picture, drained, pairs
from support.segments import Segment
from support.waiting import until

import memcache_shm
from memcache_shm import Change
from memcache_shm.client.feed import AttachedFeed

Cache = memcache_shm.Cache


@pytest.fixture
def tiny(state_dir: Path) -> Iterator[Cache]:
    """A table of one shard whose feed holds some hundred changes."""
    with memcache_shm.open("tiny", memory="512k", max_item="64k", feed="2k") as cache:
        assert cache.attached_table.geometry.shards == 1
        yield cache


def lapse(cache: Cache) -> None:
    """As if nobody had renewed the lease for too long."""
    with Segment(cache.attached_table) as segment:
        word = segment.header("feed_lease")
        segment.put(word, segment.get(word) >> 40 << 40)


def test_who_is_overtaken_is_told_what_there_is(tiny: Cache) -> None:
    """The ring went round: LOST, then the present state, and no end of what is to come."""
    tiny.set("key9999", b"stays")
    with tiny.subscribe("key*") as sub:
        tiny.set("key0", b"goes")
        tiny.delete("key0")
        for number in range(1, 1000):
            tiny.set(f"key{number}", b"%d" % number)
            tiny.set(f"other{number % 7}", b"x")
        heard = list(drained(sub))
        assert heard[0].kind == "lost"
        assert heard[0].key is None
        assert 0 <= heard[0].first < heard[0].last
        picture = Picture()
        for change in heard:
            picture.take(change)
        assert picture.values == {b"key%d" % n: b"%d" % n for n in range(1, 1000)} | {b"key9999": b"stays"}
        tiny.set("key1", b"new")
        assert pairs(drained(sub)) == [("set", b"key1")]


def test_who_did_not_renew_is_told_so(cache: Cache) -> None:
    with cache.subscribe("key") as sub:
        lapse(cache)
        cache.set("key", b"unheard")
        heard = list(drained(sub))
        assert pairs(heard) == [("lost", None), ("set", b"key")]
        assert heard[1].value == b"unheard"


def test_the_lease_is_renewed_while_it_waits(cache: Cache) -> None:
    """Longer than a lease without a change, and the next one is told as usual."""
    with cache.subscribe("key") as sub:
        assert sub.get(6) is None
        cache.set("key", b"value")
        assert pairs(drained(sub)) == [("set", b"key")]


@pytest.mark.parametrize("copies", [False, True])
def test_losses_amid_the_telling_of_what_there_is_do_not_begin_it_anew(tiny: Cache, copies: bool) -> None:
    """Somebody who misses something before each item comes to all items, but is not told to have them until nothing is missed."""
    keys = {b"key%d" % number for number in range(300)}
    for key in keys:
        tiny.set(key, b"x")
    feed = AttachedFeed(tiny, (), copies)
    heard: list[Change] = []
    for _ in range(3 * len(keys)):
        lapse(tiny)
        heard += [change for change in (feed.poll(), feed.poll()) if change is not None]
    assert {change.kind for change in heard} == {"lost", "set"}
    assert {change.key for change in heard if change.kind == "set"} == keys
    lapse(tiny)
    rest = list(iter(feed.poll, None))
    assert rest[0].kind == "lost"
    assert {change.key for change in rest if change.kind == "set"} == keys
    assert [change.kind for change in rest if change.key is None] == ["lost", "synced"][: 1 + copies]
    assert len(rest) < 1.5 * len(keys)
    feed.close()


@pytest.mark.parametrize("told", [1, 100, 199, 200])
def test_a_loss_anywhere_in_a_copy(cache: Cache, told: int) -> None:
    """All that is there comes after it, before the copy is said to be complete; several shards."""
    for number in range(200):
        cache.set(f"key{number}", b"old")
    feed = AttachedFeed(cache, (), True)
    for _ in range(told):
        change = feed.poll()
        assert change is not None
        assert change.kind == "set"
    lapse(cache)
    for number in range(0, 400, 3):
        cache.set(f"key{number}", b"new")
    heard = list(iter(feed.poll, None))
    kinds = [change.kind for change in heard]
    assert kinds[0] == "lost"
    copy = {change.key: change.value for change in heard[: kinds.index("synced")] if change.kind == "set"}
    assert copy == {b"key%d" % n: b"old" if n % 3 else b"new" for n in range(400) if n < 200 or n % 3 == 0}
    feed.close()


def test_overtaken_again_and_again_it_comes_to_the_same(tiny: Cache) -> None:
    """Writers are faster than the listener and its copy, then they rest."""
    over = threading.Event()

    def write() -> None:
        chance = random.Random(1)
        while not over.is_set():
            key = f"key{chance.randrange(300)}"
            if chance.random() < 0.2:
                tiny.delete(key)
            else:
                tiny.set(key, b"%d" % chance.randrange(10**6))

    picture = Picture()
    with tiny.subscribe() as sub:
        writer = threading.Thread(target=write)
        writer.start()
        until(lambda: [picture.take(change) for change in [sub.get(1)] if change] and picture.lost > 3, "it to be overtaken", 30.0, 0.0)
        over.set()
        writer.join()
        for change in drained(sub):
            picture.take(change)
        assert picture.values == {b"key%d" % n: tiny.get(f"key{n}") for n in range(300) if f"key{n}" in tiny}


def test_flush_amid_the_telling_of_what_there_is(tiny: Cache) -> None:
    for number in range(500):
        tiny.set(f"key{number}", b"old")
    with tiny.subscribe() as sub:
        lapse(tiny)
        picture = Picture()
        for _ in range(100):
            change = sub.get(5)
            assert change is not None
            picture.take(change)
        assert picture.values
        tiny.flush_all()
        tiny.set("key7", b"new")
        for change in drained(sub):
            picture.take(change)
        assert picture.values == {b"key7": b"new"}


def test_killed_writers(state_dir: Path) -> None:
    """SIGKILL at any moment, and changes are told as they are in the table."""
    with memcache_shm.open("test", memory="1m", max_item="16k", feed="64k") as cache:

        def start(number: int) -> Callable[[], None]:
            own = memcache_shm.attach("test")
            chance = random.Random(number)

            def work() -> None:
                key = f"key{chance.randrange(100)}"
                roll = chance.random()
                if roll < 0.1:
                    own.delete(key)
                else:
                    own.set(key, b"%d " % chance.randrange(10**9) * chance.randrange(300))

            return work

        fleet = Fleet(start, 2)
        chance = random.Random(5)
        picture = Picture()
        try:
            with cache.subscribe() as sub:
                for _ in range(40):
                    until(lambda: [picture.take(change) for _, change in zip(range(200), drained(sub), strict=False)], "changes")
                    fleet.kill_one(chance)
                fleet.end_all()
                found = {key: cache.get(key) for key in (f"key{n}" for n in range(100))}

                def is_complete() -> bool:
                    for change in drained(sub):
                        picture.take(change)
                    return picture.values == {key.encode(): value for key, value in found.items() if value is not None}

                until(is_complete, "what the last one killed has changed")
        finally:
            fleet.end_all()
