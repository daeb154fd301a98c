"""Listening to single keys that come and go."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import memcache_shm
from memcache_shm.client.changes import Change
from memcache_shm.client.keyfeed import KeyFeed, listen_to_keys
from memcache_shm.client.local import attach_local
from memcache_shm.storage import registry


@pytest.fixture
def feed(cache: memcache_shm.Cache) -> Iterator[KeyFeed]:
    """Of the same table, with its place."""
    table = attach_local("test")
    feed = listen_to_keys(table)
    assert feed.poll() is None
    assert feed.has_place
    yield feed
    feed.close()
    table.close()


def told(feed: KeyFeed) -> list[tuple[str, bytes | None, int]]:
    return [(change.kind, change.key, change.cas) for change in iter(feed.poll, None) if isinstance(change, Change)]


def test_only_what_is_wanted_is_told(cache: memcache_shm.Cache, feed: KeyFeed) -> None:
    feed.add(b"a")
    feed.add(b"a")
    cache.set("a", b"1")
    cache.set("b", b"1")
    cache.touch("a", 100)
    cache.delete("a")
    version = told(feed)[0][2]
    assert version > 0
    feed.add(b"b")
    cache.set("b", b"2")
    feed.discard(b"a")
    feed.discard(b"a")
    cache.set("a", b"2")
    assert [(kind, key) for kind, key, _ in told(feed)] == [("set", b"b")]


def test_every_event_with_its_version(cache: memcache_shm.Cache, feed: KeyFeed) -> None:
    """Also of versions that are not there any more."""
    feed.add(b"a")
    for value in (b"1", b"2"):
        cache.set("a", value)
    cache.delete("a")
    first, second, gone = told(feed)
    assert (first[0], second[0], gone[0]) == ("set", "set", "delete")
    assert first[2] < second[2] == gone[2]
    cache.flush_all()
    assert told(feed) == [("flush", None, 0)]


def test_wanted_when_it_is_told_not_when_it_happened(cache: memcache_shm.Cache, feed: KeyFeed) -> None:
    cache.set("a", b"1")
    feed.add(b"a")
    assert [(kind, key) for kind, key, _ in told(feed)] == [("set", b"a")]


def test_a_look(cache: memcache_shm.Cache, feed: KeyFeed) -> None:
    hits = cache.stats()[b"get_hits"]
    assert feed.look(b"a") is None
    cache.set("a", b"x" * 1000, expire=100)
    seen = feed.look(b"a")
    assert seen is not None
    value, version, flushed, exptime = seen
    assert (value, flushed) == (b"x" * 64, 0)
    assert exptime > 0
    cache.set("a", b"")
    again = feed.look(b"a")
    assert again is not None
    assert (again[0], again[3]) == (b"", 0)
    assert again[1] > version
    cache.flush_all()
    assert feed.look(b"a") is None
    cache.set("a", b"1")
    after = feed.look(b"a")
    assert after is not None
    assert again[1] <= after[2] < after[1]
    assert cache.stats()[b"get_hits"] == hits


def test_large_values_in_several_runs_are_looked_at(cache: memcache_shm.Cache, feed: KeyFeed) -> None:
    for number in range(200):
        cache.set(f"filler{number}", b"x" * (3000 + 13 * number))
    for number in range(0, 200, 2):
        cache.delete(f"filler{number}")
    value = bytes(range(256)) * 250
    cache.set("large", value)
    seen = feed.look(b"large")
    assert seen is not None
    assert seen[0] == value[:64]


def test_many_keys(cache: memcache_shm.Cache, feed: KeyFeed) -> None:
    names = [b"key%d" % number for number in range(3000)]
    for name in names:
        feed.add(name)
    for name in names[::2]:
        feed.discard(name)
    for name in names[:60]:
        cache.set(name, b"1")
    assert {key for _, key, _ in told(feed)} == set(names[1:60:2])


def test_lost_is_told_once_without_a_copy(cache: memcache_shm.Cache, feed: KeyFeed) -> None:
    cache.set("a", b"1")
    feed.add(b"a")
    for _ in range(5000):
        cache.set("a", b"1")
    found = told(feed)
    assert found[0][0] == "lost"
    assert {kind for kind, _, _ in found[1:]} <= {"set"}
    cache.set("a", b"2")
    assert [kind for kind, _, _ in told(feed)] == ["set"]


def test_a_table_made_anew(cache: memcache_shm.Cache, feed: KeyFeed) -> None:
    feed.add(b"a")
    cache.set("a", b"1")
    registry.remove("test")
    with pytest.raises(memcache_shm.TableRemovedError):
        feed.poll()
    with pytest.raises(memcache_shm.BusyError):
        feed.look(b"a")
    with memcache_shm.open("test", memory="1m", max_item="64k") as anew:
        assert [kind for kind, _, _ in told(feed)] == ["lost"]
        assert feed.look(b"a") is None
        anew.set("a", b"2")
        assert [kind for kind, _, _ in told(feed)] == ["set"]


def test_what_is_refused(cache: memcache_shm.Cache, feed: KeyFeed) -> None:
    for key in (b"", 251 * b"k"):
        with pytest.raises(memcache_shm.IllegalInputError):
            feed.add(key)
        feed.discard(key)
    with memcache_shm.attach("test", readonly=True) as reader, pytest.raises(memcache_shm.ReadOnlyError):
        listen_to_keys(reader)
    with memcache_shm.open("deaf", memory="1m", feed=0) as deaf, pytest.raises(memcache_shm.FeedOffError):
        listen_to_keys(deaf).poll()
    feed.close()
    with pytest.raises(memcache_shm.ClosedError):
        feed.poll()
