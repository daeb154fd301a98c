"""All items of one instant, packed, and put into another table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checks import is_whole
from support.doors import open_door

import memcache_shm
from memcache_shm.client import items, snapshot
from memcache_shm.client.copying import Copier
from memcache_shm.client.items import HEAD, Item, pack, unpack
from memcache_shm.client.snapshot import Snapshot, snapshots

GEOMETRIES: list[dict[str, Any]] = [{"memory": "4m", "max_item": "64k"}, {"elements": 200_000, "element_size": 64}]
VARIED = b"""ms plain 5 F7
value
ms AAEC/w== 3 b E12345678901234567890
b\r\r
ms empty 0

ms expiring 1 T1000
e
ms stale 5
stale
md stale I
ms won 3 T100
won
mg won R1000
ms now_stale_and_won 1
x
md now_stale_and_won I
mg now_stale_and_won v
"""


@pytest.fixture(params=GEOMETRIES, ids=["memory", "elements"])
def shape(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


@pytest.fixture
def varied(state_dir: Path, shape: dict[str, Any]) -> Iterator[memcache_shm.Cache]:
    """A table of several shards with an item of every kind."""
    with memcache_shm.open("varied", **shape) as cache:
        open_door(cache.attached_table).answer(VARIED.replace(b"\n", b"\r\n"))
        for number in range(500):
            cache.set(f"key{number}", b"v" * (number % 60), expire=number * 3)
        cache.set("gone", b"x", expire=-1)
        yield cache


def table_of(cache: memcache_shm.Cache) -> dict[bytes, Item]:
    found = list(Snapshot(cache))
    assert len({item.key for item in found}) == len(found)
    return {item.key: item for item in found}


def test_every_kind_of_item(varied: memcache_shm.Cache) -> None:
    found = table_of(varied)
    now_ms = time.time() * 1000
    assert len(found) == 500 + 7
    assert found[b"plain"][:4] == (b"plain", b"value", 7, 0)
    assert found[b"\0\1\2\xff"] == Item(b"\0\1\2\xff", b"b\r\r", 0, 0, 12345678901234567890, 0)
    assert found[b"empty"].value == b""
    assert 990_000 < found[b"expiring"].expires_ms - now_ms <= 1_000_200
    assert [found[key].state for key in (b"stale", b"won", b"now_stale_and_won", b"plain")] == [
        items.STALE,
        items.TOKEN_SENT,
        items.STALE | items.TOKEN_SENT,
        0,
    ]
    for key in (b"plain", b"key7", b"\0\1\2\xff"):
        if key.isascii() and b"\0" not in key:
            assert varied.gets(key)[1] == b"%d" % found[key].cas


def test_its_figures(varied: memcache_shm.Cache) -> None:
    taken = Snapshot(varied)
    before_ns, after_ns = taken.taken_ns, time.time_ns()
    assert after_ns - 60e9 < before_ns <= after_ns
    assert taken.items == len(taken) == len(list(taken))
    assert taken.bytes == len(taken.data) == sum(len(pack(item)) for item in taken)
    assert taken.whole
    assert 0 < taken.held_ns < 60e9
    assert taken.highest_cas >= max(item.cas for item in taken if item.cas < 2**60)
    varied.set("short-lived", b"")
    cas = int(varied.gets("short-lived")[1])
    varied.delete("short-lived")
    assert Snapshot(varied).highest_cas >= cas


def test_it_stays_as_it_was(varied: memcache_shm.Cache) -> None:
    taken = Snapshot(varied)
    before = list(taken)
    varied.flush_all()
    varied.set("plain", b"other")
    assert list(taken) == before
    data = taken.data
    del taken
    assert list(unpack(data)) == before


def test_flushed_items_are_left_out(varied: memcache_shm.Cache) -> None:
    varied.flush_all()
    assert len(Snapshot(varied)) == 0
    varied.set("after", b"")
    assert [item.key for item in Snapshot(varied)] == [b"after"]


def test_values_of_several_runs(state_dir: Path) -> None:
    with memcache_shm.open("runs", memory="1m", max_item="64k", evict=False) as cache:
        keys = [f"key{number}" for number in range(1000)]
        for key in keys:
            try:
                cache.set(key, key.encode() * 130)
            except memcache_shm.NoSpaceError:
                break
        for key in keys[::2]:
            cache.delete(key)
        cache.set("large", bytes(range(250)) * 40)
        found = table_of(cache)
        assert found[b"large"].value == bytes(range(250)) * 40
        assert all(item.value == key * 130 for key, item in found.items() if key != b"large")


def test_shards_together_are_the_table(varied: memcache_shm.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = table_of(varied)
    assert [part.whole for part in snapshots(varied)] == [True]
    monkeypatch.setattr(snapshot, "ONE_INSTANT_BYTES", 1000)
    parts = list(snapshots(varied))
    assert len(parts) == varied.attached_table.geometry.shards > 1
    assert not any(part.whole for part in parts)
    together = [item for part in parts for item in part]
    assert len(together) == len(whole)
    assert {item.key: item for item in together} == whole
    with pytest.raises(ValueError, match="no shard"):
        Snapshot(varied, shard=len(parts))


def test_shards_of_two_tables_are_not_mixed(varied: memcache_shm.Cache, monkeypatch: pytest.MonkeyPatch, shape: dict[str, Any]) -> None:
    monkeypatch.setattr(snapshot, "ONE_INSTANT_BYTES", 1000)
    parts = snapshots(varied)
    next(parts)
    memcache_shm.unlink("varied")
    with memcache_shm.open("varied", **shape), pytest.raises(memcache_shm.TableRemovedError, match="begin again"):
        next(parts)


def test_without_the_right_to_write(varied: memcache_shm.Cache) -> None:
    with memcache_shm.attach("varied", readonly=True) as reader, pytest.raises(memcache_shm.ReadOnlyError, match="readonly=True"):
        Snapshot(reader)
    varied.close()
    with pytest.raises(memcache_shm.ClosedError):
        Snapshot(varied)


# Into another table


@pytest.mark.parametrize("into", GEOMETRIES, ids=["memory", "elements"])
def test_put_into_another_table_it_is_the_same(varied: memcache_shm.Cache, into: dict[str, Any]) -> None:
    before = table_of(varied)
    taken = Snapshot(varied)
    with memcache_shm.open("copy", **into) as copy:
        copier = Copier(copy)
        copier.raise_versions(taken.highest_cas)
        assert copier.put_packed(taken.data) == len(before)
        copier.close()
        assert (copier.refused, copier.expired) == (0, 0)
        after = table_of(copy)
        changed = {key for key, item in before.items() if after.get(key) != item}
        assert not {key for key in changed if abs(after[key].expires_ms - before[key].expires_ms) > 1}
        assert {key: item._replace(expires_ms=0) for key, item in after.items()} == {
            key: item._replace(expires_ms=0) for key, item in before.items()
        }
        copy.set("new", b"")
        assert int(copy.gets("new")[1]) > taken.highest_cas
        assert is_whole(copy)


def test_marks_have_their_meaning_there(varied: memcache_shm.Cache) -> None:
    with memcache_shm.open("copy", memory="4m") as copy:
        copier = Copier(copy)
        copier.put_packed(Snapshot(varied).data)
        copier.close()
        door = open_door(copy.attached_table)
        assert door.answer(b"mg stale v\r\n") == b"VA 5 X W\r\nstale\r\n"
        assert door.answer(b"mg now_stale_and_won\r\n") == b"HD Z X\r\n"


def test_expired_ones_are_counted_and_leave_what_is_there(cache: memcache_shm.Cache) -> None:
    cache.set("k", b"here")
    copier = Copier(cache)
    past_ms = int(time.time() * 1000) - 1000
    assert copier.put_packed(pack(Item(b"k", b"over", 0, past_ms, 5)) + pack(Item(b"l", b"ok", 0, past_ms + 100_000, 6))) == 1
    assert (copier.expired, copier.refused) == (1, 0)
    copier.close()
    assert cache.get_many(["k", "l"]) == {"k": b"here", "l": b"ok"}


def test_refused_ones_are_counted_and_leave_no_older_value(state_dir: Path) -> None:
    with memcache_shm.open("strict", elements=2, element_size=10, evict=False) as cache:
        cache.set("k", b"older")
        copier = Copier(cache)
        assert (
            copier.put_packed(
                b"".join(pack(Item(key, b"v" * size, 0, 0, 1)) for key, size in [(b"k", 11), (b"a", 1), (b"b", 1), (b"c", 1)])
            )
            == 2
        )
        assert copier.refused == 2
        copier.close()
        assert cache.get_many(["k", "a", "b", "c"]) == {"a": b"v", "b": b"v"}


def test_what_is_no_item(cache: memcache_shm.Cache) -> None:
    good = pack(Item(b"key", b"value", 1, 0, 2))
    copier = Copier(cache)
    assert copier.put_packed(b"") == 0
    wrong = [good[:cut] for cut in range(1, len(good))]
    wrong += [HEAD.pack(0, 0, 0, 0, 0, 0, 0), HEAD.pack(0, 0, 0, 0, 251, 0, 0) + bytes(251), HEAD.pack(1, 0, 0, 0, 1, 0, 1) + b"kv"]
    wrong += [HEAD.pack(2**32 - 1, 0, 0, 0, 1, 0, 0) + b"k"]
    for block in wrong:
        with pytest.raises(ValueError, match="no item at 36 of the block"):
            copier.put_packed(good + block)
        with pytest.raises(ValueError, match=r"no item at|left over at"):
            list(unpack(good + block))
    copier.close()
    assert len(cache) == 1


@given(st.lists(st.builds(Item, st.binary(min_size=1, max_size=250), st.binary(max_size=300), st.integers(0, 2**32 - 1),
                          st.integers(0, 2**63 - 1), st.integers(0, 2**64 - 1), st.sampled_from([0, 2, 4, 6]))))  # fmt: skip
def test_packed_items_come_back(some: list[Item]) -> None:
    assert list(unpack(b"".join(map(pack, some)))) == some
