"""Expired and flushed items give their space back without anybody touching them: the daemon's sweep in the background, and one by hand."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.client import Client
from support.segments import Segment
from support.servers import Daemon
from support.waiting import until

import memcache_shm
from memcache_shm.storage.check import check_table
from memcache_shm.storage.table import Table

NS = 1_000_000_000
LONG_S = 1000  # what lives so long outlives the test
ITEMS = 3000
SLICE = 64  # buckets that a sweep does before it looks at the clock
TABLES: dict[str, dict[str, Any]] = {
    "memory": {"memory": "2m", "max_item": "8k"},
    "memory-refusing": {"memory": "2m", "max_item": "8k", "evict": False},
    "elements": {"elements": 2 * ITEMS, "element_size": 100},
}
DAEMONS = [("-m", "8"), ("-m", "8", "-M"), ("8000", "100")]
each_daemon = pytest.mark.parametrize("geometry", DAEMONS, ids=" ".join)
each_table = pytest.mark.parametrize("name", TABLES)


# The daemon's sweep


def store(client: Client, name: bytes, number: int, exptime_s: int) -> list[bytes]:
    """So many items in one go; their keys."""
    keys = [b"%b-%d" % (name, i) for i in range(number)]
    client.send(b"".join(b"set %b 0 %d 50 noreply\r\n%050d\r\n" % (key, exptime_s, i) for i, key in enumerate(keys)))
    assert client.ask(b"version").startswith(b"VERSION")
    return keys


def count_there(client: Client, keys: list[bytes]) -> int:
    return sum(client.get(key) is not None for key in keys)


def figures(client: Client) -> dict[str, int]:
    """Those of `stats shm`."""
    client.send(b"stats shm\r\n")
    found = {}
    while (line := client.line()) != b"END":
        _, name, value = line.decode().split(" ", 2)
        if value.isdigit():
            found[name] = int(value)
    return found


def records(client: Client) -> int:
    return figures(client)["shm_records"]


@each_daemon
def test_expired_items_go_by_themselves(geometry: tuple[str, ...], state_dir: Path) -> None:
    """Nobody asks for them again: records and space come down to those that live, and the figures tell who went."""
    with Daemon("--name", "app", *geometry) as daemon, Client(daemon) as client:
        living = store(client, b"lives", 100, 0) + store(client, b"lives-long", 100, LONG_S)
        used = figures(client)["shm_arena_used_bytes"]
        dying = store(client, b"dies", ITEMS, 1)
        fetched = count_there(client, dying[:50])
        until(lambda: records(client) == len(living), "expired items to go")
        assert figures(client)["shm_arena_used_bytes"] == used
        stats = client.stats()
        assert int(stats["curr_items"]) == len(living)
        assert int(stats["crawler_reclaimed"]) == int(stats["reclaimed"]) == ITEMS
        assert int(stats["expired_unfetched"]) == ITEMS - fetched
        assert int(stats["crawler_items_checked"]) >= ITEMS
        assert stats["evictions"] == "0"
        assert count_there(client, living) == len(living)
        assert daemon.stop() == 0


@pytest.mark.parametrize("delay", [b"", b" 1"], ids=["now", "in a second"])
def test_flushed_items_go_by_themselves(delay: bytes, state_dir: Path) -> None:
    with Daemon("--name", "app", "-m", "8", workers=2) as daemon, Client(daemon) as client:
        store(client, b"flushed", ITEMS, 0)
        assert client.ask(b"flush_all" + delay) == b"OK"
        until(lambda: records(client) == 0, "flushed items to go")
        assert figures(client)["shm_arena_used_bytes"] == 0
        stats = client.stats()
        assert stats["curr_items"] == "0"
        assert int(stats["crawler_reclaimed"]) == ITEMS
        assert stats["expired_unfetched"] == stats["evictions"] == "0"


def test_items_without_expiry_are_left_alone(state_dir: Path) -> None:
    """While others come and go, and when nothing expires at all."""
    with Daemon("--name", "app", "-m", "8") as daemon, Client(daemon) as client:
        keys = store(client, b"stays", 500, 0)
        before = client.gets(keys[0])
        for turn in range(2):
            store(client, b"goes-%d" % turn, 200, 1)
            until(lambda: records(client) == len(keys), "expired items to go")
        assert count_there(client, keys) == len(keys)
        assert client.gets(keys[0]) == before


def test_an_attached_process_gets_the_space(state_dir: Path) -> None:
    """A table that refuses when full: expired items of one process make room for another's, whoever sweeps."""
    with Daemon("--name", "app", "-m", "1", "-I", "8k", "-M") as daemon, Client(daemon) as client, memcache_shm.attach("app") as cache:
        with pytest.raises(memcache_shm.NoSpaceError):
            for number in range(10_000):
                cache.set(f"k{number}", b"v" * 1000, expire=2)
        until(lambda: records(client) == 0, "expired items to go")
        cache.set("k", b"v" * 8000)
        assert client.get(b"k") == b"v" * 8000


# By hand


@contextmanager
def opened(name: str) -> Iterator[tuple[memcache_shm.Cache, Table, Segment]]:
    """A cache, its table and its memory; whole at the end, and removed."""
    cache = memcache_shm.open("swept", **TABLES[name])
    try:
        with Segment(cache.attached_table) as segment:
            yield cache, cache.attached_table, segment
            assert check_table(cache.attached_table).findings == []
    finally:
        cache.close()
        memcache_shm.unlink("swept")


def pass_time(segment: Segment, seconds: int) -> None:
    """Put the table's clock forward."""
    shift = segment.header("clock_shift_ns")
    segment.put(shift, segment.get(shift) + seconds * NS)


def fill(cache: memcache_shm.Cache) -> dict[str, bytes]:
    """A third of the items never expires, a third late, a third soon; the first two."""
    for number in range(ITEMS):
        cache.set(f"k{number}", b"%050d" % number, expire=(0, LONG_S, 10)[number % 3])
    return {f"k{number}": b"%050d" % number for number in range(ITEMS) if number % 3 < 2}


@each_table
def test_reclaim_takes_the_dead_and_nothing_else(name: str, state_dir: Path) -> None:
    with opened(name) as (cache, table, segment):
        living = fill(cache)
        assert not table.reclaim(10.0)
        assert table.stats()["shm_records"] == ITEMS
        pass_time(segment, 11)
        assert not table.reclaim(10.0), "all is done in far less"
        stats = table.stats()
        assert stats["shm_records"] == len(cache) == len(living)
        assert stats["crawler_reclaimed"] == stats["reclaimed"] == stats["expired_unfetched"] == ITEMS - len(living)
        assert stats["evictions"] == 0
        assert cache.get_many(f"k{number}" for number in range(ITEMS)) == living
        pass_time(segment, LONG_S)
        assert not table.reclaim(10.0)
        assert table.stats()["shm_records"] == ITEMS // 3


@each_table
def test_reclaim_stops_at_its_limit(name: str, state_dir: Path) -> None:
    """Without any time it does one slice and says that some are left; the next call goes on where it stopped."""
    with opened(name) as (cache, table, segment):
        living = fill(cache)
        pass_time(segment, 11)
        calls, before = 0, table.stats()
        while table.reclaim(0.0):
            calls += 1
            after = table.stats()
            assert after["shm_records"] >= len(living)
            assert after["crawler_items_checked"] - before["crawler_items_checked"] <= SLICE * 30
            before = after
        stats = table.stats()
        assert stats["shm_records"] == len(living)
        assert 1 < calls <= 2 * (stats["shm_buckets"] // SLICE + 2 * stats["shm_shards"]) + ITEMS // SLICE
        assert cache.get_many(living) == living


@each_table
def test_reclaim_after_a_flush(name: str, state_dir: Path) -> None:
    """At once, and when its time comes."""
    with opened(name) as (cache, table, segment):
        fill(cache)
        cache.flush_all()
        assert not table.reclaim(10.0)
        assert table.stats()["shm_records"] == table.stats()["shm_arena_used_bytes"] == 0
        fill(cache)
        cache.flush_all(delay=100)
        assert not table.reclaim(10.0)
        assert table.stats()["shm_records"] == len(cache) == ITEMS
        pass_time(segment, 101)
        assert not table.reclaim(10.0)
        assert table.stats()["shm_records"] == table.stats()["shm_arena_used_bytes"] == 0


@each_table
def test_nothing_to_reclaim(name: str, state_dir: Path) -> None:
    """An empty table, and one of items that all live: no look at any item."""
    with opened(name) as (cache, table, segment):
        assert not table.reclaim(0.0)
        for number in range(ITEMS):
            cache.set(f"k{number}", b"v", expire=LONG_S * (number % 2))
        assert not table.reclaim(0.0)
        assert table.stats()["crawler_items_checked"] == 0
        pass_time(segment, LONG_S + 1)
        while table.reclaim(0.0):
            pass
        seen = table.stats()["crawler_items_checked"]
        assert not table.reclaim(10.0)
        assert table.stats()["crawler_items_checked"] == seen, "what is left never expires"


@each_table
def test_touched_in_time(name: str, state_dir: Path) -> None:
    """A touch saves an item, another ends one."""
    with opened(name) as (cache, table, segment):
        for number in range(100):
            cache.set(f"k{number}", b"v", expire=10)
        for number in range(50):
            assert cache.touch(f"k{number}", 0 if number % 2 else LONG_S)
        cache.set("ended", b"v")
        assert cache.touch("ended", 5)
        pass_time(segment, 11)
        assert not table.reclaim(10.0)
        assert cache.get_many([*(f"k{number}" for number in range(100)), "ended"]).keys() == {f"k{number}" for number in range(50)}
        assert table.stats()["shm_records"] == 50


def test_only_who_may_write_reclaims(state_dir: Path) -> None:
    with opened("memory") as (cache, table, segment):
        fill(cache)
        pass_time(segment, 11)
        onlooker = Table.attach(table.shmid, table.semid, table.uuid, readonly=True)
        assert not onlooker.reclaim(10.0)
        assert onlooker.stats()["shm_records"] == ITEMS
        onlooker.close()
        with pytest.raises(ValueError, match="closed"):
            onlooker.reclaim(10.0)


@each_table
def test_reclaim_amid_everything_else(name: str, state_dir: Path) -> None:
    """Short sweeps between random operations, the clock going on: never a dead item, never one too few."""
    chance = random.Random(3)
    with opened(name) as (cache, table, segment):
        ends: dict[str, float] = {}
        now_s = 0
        for step in range(3000):
            key = f"k{chance.randrange(800)}"
            if chance.random() < 0.1:
                cache.delete(key)
                ends.pop(key, None)
            else:
                expire = chance.choice([0, 20, 200])
                cache.set(key, b"v" * chance.randrange(100), expire=expire)
                ends[key] = now_s + expire if expire else float("inf")
            if step % 50 == 0:
                pass_time(segment, 7)
                now_s += 7
                table.reclaim(chance.choice([0.0, 10.0]))
        assert cache.get_many(ends).keys() >= {key for key, end in ends.items() if end > now_s + 5}
        assert not cache.get_many(key for key, end in ends.items() if end <= now_s)
