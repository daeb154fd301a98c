"""What the cache object answers, and what it refuses: an attached one, one over each kind of stream, and one that writes through."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memcache_shm
from memcache_shm import IllegalInputError


@pytest.fixture
def cache(opened: Callable[..., memcache_shm.Cache]) -> memcache_shm.Cache:
    """Without options."""
    return opened()


def test_store_and_fetch(cache: memcache_shm.Cache) -> None:
    assert cache.get("key") is None
    assert cache.get("key", 5) == 5
    assert cache.set("key", b"value") is True
    assert cache.get("key") == cache.get(b"key") == b"value"
    assert cache.gets("none", 1, 2) == (1, 2)
    assert cache.add("key", b"other") is False
    assert cache.add("new", b"n") is True
    assert cache.replace("new", b"N") is True
    assert cache.replace("none", b"N") is False
    assert cache.append("new", b"-") is True
    assert cache.prepend("new", b"+") is True
    assert cache.append("none", b"-") is cache.prepend("none", b"-") is False
    assert cache.get("new") == b"+N-"
    assert cache.delete("new") is True
    assert cache.delete("new") is False


def test_cas(cache: memcache_shm.Cache) -> None:
    cache.set("key", b"1")
    value, cas = cache.gets("key")
    assert value == b"1"
    assert isinstance(cas, bytes)
    assert cache.cas("none", b"2", cas) is None
    assert cache.cas("key", b"2", int(cas)) is True
    assert cache.cas("key", b"3", cas) is False
    assert cache.cas("key", b"3", cas.decode()) is False
    assert cache.cas("key", b"3", cas, noreply=True) is True
    assert cache.get("key") == b"2"


@pytest.mark.parametrize("cas", [b"x", "-1", -1, 1.5, None, 2**64, "\u0661", ""])
def test_bad_cas_id(cache: memcache_shm.Cache, cas: Any) -> None:
    with pytest.raises(IllegalInputError):
        cache.cas("key", b"value", cas)


def test_arithmetic(cache: memcache_shm.Cache) -> None:
    assert cache.incr("n", 1) is None
    cache.set("n", b"10")
    assert cache.incr("n", 5) == 15
    assert cache.decr("n", 6) == 9
    assert cache.decr("n", 100) == 0
    cache.set("n", str(2**64 - 1).encode())
    assert cache.incr("n", 1) == 0
    assert cache.incr("n", 2**64 - 1) == 2**64 - 1
    assert cache.incr("n", 0, noreply=True) is None
    cache.set("text", b"ten")
    for bad in (-1, 2**64, 1.0, b"1", "1"):
        with pytest.raises(IllegalInputError):
            cache.incr("n", bad)  # type: ignore[arg-type]
    with pytest.raises(IllegalInputError, match="non-numeric"):
        cache.incr("text", 1)


def test_expiry(cache: memcache_shm.Cache) -> None:
    cache.set("gone", b"1", expire=-1)
    assert cache.get("gone") is None
    cache.set("later", b"1", expire=100)
    assert cache.get("later") == b"1"
    assert cache.touch("later", -1) is True
    assert cache.get("later") is None
    assert cache.touch("later", 100) is False
    cache.set("read", b"1")
    assert cache.gat("read", 100) == b"1"
    value, cas = cache.gats("read", 100)
    assert (value, cas) == cache.gets("read")
    assert cache.gat("none", 5, b"default") == b"default"
    assert cache.gats("none", 5, 1, 2) == (1, 2)
    assert cache.gat("read", -1) == b"1"  # as memcached: given, and gone from then on
    assert cache.get("read") is None
    for far in (2**31 - 1, 2**31, 2**33, 2**62):
        cache.set("key", b"1", expire=far)
        assert cache.touch("key", far) is True
        assert cache.gat("key", far) == cache.get("key") == b"1"
        assert cache.flush_all(delay=far) is True
        cache.set("key", b"1", expire=-far)
        assert cache.get("key") is None
    for bad in (None, "1", 1.0, 2**63):
        with pytest.raises(IllegalInputError):
            cache.set("key", b"", expire=bad)  # type: ignore[arg-type]


def test_several_keys(cache: memcache_shm.Cache) -> None:
    assert cache.set_many({"a": b"1", b"b": 2, "c": "three"}) == []
    assert cache.get_many(["a", b"b", "none"]) == {"a": b"1", b"b": b"2"}
    found = cache.gets_many(iter(["a", "none"]))
    assert found == {"a": cache.gets("a")}
    assert cache.delete_many(["a", "none"]) is True
    assert cache.get_many([]) == {}
    assert cache.get_multi(["c"]) == {"c": b"three"}
    assert cache.set_many({"fits": b"x", "not": b"x" * 70_000, "too": b"y"}) == ["not"]
    assert cache.get_many(["fits", "not", "too"]) == {"fits": b"x", "too": b"y"}


def test_mapping(cache: memcache_shm.Cache) -> None:
    assert cache
    assert len(cache) == 0
    cache["key"] = b"value"
    assert "key" in cache
    assert len(cache) == 1
    assert cache["key"] == b"value"
    del cache["key"]
    del cache["key"]
    assert "key" not in cache
    with pytest.raises(KeyError, match="key"):
        cache["key"]


@pytest.mark.parametrize("size", [0, 1, 100, 32_767, 32_768, 65_536])
def test_value_sizes(cache: memcache_shm.Cache, size: int) -> None:
    value = bytes(range(256)) * (size // 256) + b"\r\n\0"[: size % 256] + b"x" * max(0, size % 256 - 3)
    assert len(value) == size
    cache.set("key", value)
    assert cache.get("key") == cache.gat("key", 0) == value


@pytest.mark.parametrize("value", [bytearray(b"abc"), memoryview(b"abc"), "abc"])
def test_values_that_are_not_bytes(cache: memcache_shm.Cache, value: Any) -> None:
    cache.set("key", value)
    assert cache.get("key") == b"abc"


def test_values_that_do_not_fit(cache: memcache_shm.Cache) -> None:
    cache.set("key", b"old")
    with pytest.raises(memcache_shm.TooLargeError):
        cache.set("key", b"x" * 65_537)
    assert cache.get("key") is None, "as memcached: the old value is stale"
    with pytest.raises(IllegalInputError, match="binary-safe"):
        cache.set("key", "\u0fff")


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "empty"),
        ("x" * 251, "too long"),
        (b"x" * 251, "too long"),
        ("a b", "whitespace"),
        (" a", "whitespace"),
        ("a\r\nflush_all", "whitespace"),
        (b"a\t", "whitespace"),
        ("\x0b", "whitespace"),
        ("a\0b", "null"),
        ("\xe9", "Non-ASCII"),
        ("\ud800", "Unicode"),
    ],
)
def test_illegal_keys(cache: memcache_shm.Cache, key: str | bytes, why: str) -> None:
    for call in (cache.get, cache.delete, cache.touch, lambda k: cache.set(k, b""), lambda k: cache.incr(k, 1)):
        with pytest.raises(IllegalInputError, match=why):
            call(key)


def test_legal_keys(cache: memcache_shm.Cache) -> None:
    for key in ("x" * 250, b"\xff\xfe", "\x01\x1f", "a", b"x" * 250):
        assert cache.set(key, b"1") is True
        assert cache.get(key) == b"1"
    with pytest.raises(TypeError, match="int"):
        cache.get(5)  # type: ignore[arg-type]


def test_key_prefix_and_unicode(opened: Callable[..., memcache_shm.Cache], cache: memcache_shm.Cache) -> None:
    prefixed = opened(key_prefix="p:", allow_unicode_keys=True)
    prefixed.set("\u2603", b"snow")
    assert cache.get("p:\u2603".encode()) == b"snow"
    assert prefixed.get("\u2603") == b"snow"
    assert prefixed.get_many(["\u2603"]) == {"\u2603": b"snow"}
    prefixed.set("x" * 248, b"longest")
    for key in ("x" * 249, "\u2603" * 83, "a\u2003b c"):
        with pytest.raises(IllegalInputError):
            prefixed.get(key)
    unprefixed = opened(allow_unicode_keys=True)
    assert unprefixed.get("p:\u2603") == b"snow"


class JsonSerde:
    """Text as it is, all else as JSON."""

    def serialize(self, key: Any, value: Any) -> tuple[Any, int]:
        return (value, 1) if isinstance(value, str) else (json.dumps(value), 2)

    def deserialize(self, key: Any, value: Any, flags: int) -> Any:
        return value.decode() if flags == 1 else json.loads(value) if flags == 2 else (value, flags)


def test_serde_and_flags(opened: Callable[..., memcache_shm.Cache], cache: memcache_shm.Cache) -> None:
    typed = opened(serde=JsonSerde())
    typed["text"] = "text"
    typed["list"] = [1, 2]
    assert typed.get_many(["text", "list"]) == {"text": "text", "list": [1, 2]}
    assert cache.get("list") == b"[1, 2]"
    assert typed.gets("text")[0] == typed.gat("text") == typed.gats("text")[0] == "text"
    typed.set("list", [1], flags=2**32 - 1)
    assert typed.get("list") == (b"[1]", 2**32 - 1)
    for bad in (-1, 2**32, "1"):
        with pytest.raises(IllegalInputError):
            cache.set("key", b"", flags=bad)  # type: ignore[arg-type]


def test_noreply(opened: Callable[..., memcache_shm.Cache], cache: memcache_shm.Cache) -> None:
    quiet = opened(default_noreply=True)
    assert quiet.add("key", b"1") is quiet.add("key", b"2") is True
    assert quiet.delete("none") is quiet.touch("none") is quiet.replace("none", b"") is True
    assert quiet.delete("none", noreply=False) is False
    assert cache.delete("none", noreply=True) is True


def test_flush_all(cache: memcache_shm.Cache) -> None:
    cache.set("key", b"1")
    assert cache.flush_all(delay=1000) is True
    assert cache.get("key") == b"1"
    assert cache.flush_all() is True
    assert cache.get("key") is None
    cache.set("key", b"2")
    assert cache.get("key") == b"2"


def test_stats(cache: memcache_shm.Cache) -> None:
    before = cache.stats()
    cache.set("key", b"1")
    cache.get("key")
    cache.get("none")
    stats = cache.stats()
    counted = 0 if getattr(cache, "readonly", False) else 1  # who maps it without the right to write cannot count
    assert [stats[name] - before[name] for name in (b"curr_items", b"get_hits", b"get_misses")] == [1, counted, counted]
    assert cache.stats("settings")[b"item_size_max"] == 65_536
    assert cache.version().startswith(b"1.6.")
    assert cache.stats()[b"version"] == cache.version()


def test_only_attached(state_dir: Path) -> None:
    with memcache_shm.open("test", memory="1m", max_item="64k") as cache:
        assert cache.stats("shm")[b"shards"] >= 1
        with pytest.raises(IllegalInputError, match="cachedump"):
            cache.stats("cachedump", "1", "1")
        with pytest.raises(memcache_shm.TooLargeError, match="65536 bytes"):
            cache.set("key", b"x" * 65_537, noreply=True)


def test_full_without_eviction(state_dir: Path) -> None:
    cache = memcache_shm.open("full", elements=3, element_size=10, evict=False)
    for key in "abc":
        cache.set(key, b"1")
    with pytest.raises(memcache_shm.NoSpaceError, match="full"):
        cache.set("d", b"1")
    assert cache.set_many({"a": b"2", "e": b"1"}) == ["e"]
    assert cache.get("a") == b"2"
    assert len(cache) == 3


def test_full_with_eviction(state_dir: Path) -> None:
    cache = memcache_shm.open("full", elements=3, element_size=10)
    for number in range(100):
        cache.set(f"key{number}", b"1")
        assert cache.get(f"key{number}") == b"1"
    assert len(cache) == 3
