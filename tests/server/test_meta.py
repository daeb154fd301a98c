"""Meta commands beneath the wire: what takes no lock, what is counted, what moves and repairs leave alone, how idle times are told."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.doors import open_door

import memcache_shm
from memcache_shm.server.buffers import Pool
from memcache_shm.server.config import ServerConfig
from memcache_shm.server.counters import Counters
from memcache_shm.server.executor import Executor

READ_ONLY = b"SERVER_ERROR table is read-only\r\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[memcache_shm.Cache]:
    monkeypatch.setenv("MEMCACHE_SHM_DIR", str(tmp_path))
    with memcache_shm.open("meta", memory="1m", max_item="64k") as cache:
        yield cache
    memcache_shm.unlink("meta")


@pytest.mark.parametrize(
    "flags", [b"", b"v", b"c f h k l O1 s t v", b"q v", b"N30", b"N30 R30 v", b"R30", b"u v", b"C1 v", b"c C5", b"I P1 L1 E3 x M+ D1 J1"]
)
def test_a_hit_takes_no_lock(cache: memcache_shm.Cache, flags: bytes) -> None:
    """A reader without the right to write is told the same."""
    cache.set("k", b"value", expire=1000)
    with memcache_shm.attach("meta", readonly=True) as reader:
        watching, door = (open_door(handle.attached_table) for handle in (reader, cache))
        told = watching.answer(b"mg k %s\r\n" % flags)
        assert told.startswith((b"HD", b"VA"))
        assert door.answer(b"mg k %s\r\n" % flags) == told
        assert watching.answer(b"mg none v s q\r\nmg none k\r\n") == b"EN knone\r\n"


def test_who_has_lost_takes_no_lock(cache: memcache_shm.Cache) -> None:
    cache.set("k", b"value", expire=1000)
    with memcache_shm.attach("meta", readonly=True) as reader:
        watching, door = (open_door(handle.attached_table) for handle in (reader, cache))
        for change in (b"mg k T2000\r\n", b"mg k R5000\r\n", b"mg none N9\r\n", b"md k I\r\n", b"ms k 1\r\nx\r\n", b"ma k\r\n"):
            assert watching.answer(change) == READ_ONLY
        door.answer(b"md k I\r\n")
        assert watching.answer(b"mg k v\r\n") == READ_ONLY, "it would win"
        assert door.answer(b"mg k v\r\n") == b"VA 5 X W\r\nvalue\r\n"
        assert watching.answer(b"mg k v R5000 N9\r\n") == b"VA 5 Z X\r\nvalue\r\n"


def test_counts(cache: memcache_shm.Cache) -> None:
    """As memcached counts, but for `cmd_meta`, in which it has me alone."""
    counters = Counters(1)
    table = cache.attached_table
    config = ServerConfig(table=table, listeners=(), renew_table=lambda: table)
    door = Executor(config, Pool(1 << 20), counters, 0, lambda group: b"")

    def grown(requests: bytes) -> dict[str, int]:
        before = table.stats()
        door.answer(requests)
        names = [f"{what}_{how}" for what in ("get", "touch", "delete", "incr", "decr", "cas") for how in ("hits", "misses")]
        after = table.stats()
        return {name: after[name] - before[name] for name in [*names, "cmd_set", "cas_badval"] if after[name] != before[name]}

    assert grown(b"ms k 1\r\n1\r\n") == {"cmd_set": 1}
    assert grown(b"mg k\r\nmg k v u\r\nmg none\r\nmg none q\r\n") == {"get_hits": 2, "get_misses": 2}
    assert grown(b"mg k T30 v\r\n") == {"touch_hits": 1}
    assert grown(b"mg none T30\r\n") == {"get_misses": 1}
    assert grown(b"mg v N30\r\nmg w N30 T40\r\n") == {"get_hits": 1, "touch_hits": 1}
    assert grown(b"me k\r\nme none\r\nmn\r\n") == {}
    assert grown(b"md k I\r\nmg k\r\nmg k\r\n") == {"get_hits": 2}
    assert grown(b"md k C999\r\nmd none\r\nmd none I\r\nmd v\r\nmd w x\r\n") == {"delete_misses": 3, "delete_hits": 2}
    assert grown(b"ma k\r\nma k MD\r\nma none\r\nma none MD\r\nma n N0\r\nma n C999\r\n") == {
        "incr_hits": 1,
        "decr_hits": 1,
        "incr_misses": 1,
        "decr_misses": 1,
    }
    assert grown(b"ms k 1 C999\r\n1\r\nms none 1 C999\r\n1\r\nms k 1 MA C999\r\n1\r\n") == {"cmd_set": 3, "cas_badval": 1, "cas_misses": 1}
    assert grown(b"gat 30 k\r\ngat 30 none\r\n") == {"touch_hits": 1, "touch_misses": 1}
    assert counters.sums()["cmd_meta"] == 29


def test_idle_time(cache: memcache_shm.Cache) -> None:
    """In units of 64 s, at least so long; the clock is moved."""
    table = cache.attached_table
    config = ServerConfig(table=table, listeners=(), renew_table=lambda: table, allow_debugtime=True)
    door = Executor(config, Pool(1 << 20), Counters(1), 0, lambda group: b"")
    assert door.answer(b"debugtime 1\r\nms k 1\r\na\r\nmg k l u\r\n") == b"OK\r\nHD\r\nHD l0\r\n"
    for passed in (64, 100, 1000, 10_000):
        door.answer(b"debugtime %d\r\n" % passed)
        idle = re.fullmatch(rb"ME k exp=-1 la=(\d+) .*\r\n", door.answer(b"me k\r\n"))
        assert idle
        assert passed - 64 <= int(idle[1]) <= passed + 1
        assert door.answer(b"mg k l\r\nmg k l\r\n") == b"HD l%s\r\nHD l0\r\n" % idle[1]


def test_moving_keeps_state_and_foreign_ids(cache: memcache_shm.Cache) -> None:
    """Small items fill the table and the index grows into the place of records, which are moved, and evicted in the end."""
    door = open_door(cache.attached_table)
    names = [b"k%d" % number for number in range(200)]
    for number, name in enumerate(names):
        door.answer(b"ms %s 600 E%d q\r\n%s\r\nmd %s I E%d q\r\n" % (name, 2**50 + number, b"x" * 600, name, 2**51 + number))
        if number % 2:
            door.answer(b"mg %s\r\n" % name)
    seen = set()
    for number in itertools.count():
        cache.set(f"small{number}", b"")
        if number % 500 == 0:
            there = check_states(door, names)
            seen.add(there)
            if there < len(names) // 2:
                break
    assert len(seen) > 1


def check_states(door: Executor, names: list[bytes]) -> int:
    """Whether each item that is left is as it was; how many are left."""
    left = 0
    for number, name in enumerate(names):
        told = door.answer(b"mg %s c s u\r\n" % name)
        if told == b"EN\r\n":
            continue
        left += 1
        assert told == b"HD c%d s600 %s\r\n" % (2**51 + number, b"Z X" if number % 2 else b"X W")
        if not number % 2:  # so that the next look finds it as this one did
            door.answer(b"md %s I E%d q\r\n" % (name, 2**51 + number))
    return left
