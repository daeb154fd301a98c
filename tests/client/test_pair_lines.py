"""Lines of pairs, made of a snapshot without the interpreter, against the same in Python."""

from __future__ import annotations

import random

import memcache_shm
from memcache_shm.client.pair_lines import pair_lines
from memcache_shm.client.snapshot import Snapshot


def by_hand(pairs: dict[bytes, bytes]) -> bytes:
    return b"".join(b"(%b, %b)\n" % (key, pairs[key]) for key in sorted(pairs))


def test_empty_table(cache: memcache_shm.Cache) -> None:
    assert pair_lines(Snapshot(cache)) == b""


def test_any_bytes_are_sorted_as_bytes(cache: memcache_shm.Cache) -> None:
    """Keys that begin alike, of all lengths, and bytes that are negative where they have a sign."""
    rand = random.Random(1)
    keys = {b"k" * size for size in range(1, 251)}
    keys |= {bytes(rand.choices(b"!k\x7f\x80\xff", k=rand.randint(1, 6))) for _ in range(500)}
    pairs = {key: rand.randbytes(rand.choice([0, 1, 100])) for key in keys if b"\x7f" not in key}
    for key, value in pairs.items():
        cache.set(key, value)
    assert pair_lines(Snapshot(cache)) == by_hand(pairs)


def test_large_values(cache: memcache_shm.Cache) -> None:
    pairs = {b"key%d" % number: b"%d" % number * 30_000 for number in range(5)}
    cache.set_many(pairs)
    assert pair_lines(Snapshot(cache)) == by_hand(pairs)
