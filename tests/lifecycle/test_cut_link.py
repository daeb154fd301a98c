"""A follower on another host, and the link to its leader cut for longer than both bear in silence."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
from support.client import Client
from support.following import PATIENCE_S, await_copies, await_equal, figures
from support.network import TwoHosts
from support.servers import Daemon
from support.supervision import await_line
from support.waiting import until

CUT_S = 5.0
KEYS = 3000


class Writer:
    """Changes the leader all the time, through a socket that the link does not matter to."""

    def __init__(self, leader: Daemon, seed: int) -> None:
        self._leader = leader
        self._choose = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.changes = 0

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _write(self) -> None:
        with Client(self._leader, "unix") as client:
            while not self._over.is_set():
                key = b"k%d" % self._choose.randrange(KEYS)
                if self._choose.random() < 0.3:
                    client.ask(b"delete " + key)
                else:
                    client.set(key, b"%d" % self.changes * self._choose.randrange(1, 50))
                self.changes += 1


@pytest.mark.parametrize("feed", ["64k", pytest.param("1m", marks=pytest.mark.torture)])
def test_equal_again_after_the_link_was_cut(state_dir: Path, feed: str) -> None:
    with TwoHosts() as hosts:
        listen = ["-l", hosts.ADDRESSES[0], "-p", "11211"]
        with (
            Daemon("--name", "lead", "-m", "16", "--feed", feed, *listen, within=hosts.within(0)) as leader,
            Daemon("--name", "copy", "-m", "16", "--follow", f"{hosts.ADDRESSES[0]}:11211", within=hosts.within(1)) as copy,
            Writer(leader, 1) as writer,
        ):
            await_copies(copy, 1)
            hosts.set_link("down")
            cut_s = time.monotonic()
            await_line(copy, "no sign of life for 5 s, connection lost; trying again and again")
            assert time.monotonic() - cut_s >= CUT_S - 1
            before = writer.changes
            until(lambda: writer.changes > before + 1000, "more changes while nobody hears of them", PATIENCE_S)
            assert figures(copy)["follow_connected"] == 0
            assert figures(copy)["follow_lag_ms"] > 3000
            hosts.set_link("up")
            await_line(copy, "in step with .* again after")
            writer.__exit__()
            assert len(await_equal(copy, leader)) > KEYS // 2
            assert figures(copy)["follow_copies"] == 2
