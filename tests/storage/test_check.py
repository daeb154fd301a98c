"""What a check finds: each kind of damage, exactly; nothing in a table that is only used. And what a repair keeps."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from model.hammering import FAILED, Fleet, Hammer
from model.test_model import SETUPS, CacheMachine
from support.damages import ANYWHERE, IN_MEMORY, Damage
from support.segments import ENTRY, Segment
from support.servers import Daemon

import memcache_shm
from memcache_shm.storage.check import EXAMPLES, Report, check_table
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.table import Table

CHECKS_UNDER_LOAD = 20
SETVAL = 16  # <linux/sem.h>
TABLES: dict[str, dict[str, Any]] = {
    "memory": {"memory": "64k", "max_item": "16k", "evict": False},
    "shards": {"memory": "256k", "max_item": "1k"},
    "elements": {"elements": 200, "element_size": 400},
}


@contextmanager
def filled(name: str) -> Iterator[tuple[memcache_shm.Cache, dict[str, bytes], Segment]]:
    """A table with items of all kinds: small and large, with and without expiry, of several runs, behind overflow nodes."""
    cache = memcache_shm.open("checked", **TABLES[name])
    try:
        with Segment(cache.attached_table) as segment:
            yield cache, fill(cache), segment
    finally:
        cache.close()
        memcache_shm.unlink("checked")


def fill(cache: memcache_shm.Cache) -> dict[str, bytes]:
    largest = cache.attached_table.max_value
    held = {}
    for number in range(55):
        held[f"large{number}"] = bytes([number]) * min(largest, 900)
    for number in range(100):
        held[f"k{number}"] = bytes([number]) * (number % 30)
    for number, (key, value) in enumerate(held.items()):
        cache.set(key, value, expire=1000 * (number % 2))
    for number in range(0, 55, 2):
        cache.delete(f"large{number}")
        del held[f"large{number}"]
    if largest > 10_000:  # no gap is as large: it needs several
        held["huge"] = random.Random(1).randbytes(12_000)
        cache.set("huge", held["huge"])
    assert cache.get_many(held) == held
    return held


CASES = [(name, *case) for name in TABLES for case in ANYWHERE] + [("memory", *case) for case in IN_MEMORY]


@pytest.mark.parametrize(("name", "damage", "kinds"), CASES, ids=[f"{name}-{damage.__name__}" for name, damage, _ in CASES])
def test_damage_is_found_and_mended(state_dir: object, name: str, damage: Damage, kinds: set[str]) -> None:
    with filled(name) as (cache, held, segment):
        assert check_table(cache.attached_table).findings == []
        costs = {key.decode() for key in damage(segment)}
        report = check_table(cache.attached_table)
        assert {finding.kind for finding in report.findings} == kinds
        assert len({finding.shard for finding in report.findings}) == 1
        assert report.left == report.findings
        assert report.repaired == []
        repaired = check_table(cache.attached_table, repair=True)
        assert repaired.findings == report.findings, "a look changes nothing"
        assert repaired.left == []
        assert repaired.repaired == [report.findings[0].shard]
        assert check_table(cache.attached_table).findings == []
        assert cache.get_many(held.keys() - costs) == {key: held[key] for key in held.keys() - costs}
        still_works(cache)


def still_works(cache: memcache_shm.Cache) -> None:
    """Everything can be stored and removed, and is whole afterwards."""
    for number in range(100):
        cache.set(f"k{number}", b"new")
        assert cache.get(f"k{number}") == b"new"
    for number in range(0, 100, 2):
        assert cache.delete(f"k{number}")
    assert check_table(cache.attached_table).findings == []


def test_what_is_meant_to_be_damaged_is_there(state_dir: object) -> None:
    """Else the cases above would show nothing."""
    for name in TABLES:
        with filled(name) as (_, held, segment):
            assert sorted(key.decode() for key in map(segment.key, segment.entries())) == sorted(held)
            assert {entry.word >> 62 for entry in segment.entries()} == {ENTRY}
            assert segment.shards == (2 if name == "shards" else 1)
            assert name != "memory" or segment.has_several_runs(segment.find(b"huge"))


def test_the_shard_is_named(state_dir: object) -> None:
    with filled("shards") as (cache, _, segment):
        segment.put(segment.control(1, "items"), 0)
        (finding,) = check_table(cache.attached_table).findings
        assert (finding.shard, finding.kind) == (1, "count")
        assert finding.text.startswith("0 items are counted, ")


def test_many_of_a_kind_are_counted(state_dir: object) -> None:
    with filled("memory") as (cache, held, segment):
        for entry in segment.entries():
            segment.put(segment.record(entry, "version"), 0)
        counts = [finding.count for finding in check_table(cache.attached_table).findings if finding.kind == "record"]
        assert counts == [1] * EXAMPLES + [len(held) - EXAMPLES]


def test_semaphore_of_no_meaning(make_table: Callable[..., Table]) -> None:
    """Nothing can mend that: to set a semaphore would take the undo of its owner away."""
    table = make_table(Geometry.by_elements(10, 10))
    assert ctypes.CDLL(None).semctl(table.semid, 5, SETVAL, 2) == 0
    report = check_table(table, repair=True)
    assert [(finding.shard, finding.kind) for finding in report.left] == [(None, "process slot")]


def test_progress_is_told(state_dir: object) -> None:
    with filled("shards") as (cache, held, _):
        calls: list[tuple[int, int]] = []
        report = check_table(cache.attached_table, progress=lambda done, shards: calls.append((done, shards)))
        assert calls == [(1, 2), (2, 2)]
        assert (report.shards, report.items, report.records) == (2, len(held), len(held))


def test_flushed_and_expired_items_are_no_findings(state_dir: object) -> None:
    for name in TABLES:
        with filled(name) as (cache, _, _):
            cache.set("gone", b"x", expire=-1)
            cache.flush_all()
            cache.set("k1", b"x")
            report = check_table(cache.attached_table)
            assert report.findings == []
            assert report.items == len(cache)
            cache.flush_all(delay=1000)
            assert check_table(cache.attached_table, repair=True) == report


def test_it_takes_the_right_to_write(state_dir: object) -> None:
    with filled("memory") as (cache, _, _), memcache_shm.attach("checked", readonly=True) as reader:
        with pytest.raises(memcache_shm.ReadOnlyError, match="lock"):
            check_table(reader.attached_table)
        table = cache.attached_table
        table.close()
        with pytest.raises(ValueError, match="closed"):
            check_table(table)


@pytest.mark.parametrize("options", [("-m", "4", "-I", "256k"), ("500", "3000")], ids=["memory", "elements"])
def test_clean_under_load(daemon_with: Callable[..., Daemon], options: tuple[str, ...]) -> None:
    """Checks of a table that a daemon serves and four processes write to."""
    daemon = daemon_with(*options, workers=2)
    fleet = Fleet(lambda number: Hammer(daemon.name, 3000, number).strike, 4)
    try:
        with memcache_shm.attach(daemon.name) as cache:
            before = cache.stats()[b"total_items"]
            reports: list[Report] = []
            while len(reports) < CHECKS_UNDER_LOAD or cache.stats()[b"total_items"] < before + 2000:
                reports.append(check_table(cache.attached_table))
                assert reports[-1].findings == []
            assert max(report.items for report in reports) > 0
    finally:
        assert FAILED not in fleet.end_all()


class CheckedMachine(CacheMachine):
    """The model's sequences; what they leave behind is checked."""

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            assert check_table(self.cache.attached_table).findings == []
        super().teardown()


@pytest.mark.parametrize("name", SETUPS)
def test_clean_after_any_sequence(state_dir: Path, name: str) -> None:
    machine = type(name, (CheckedMachine,), {"setup": SETUPS[name]})
    run_state_machine_as_test(machine, settings=settings(max_examples=10, stateful_step_count=60, deadline=None))
