"""Several processes and threads on one table: no torn value, no foreign value, no lock left behind by a killed writer."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from model.hammering import FAILED, Fleet, Hammer, check_all, check_value, make_value

import memcache_shm

PROCESSES = 4
SECONDS = 2.0
KILL_EVERY_S = 0.02
TABLES = {
    "memory": ({"memory": "4m", "max_item": "256k"}, 200_000),
    "memory-small": ({"memory": "128k", "max_item": "8k"}, 8000),
    "elements": ({"elements": 500, "element_size": 3000}, 3000),
}
LARGE = 1 << 20
TORTURE_S = float(os.environ.get("TORTURE_S", "600"))


@pytest.fixture
def fleets() -> Iterator[list[Fleet]]:
    """Fleets put in here are ended with the test."""
    started: list[Fleet] = []
    yield started
    for fleet in started:
        fleet.end_all()


def hammer_fleet(table: str, fleets: list[Fleet]) -> tuple[memcache_shm.Cache, Fleet]:
    options, largest_bytes = TABLES[table]
    cache = memcache_shm.open("hammered", **options)
    fleets.append(Fleet(lambda number: Hammer("hammered", largest_bytes, number).strike, PROCESSES))
    return cache, fleets[-1]


def hammer(cache: memcache_shm.Cache, fleet: Fleet, seconds: float, kills: bool) -> None:
    """Let them work, with kills now and then; afterwards everything in the table is whole and every key can be written."""
    chance = random.Random(len(fleet.pids))
    own = Hammer("hammered", 1000, 0)
    end = time.monotonic() + seconds
    next_kill = time.monotonic()
    while time.monotonic() < end:
        before = time.monotonic()
        own.strike()
        assert time.monotonic() - before < 1.0, "no operation waits for a dead or a busy writer"
        if kills and time.monotonic() >= next_kill:
            fleet.kill_one(chance)
            next_kill += KILL_EVERY_S * 2 * chance.random()
    assert FAILED not in fleet.end_all()
    assert check_all(cache) >= 0
    if not kills:
        assert cache.stats()[b"total_items"] > 1000
    cache.close()


@pytest.mark.parametrize("table", TABLES)
def test_processes_hammer_one_table(state_dir: object, fleets: list[Fleet], table: str) -> None:
    hammer(*hammer_fleet(table, fleets), SECONDS, kills=False)


@pytest.mark.parametrize("table", TABLES)
def test_writers_killed_anywhere(state_dir: object, fleets: list[Fleet], table: str) -> None:
    hammer(*hammer_fleet(table, fleets), 2 * SECONDS, kills=True)


@pytest.mark.torture
@pytest.mark.parametrize("table", TABLES)
def test_writers_killed_anywhere_for_long(state_dir: object, fleets: list[Fleet], table: str) -> None:
    hammer(*hammer_fleet(table, fleets), TORTURE_S / len(TABLES), kills=True)


def test_harness_notices_torn_and_foreign_values() -> None:
    value = make_value("k1", 7, 100)
    assert check_value("k1", value) == 7
    with pytest.raises(AssertionError, match="torn"):
        check_value("k1", value[:50] + make_value("k1", 8, 100)[50:])
    with pytest.raises(AssertionError, match="foreign"):
        check_value("k2", value)


def overwriter(name: str, key: str) -> Callable[[], None]:
    """Writes ever new large values of one key; their sizes go up and down, so that runs of granules change."""
    cache = memcache_shm.attach(name)
    chance = random.Random(1)
    counter = 0

    def write() -> None:
        nonlocal counter
        counter += 1
        cache.set(key, make_value(key, counter, chance.choice([LARGE, LARGE - 1, LARGE // 2, 100_000, 4000])))

    return write


@pytest.mark.parametrize("options", [{"memory": "16m", "max_item": LARGE}, {"elements": 3, "element_size": LARGE}])
@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("kills", [False, True])
def test_reader_races_overwrites_of_a_large_value(
    state_dir: object, fleets: list[Fleet], options: dict[str, Any], readonly: bool, kills: bool
) -> None:
    """It gets the old value or the new one, whole; with one writer the counter never goes back."""
    maker = memcache_shm.open("large", **options)
    maker.set("big", make_value("big", 0, LARGE))
    fleets.append(Fleet(lambda number: overwriter("large", "big"), 1))
    cache = memcache_shm.attach("large", readonly=readonly)
    last, changes, kills_done = 0, 0, 0
    end = time.monotonic() + SECONDS / 2
    while time.monotonic() < end or changes < 10:
        counter = check_value("big", cache["big"])
        assert counter >= last or kills
        changes += counter != last
        last = counter
        if kills and changes // 5 > kills_done:
            fleets[0].kill_one(random.Random(0))
            kills_done += 1
    assert FAILED not in fleets[0].end_all()
    cache.close()
    maker.close()


def test_threads_share_one_cache_object(state_dir: object) -> None:
    """They count together without losing one step, and read whole values meanwhile."""
    cache = memcache_shm.open("threads", memory="1m", max_item="64k")
    cache.set("n", b"0")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(500):
                cache.incr("n", 1)
                key = f"k{step % 7}"
                cache.set(key, make_value(key, number, 40_000 if step % 2 else 50))
                value = cache.get(key)
                assert value is None or check_value(key, value) in range(4)
        except BaseException as error:  # noqa: BLE001 - told to the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert cache.get("n") == b"2000"
    cache.close()


def test_forked_processes_count_together(state_dir: object) -> None:
    """A cache object opened before the fork works on in the children; no step is lost."""
    cache = memcache_shm.open("forked", elements=4, element_size=20)
    cache.set("n", b"0")

    def count() -> None:
        for _ in range(2000):
            cache.incr("n", 1)

    children = [multiprocessing.get_context("fork").Process(target=count) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert cache.get("n") == b"6000"
    cache.close()
