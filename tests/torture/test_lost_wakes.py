"""Round trips over a channel with pauses about as long as either side looks before it sleeps: no wake is lost."""

from __future__ import annotations

import multiprocessing
import random
import time

import pytest
from support.servers import Daemon

from memcache_shm.client.channel import Channel

CLIENTS = 2
DURATION_S = 25.0
TIMEOUT_S = 1.0  # nobody but the client wakes a worker
STALL_S = 0.2  # a client wakes up by itself so often
PAUSE_MOST_S = 120e-6  # looks last 1 to 80 us


def longest_round_trip(path: str, seed: int) -> float:
    """In seconds, of very many; TimeoutError when one has no end."""
    chance = random.Random(seed)
    longest_s, begun_s = 0.0, time.monotonic()
    end_s = begun_s + DURATION_S
    with Channel(path, TIMEOUT_S, request_bytes=4096, reply_bytes=4096) as channel:
        while begun_s < end_s:
            channel.sendall(b"mn\r\n")
            assert channel.recv(16) == b"MN\r\n"
            done_s = time.monotonic()
            longest_s = max(longest_s, done_s - begun_s)
            begun_s = done_s + chance.uniform(0.0, PAUSE_MOST_S)
            while time.monotonic() < begun_s:  # a sleep would be longer than that
                pass
    return longest_s


@pytest.mark.torture
def test_no_wake_is_lost() -> None:
    """Without the full fences of storage/rings.pxd this fails within seconds. A busy machine may stall a process for as long as a wake that
    was lost; run it beside little else."""
    with Daemon("-m", "16") as daemon, multiprocessing.get_context("fork").Pool(CLIENTS) as pool:
        assert max(pool.starmap(longest_round_trip, [(daemon.unix_path, seed) for seed in range(CLIENTS)])) < STALL_S
