"""Hearing of changes through an attached cache: what is told, and when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.hearing import Picture, drained, pairs
from support.waiting import until

import memcache_shm
from memcache_shm import Change
from memcache_shm.client.feed import AttachedFeed

Cache = memcache_shm.Cache
FAR_S = 1000


class Json:
    """A serde as pymemcache has them."""

    def serialize(self, key: object, value: object) -> tuple[bytes, int]:
        return json.dumps(value).encode(), 7

    def deserialize(self, key: bytes, value: bytes, flags: int) -> object:
        assert isinstance(key, bytes)
        return json.loads(value) if flags == 7 else value


def test_every_kind(cache: Cache) -> None:
    with cache.subscribe("key") as sub:
        before_s = int(time.time())  # just behind a second's beginning an expiry is that second's
        cache.set("key", b"value", expire=FAR_S, flags=5)
        (change,) = drained(sub)
        assert change[:4] == ("set", b"key", b"value", 5)
        assert before_s + FAR_S <= change.exptime <= time.time() + FAR_S + 1
        assert b"%d" % change.cas == cache.gets("key")[1]
        cache.touch("key", 2 * FAR_S)
        (touched,) = drained(sub)
        assert touched[:4] == ("touch", b"key", None, 5)
        assert before_s + 2 * FAR_S <= touched.exptime <= time.time() + 2 * FAR_S + 1
        assert touched.cas == change.cas
        cache.delete("key")
        assert list(drained(sub)) == [Change("delete", b"key", cas=change.cas)]
        cache.set("key", b"1")
        cache.incr("key", 41)
        assert [change[:3] for change in drained(sub)] == [("set", b"key", b"42")]
        cache.append("key", b"!")
        assert [change[:3] for change in drained(sub)] == [("set", b"key", b"42!")]
        cache.flush_all()
        cache.set("key", b"after")
        assert pairs(drained(sub)) == [("flush", None), ("set", b"key")]


def test_expiry_is_told_when_it_is_noticed(cache: Cache) -> None:
    with cache.subscribe("key") as sub:
        cache.set("key", b"value", expire=1)
        (stored,) = drained(sub)
        until(lambda: "key" not in cache, "the item to expire")
        cache.set("key", b"again")
        assert pairs(drained(sub))[-1] == ("set", b"key")
        cache.set("key", b"value", expire=-1)
        until(lambda: cache.attached_table.reclaim(0.1) is False and pairs(drained(sub))[-1:] == [("expire", b"key")], "the end to be told")
        assert stored.exptime - time.time() < 2


def test_what_is_over_at_once_is_told_although_nobody_sweeps(cache: Cache) -> None:
    for key in ("stored", "touched", "gone"):
        cache.set(key, b"value")
    with cache.subscribe() as sub:
        cas = int(cache.gets("touched")[1] or 0)
        cache.set("stored", b"new", expire=-1)
        cache.touch("touched", -1)
        cache.set("gone", b"new", expire=-1)
        cache.set("gone", b"newer")
        changes = list(drained(sub))
        heard = {key: [change for change in changes if change.key == key] for key in (b"stored", b"touched", b"gone")}
        assert pairs(heard[b"stored"]) == [("expire", b"stored")]
        assert heard[b"touched"] == [Change("expire", b"touched", cas=cas)]
        assert pairs(heard[b"gone"])[-1] == ("set", b"gone")


def test_evictions(state_dir: Path) -> None:
    with memcache_shm.open("few", elements=4, element_size=50) as few, few.subscribe() as sub:
        picture = Picture()
        kinds = set()
        for number in range(50):
            few.set(f"key{number}", b"%d" % number)
            for change in drained(sub):
                kinds.add(change.kind)
                picture.take(change)
        assert kinds == {"set", "evict"}
        assert picture.values == {b"key%d" % n: b"%d" % n for n in range(50) if few.get(f"key{n}") is not None}
        assert len(picture.values) == len(few)


PATTERNS = {
    (): {b"a", b"ab", b"abc", b"b"},
    ("*",): {b"a", b"ab", b"abc", b"b"},
    ("a*",): {b"a", b"ab", b"abc"},
    (b"ab*",): {b"ab", b"abc"},
    ("ab",): {b"ab"},
    ("b", b"abc", "b"): {b"b", b"abc"},
    ("abcd", "x*"): set(),
}


@pytest.mark.parametrize(("patterns", "told"), PATTERNS.items(), ids=map(str, PATTERNS))
def test_patterns(cache: Cache, patterns: tuple[str | bytes, ...], told: set[bytes]) -> None:
    with cache.subscribe(*patterns) as sub:
        for key in ("a", "ab", "abc", "b"):
            cache.set(key, b"1")
        assert {change.key for change in drained(sub)} == told


@pytest.mark.parametrize("pattern", ["", "a b", "a\n*", "x" * 251, "x" * 251 + "*", "ключ", b"nul\0"])
def test_patterns_that_can_match_nothing_are_refused(cache: Cache, pattern: str | bytes) -> None:
    with pytest.raises(memcache_shm.IllegalInputError):
        cache.subscribe(pattern)


@pytest.mark.parametrize("pattern", [["a*"], 1, None])
def test_what_is_no_pattern_at_all(cache: Cache, pattern: object) -> None:
    with pytest.raises(memcache_shm.IllegalInputError, match="patterns are keys or prefixes"):
        cache.subscribe(pattern)  # type: ignore[arg-type]


def test_longest_keys_and_unicode(cache: Cache) -> None:
    wide = memcache_shm.attach("test", allow_unicode_keys=True)
    with cache.subscribe("x" * 250) as exact, cache.subscribe("x" * 249 + "*") as prefix, wide.subscribe("ключ*") as sub:
        cache.set("x" * 250, b"1")
        wide.set("ключ1", b"2")
        assert [pairs(drained(each)) for each in (exact, prefix)] == [[("set", b"x" * 250)]] * 2
        assert pairs(drained(sub)) == [("set", "ключ1".encode())]


def test_key_prefix_and_serde(cache: Cache) -> None:
    mine = memcache_shm.attach("test", key_prefix="mine:", serde=Json())
    with mine.subscribe() as everything, mine.subscribe("a*", "b") as sub:
        cache.set("a1", b"other")
        cache.set("mine:c", b"as it is")
        mine.set("a1", {"n": 1})
        mine.set("b", [2])
        mine.delete("b")
        assert {change.key: change.value for change in drained(sub)} == {b"a1": {"n": 1}, b"b": None}
        assert {change.key for change in drained(everything)} == {b"a1", b"b", b"c"}
        cache.flush_all()
        assert pairs(drained(sub)) == [("flush", None)]


def test_a_serde_that_fails_costs_one_change(cache: Cache) -> None:
    mine = memcache_shm.attach("test", serde=Json())
    with mine.subscribe("key") as sub:
        cache.set("key", b"no json", flags=7)
        with pytest.raises(json.JSONDecodeError):
            sub.get(5)
        mine.set("key", 1)
        change = sub.get(5)
        assert change is not None
        assert change.value == 1


def test_only_the_last_of_many_values_is_sure(roomy: Cache) -> None:
    with roomy.subscribe("key") as sub:
        for number in range(1000):
            roomy.set("key", b"%d" % number)
        values = [change.value for change in drained(sub)]
        assert values[-1] == b"999"
        assert len(values) < 1000


def test_large_and_binary_values(cache: Cache) -> None:
    values = [b"", b"\0\r\n\xff", os.urandom(60_000)]
    with cache.subscribe() as sub:
        for value in values:
            cache.set("key", value)
            assert [change.value for change in drained(sub)] == [value]


def test_listening_is_no_use_and_no_miss(cache: Cache) -> None:
    with cache.subscribe() as sub:
        before = cache.stats()
        cache.set("key", b"value")
        assert pairs(drained(sub)) == [("set", b"key")]
        after = cache.stats()
        assert [after[name] - before[name] for name in (b"get_hits", b"get_misses")] == [0, 0]


def test_a_change_from_another_process_comes_at_once(cache: Cache) -> None:
    code = "import sys, memcache_shm; c = memcache_shm.attach('test'); sys.stdin.readline(); c.set('key', b'value')"
    with cache.subscribe("key") as sub, subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True) as writer:
        assert sub.get(0) is None
        writer.communicate("go\n")
        change = sub.get(20)
        assert change is not None
        assert change[:3] == ("set", b"key", b"value")


def test_timeouts(cache: Cache) -> None:
    with cache.subscribe("key") as sub:
        cache.set("other", b"1")
        began_s = time.monotonic()
        assert sub.get(0.3) is None
        assert 0.3 <= time.monotonic() - began_s < 2
        assert sub.get(0) is None
        assert sub.get(-1) is None


def test_a_stream_that_copies_tells_a_touch_with_its_value(cache: Cache) -> None:
    cache.set("key", b"value", flags=3)
    feed = AttachedFeed(cache, (), True)
    assert [change.kind for change in iter(feed.poll, None)][:2] == ["set", "synced"]
    cache.touch("key", FAR_S)
    change = next(change for change in iter(feed.poll, 0) if change is not None and change.key)
    assert change[:4] == ("set", b"key", b"value", 3)
    assert change.exptime > time.time()
    feed.close()
