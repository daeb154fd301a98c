"""The same random commands to Debian's memcached and to our daemon: the same bytes back."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import pytest
from differential.comparison import ChannelPlayer, Player, batches_of, first_difference, report, short, shrink
from differential.sequences import Sequences
from support.channels import RINGS
from support.servers import Daemon, Memcached

STEPS = 250
SEEDS = range(10)
OPTIONS = ("-m", "64")
# The background threads hold an item for a moment now and then, and incr makes a new one then instead of padding the old.
QUIET = ("-o", "no_lru_maintainer,no_lru_crawler")


def compare(one: Player, other: Player, seed: int) -> None:
    """Play the sequence of `seed` to both; fails with the seed and a short sequence that differs.

    A difference that the same commands do not show again is memcached's: what it does when an item is held elsewhere.
    """
    batches = batches_of(Sequences(seed).steps(STEPS), seed)
    found = first_difference(one, other, batches)
    if found is not None and all(first_difference(one, other, batches) for _ in range(3)):
        first = f"seed {seed}, batch {found.number}:\n      one   {short(found.one)}\n      other {short(found.other)}"
        pytest.fail(f"{first}\nshortest:\n{report(one, other, shrink(one, other, batches))}", pytrace=False)


@pytest.fixture
def players(memcached_with: Callable[..., Memcached]) -> Callable[..., tuple[Player, Player]]:
    """A function that gives a player of memcached and one of another server."""

    def give(server: Daemon, door: str = "tcp") -> tuple[Player, Player]:
        return Player(memcached_with(*OPTIONS, *QUIET)), (ChannelPlayer if door in RINGS else Player)(server, door)

    return give


@pytest.mark.parametrize("seed", range(4))
def test_harness_memcached_equals_itself(players: Callable[..., tuple[Player, Player]], seed: int) -> None:
    with Memcached(*OPTIONS, *QUIET) as second:
        one, other = players(second)
        compare(one, other, seed)
        one.close()
        other.close()


class Wrong(Player):
    """A server that takes a CAS id it should refuse, as far as its client can see."""

    def exchange(self, connection: int, commands: bytes) -> bytes:
        return super().exchange(connection, commands).replace(b"EXISTS\r\n", b"STORED\r\n")


def test_harness_notices_a_difference(memcached_with: Callable[..., Memcached]) -> None:
    server = memcached_with(*OPTIONS, *QUIET)
    with Memcached(*OPTIONS, *QUIET) as second:
        one, other = Player(server), Wrong(second)
        with pytest.raises(pytest.fail.Exception, match=r"seed 1, batch(.|\n)*EXISTS(.|\n)*STORED") as failure:
            compare(one, other, 1)
        assert len(str(failure.value).splitlines()) < 15, "shrunk"
        one.close()
        other.close()


@pytest.mark.parametrize(("door", "workers"), [("tcp", 3), ("unix", 1), ("channel", 3), ("narrow", 1)])
@pytest.mark.parametrize("seed", SEEDS)
def test_daemon_answers_as_memcached(
    players: Callable[..., tuple[Player, Player]], daemon_with: Callable[..., Daemon], seed: int, door: str, workers: int
) -> None:
    one, other = players(daemon_with(*OPTIONS, workers=workers), door)
    compare(one, other, seed * 1000 + workers * 10 + (door in ("unix", "narrow")))
    one.close()
    other.close()


@pytest.mark.torture
def test_daemon_answers_as_memcached_for_long(players: Callable[..., tuple[Player, Player]], daemon_with: Callable[..., Daemon]) -> None:
    one, other = players(daemon_with(*OPTIONS, workers=3))
    end = time.monotonic() + float(os.environ.get("TORTURE_S", "600"))
    while time.monotonic() < end:
        compare(one, other, random.randrange(2**32))
    one.close()
    other.close()
