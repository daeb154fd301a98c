"""A follower that is made independent, and stays so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.client import Client
from support.following import await_equal, figures, follower_of, has_companion
from support.servers import Daemon
from support.supervision import await_line
from support.tables import state, verb
from support.waiting import until

import memcache_shm


def test_promotion(leader: Daemon, copy: Daemon) -> None:
    with Client(leader) as ours, Client(copy) as theirs:
        for number in range(2000):
            ours.set(b"k%d" % number, b"v")
        items = await_equal(copy, leader)
        found = verb("promote", "copy")
        assert (found.returncode, found.stderr) == (0, "")
        assert found.stdout.startswith("copy is independent with 2001 items, in step with its leader ")
        until(lambda: not has_companion(copy), "the follower's process to end")
        await_line(copy, "table copy is independent and follows .* no longer")
        assert theirs.set(b"new", b"v") == b"STORED"
        assert theirs.ask(b"incr key 1") == b"2"
        assert int(theirs.gets(b"new")[1]) > max(item.cas for item in items.values())
        ours.set(b"late", b"v")
        assert theirs.get(b"late") is None
        assert figures(copy)["following"] == figures(copy)["follow_connected"] == 0
    again = verb("promote", "copy")
    assert again.returncode == 1
    assert "table 'copy' follows no other" in again.stderr
    assert copy.stop() == 0


def test_a_promoted_table_stays_independent(leader: Daemon, copy: Daemon) -> None:
    """Also when it is removed from outside, and made anew."""
    assert verb("promote", "copy").returncode == 0
    until(lambda: not has_companion(copy), "the follower's process to end")
    ids = state(Path(os.environ["MEMCACHE_SHM_DIR"]), "copy")
    os.system(f"ipcrm -m {ids['shmid']} -s {ids['semid']}")
    await_line(copy, "an empty one took its place")
    with Client(copy) as client:
        until(lambda: client.set(b"key", b"v") == b"STORED", "the new table to be used")


def test_a_start_without_follow_promotes(leader: Daemon, state_dir: Path) -> None:
    with Client(leader) as client, follower_of(leader, "--keep") as copy:
        client.set(b"key", b"v")
        cas = await_equal(copy, leader)[b"key"].cas
        assert copy.stop() == 0
    with pytest.raises(memcache_shm.ReadOnlyError), memcache_shm.attach("copy") as cache:
        cache.set("key", b"w")
    with Daemon("--name", "copy", "-m", "16") as daemon, Client(daemon) as client:
        assert "table copy followed another daemon and is independent now" in daemon.lines[0]
        assert client.gets(b"key") == (b"v", b"%d" % cas)
        assert client.set(b"key", b"w") == b"STORED"
        assert int(client.gets(b"key")[1]) > cas
