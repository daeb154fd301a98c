"""What is backed up is restored: each field of each item, in every form of file, between tables of any geometry."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.backups import fill, shell, table_of
from support.checks import is_whole
from support.doors import open_door
from support.tables import verb

import memcache_shm
from memcache_shm.client.copying import Copier
from memcache_shm.client.items import STALE, TOKEN_SENT, Item, pack
from memcache_shm.ops import backups
from memcache_shm.ops.backup_lines import LinesWriter
from memcache_shm.ops.backup_parts import Step
from memcache_shm.ops.backup_sources import AttachedSource
from memcache_shm.ops.whole_file import WholeFile

FORMS = ("binary", "jsonl")


@pytest.mark.parametrize("form", FORMS)
def test_every_field(source: memcache_shm.Cache, target: memcache_shm.Cache, here: Path, form: str) -> None:
    """The marks of the meta commands mean the same: who asks first for a stale item is to make it anew, for a claimed one nobody."""
    before = table_of(source)
    assert len(before) == 500 + 9
    result = verb("backup", "--format", form, "source", str(here / "b"))
    assert (result.returncode, result.stderr) == (0, "")
    result = verb("restore", str(here / "b"), "target")
    assert (result.returncode, result.stderr) == (0, "")
    assert table_of(target) == before
    assert is_whole(target)
    for key in ("plain", "key17", "empty"):
        assert target.gets(key) == source.gets(key)
    door = open_door(target.attached_table)
    assert door.answer(b"mg stale v\r\nmg stale\r\n") == b"VA 5 X W\r\nstale\r\nHD Z X\r\n"
    assert door.answer(b"mg won\r\nmg stale_and_won\r\nmg promised v\r\n") == b"HD Z\r\nHD Z X\r\nVA 0 Z\r\n\r\n"


@pytest.mark.parametrize("form", FORMS)
def test_later_cas_ids_are_higher(source: memcache_shm.Cache, target: memcache_shm.Cache, here: Path, form: str) -> None:
    verb("backup", "--format", form, "source", str(here / "b"))
    verb("restore", str(here / "b"), "target")
    _, cas = target.gets("plain")
    highest = max(item.cas for item in table_of(target).values())
    assert target.cas("plain", b"by the old id", cas)
    target.set("new", b"")
    for key in ("plain", "new"):
        assert int(target.gets(key)[1]) > highest
    assert not target.cas("plain", b"again", cas)


@pytest.mark.parametrize("form", FORMS)
def test_large_values(state_dir: Path, target: memcache_shm.Cache, here: Path, form: str) -> None:
    """Larger than a block, and with bytes of every kind."""
    with memcache_shm.open("large", memory="32m", max_item="4m") as cache:
        cache.set("random", os.urandom(3 << 20))
        cache.set("most", b"\xff" * (4 << 20))
        cache.set("small", b"")
        before = table_of(cache)
        assert verb("backup", "--format", form, "large", str(here / "b")).returncode == 0
    assert verb("restore", str(here / "b"), "target").returncode == 0
    assert table_of(target) == before


@pytest.mark.parametrize("form", FORMS)
def test_expiry_goes_on(state_dir: Path, target: memcache_shm.Cache, here: Path, form: str) -> None:
    """To the eighth of a second, and what is over meanwhile does not come back."""
    now_ms = time.time_ns() // 1_000_000
    with memcache_shm.open("app", memory="4m") as cache:
        copier = Copier(cache)
        for tick in range(8):
            copier.put_packed(pack(Item(b"tick%d" % tick, b"", 0, now_ms + 100_000 + 125 * tick, 0)))
        copier.put_packed(pack(Item(b"soon", b"", 0, now_ms + 2000, 0)))
        copier.close()
        before = table_of(cache)
        assert "soon" in cache
        assert len({item.expires_ms for item in before.values()}) == 9
        assert verb("backup", "--format", form, "app", str(here / "b")).returncode == 0
        while "soon" in cache:
            time.sleep(0.05)
    result = verb("restore", str(here / "b"), "target")
    assert result.returncode == 0
    assert result.stdout.endswith("; 1 over by now\n")
    del before[b"soon"]
    assert table_of(target) == before


ITEMS = st.builds(
    Item,
    key=st.binary(min_size=1, max_size=250),
    value=st.one_of(st.binary(max_size=100), st.text(max_size=60).map(str.encode), st.binary(max_size=3).map(lambda some: some * 20_000)),
    flags=st.integers(0, 2**32 - 1),
    expires_ms=st.one_of(st.just(0), st.integers(10**5, 10**8).map(lambda ms: time.time_ns() // 1_000_000 + ms)),
    cas=st.one_of(st.just(0), st.integers(1, 2**64 - 1)),
    state=st.sampled_from([0, STALE, TOKEN_SENT, STALE | TOKEN_SENT]),
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=st.lists(ITEMS, unique_by=lambda item: item.key, max_size=30), form=st.sampled_from(FORMS))
def test_any_items(state_dir: Path, here: Path, items: list[Item], form: str) -> None:
    """By the functions that the daemon calls."""
    names = ("from", "to")
    one, other = (memcache_shm.open(name, memory="16m", max_item="1m") for name in names)
    try:
        copier = Copier(one)
        assert copier.put_packed(b"".join(map(pack, items))) == len(items)
        copier.close()
        path = str(here / "b")
        if form == "binary":
            saved = backups.save(one, path)
        else:
            with WholeFile(path) as file:
                saved = backups.write(AttachedSource(one), LinesWriter(file.write))
        assert (saved.items, saved.instants) == (len(items), 1)
        loaded = backups.load(path, other)
        assert (loaded.items, loaded.refused, loaded.expired) == (len(items), 0, 0)
        assert table_of(other) == table_of(one)
        assert len(table_of(one)) == len(items)
    finally:
        for cache, name in zip((one, other), names, strict=True):
            cache.close()
            memcache_shm.unlink(name)


def test_through_a_pipe(source: memcache_shm.Cache, target: memcache_shm.Cache, here: Path) -> None:
    result = shell("memcache-shm backup source - | memcache-shm restore - target", here)
    assert result.returncode == 0
    assert "509 items, " in result.stderr
    assert result.stdout.startswith("509 items of source, made ")
    assert table_of(target) == table_of(source)
    assert list(here.iterdir()) == []
    for form in FORMS:
        target.flush_all()
        command = f"memcache-shm backup --format {form} source - >b; memcache-shm restore - target <b; memcache-shm restore <(cat b) target"
        assert shell(command, here).returncode == 0
        assert table_of(target) == table_of(source)


def test_others_stay_or_go(source: memcache_shm.Cache, target: memcache_shm.Cache, here: Path) -> None:
    verb("backup", "source", str(here / "b"))
    target.set("other", b"stays")
    target.set("plain", b"is replaced", flags=99)
    assert verb("restore", str(here / "b"), "target").returncode == 0
    assert target.get("other") == b"stays"
    assert table_of(target).items() > table_of(source).items()
    result = verb("restore", "--replace", str(here / "b"), "target")
    assert result.returncode == 0
    assert "; 510 that were there before removed" in result.stdout
    assert table_of(target) == table_of(source)


def test_an_empty_table(state_dir: Path, target: memcache_shm.Cache, here: Path) -> None:
    memcache_shm.open("nothing", memory="4m").close()
    for form in FORMS:
        assert verb("backup", "--format", form, "nothing", str(here / form)).returncode == 0
        target.set("key", b"")
        assert verb("restore", str(here / form), "target").returncode == 0
        assert "key" in target
        assert verb("restore", "--replace", str(here / form), "target").returncode == 0
        assert len(target) == 0


def test_what_does_not_fit(source: memcache_shm.Cache, shape: dict[str, Any], state_dir: Path, here: Path) -> None:
    """Is counted and told by the exit status; the rest is there."""
    source.set("larger", b"x" * 60)
    verb("backup", "source", str(here / "b"))
    with memcache_shm.open("small", elements=100, element_size=50, evict=False) as small:
        result = verb("restore", str(here / "b"), "small")
        assert result.returncode == 1
        assert "; 410 refused, too large or for want of room" in result.stdout
        assert len(small) == 100
        assert table_of(small).items() <= table_of(source).items()
    with memcache_shm.open("evicting", elements=100, element_size=64) as small:
        result = verb("restore", str(here / "b"), "evicting")
        assert result.returncode == 1
        assert "510 items of source" in result.stdout
        assert result.stdout.endswith("; 410 of them evicted again for want of room\n")
        assert len(small) == 100


def test_shard_by_shard(state_dir: Path, here: Path) -> None:
    """Above 256 MiB in use; the file says so, and how long writers waited."""
    with memcache_shm.open("big", memory="400m", max_item="1m") as big, memcache_shm.open("again", memory="400m", max_item="1m") as again:
        for number in range(4500):
            big.set(f"large{number}", number.to_bytes(2, "big") * (1 << 15), flags=number)
        fill(big)
        steps: list[Step] = []
        saved = backups.save(big, str(here / "b"), steps.append)
        assert saved.instants > 1
        assert saved.consistency == "one instant a shard"
        assert saved.held_ns < saved.held_sum_ns
        assert [step.items for step in steps] == sorted(step.items for step in steps)
        assert 0.99 < steps[-1].part <= 1
        assert b'"consistency": "one instant a shard"' in (here / "b").read_bytes()[:400]
        loaded = backups.load(str(here / "b"), again, steps.append)
        assert loaded.items == saved.items == 4500 + 509
        assert loaded.evicted == 0
        assert {step.doing for step in steps} == {"backing up", "verifying", "restoring"}
        assert table_of(again) == table_of(big)
