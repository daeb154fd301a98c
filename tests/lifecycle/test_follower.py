"""A daemon that follows another: what it copies, what it refuses, and how it stands."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from support.client import Client
from support.following import PATIENCE_S, REFUSED, await_copies, await_equal, contents, figures, follower_of, is_in_step, where
from support.servers import Daemon
from support.supervision import said
from support.tables import verb
from support.waiting import until

import memcache_shm

FAR = 2_000_000_000  # unix time


# What it copies


def test_everything_of_an_item(leader: Daemon) -> None:
    large = random.Random(3).randbytes(1_000_000)
    with Client(leader) as client, follower_of(leader, workers=2) as copy:
        soon = int(time.time()) + 1000
        client.ask(b"set flags 4294967295 0 1\r\nv")
        client.ask(b"set expires 1 %d 1\r\nv" % soon)
        client.ask(b"set empty 0 0 0\r\n")
        client.ask(b"ms AAEC/w== 1 b\r\nv")
        client.ask(b"ms chosen 1 E18446744073709551615\r\nv")
        client.set(b"large", large)
        client.set(b"touched", b"v")
        client.ask(b"touch touched %d" % FAR)
        client.ask(b"incr key 1")
        client.set(b"n", b"8")
        client.ask(b"incr n 2")
        items = await_equal(copy, leader)
    assert set(items) == {b"flags", b"expires", b"empty", b"\0\1\2\xff", b"chosen", b"large", b"touched", b"n"}
    assert items[b"flags"].flags == 2**32 - 1
    assert soon <= items[b"expires"].exptime <= soon + 1  # the leader's clock is that of whole seconds
    assert FAR <= items[b"touched"].exptime <= FAR + 1
    assert items[b"chosen"].cas == 2**64 - 1
    assert items[b"large"].value == large
    assert items[b"n"].value == b"10"


def test_clients_see_the_same_flags_and_cas_ids(leader: Daemon, copy: Daemon) -> None:
    with Client(leader) as ours, Client(copy) as theirs:
        ours.ask(b"set other 77 0 1\r\nv")
        until(lambda: theirs.get(b"other") == b"v", "the change")
        assert theirs.ask(b"mg other f c v k") == ours.ask(b"mg other f c v k")
        assert theirs.line() == ours.line() == b"v"
        assert theirs.gets(b"key") == ours.gets(b"key")


def test_what_goes_at_the_leader_goes_here(leader: Daemon, copy: Daemon) -> None:
    with Client(leader) as ours, Client(copy) as theirs:
        for number in range(300):
            ours.set(b"k%d" % number, b"v")
        until(lambda: theirs.get(b"k299") == b"v", "the changes")
        ours.ask(b"delete k7")
        until(lambda: theirs.get(b"k7") is None, "the delete")
        ours.ask(b"touch k8 -1")
        until(lambda: theirs.get(b"k8") is None, "the touch")
        ours.ask(b"set k9 0 1 1\r\nv")
        until(lambda: theirs.get(b"k9") is None, "the expiry")
        ours.ask(b"flush_all")
        until(lambda: theirs.get(b"k299") is None, "the flush")
        ours.set(b"after", b"v")
        assert set(await_equal(copy, leader)) == {b"after"}


def test_evictions_at_the_leader(state_dir: Path) -> None:
    with Daemon("--name", "lead", "200", "100") as leader, Client(leader) as client, follower_of(leader) as copy:
        for number in range(5000):
            client.set(b"k%d" % number, b"v" * (number % 100))
        assert len(await_equal(copy, leader)) == 200


def test_a_follower_smaller_than_its_leader(leader: Daemon) -> None:
    with Client(leader) as client, Daemon("--name", "copy", "50", "100", "--follow", where(leader)) as copy:
        for number in range(1000):
            client.set(b"k%d" % number, b"v")
        client.set(b"large", bytes(101))
        until(lambda: figures(copy)["follow_refused"] == 1, "the large one to be refused", PATIENCE_S)
        until(lambda: is_in_step(copy) and len(contents(copy)) == 50, "a full table", PATIENCE_S)
        held = contents(copy)
        assert held.items() <= contents(leader).items()
        assert said(copy, "1 items of .* are too large for this table")
        client.set(b"large", b"small now")
        until(lambda: b"large" in contents(copy), "one that fits", PATIENCE_S)


def test_a_follower_of_a_follower(leader: Daemon, copy: Daemon) -> None:
    with Client(leader) as client, follower_of(copy, name="second") as second:
        client.set(b"far", b"away")
        assert await_equal(second, leader)[b"far"].value == b"away"


def test_by_a_unix_socket(leader: Daemon) -> None:
    with Client(leader) as client, Daemon("--name", "copy", "-m", "16", "--follow", leader.unix_path) as copy:
        client.set(b"key", b"v")
        assert await_equal(copy, leader)[b"key"].value == b"v"


# What it refuses


CHANGES = [
    b"set key 0 0 1\r\nv",
    b"set new 0 0 1\r\nv",
    b"add new 0 0 1\r\nv",
    b"replace key 0 0 1\r\nv",
    b"append key 0 0 1\r\nv",
    b"prepend key 0 0 1\r\nv",
    b"cas key 0 0 1 1\r\nv",
    b"incr key 1",
    b"decr key 1",
    b"touch key 100",
    b"touch new 100",
    b"gat 100 key",
    b"gats 100 key",
    b"delete key",
    b"delete new",
    b"flush_all",
    b"flush_all 100",
    b"ms key 1\r\nv",
    b"ms new 1 MA N0\r\nv",
    b"md key",
    b"md key I",
    b"ma key",
    b"ma new N0",
    b"mg new v N0",
    b"mg key v T100",
]


@pytest.mark.parametrize("door", ["tcp", "unix"])
def test_every_change_is_refused(copy: Daemon, door: str) -> None:
    with Client(copy, door) as client:
        before = client.gets(b"key")
        for request in CHANGES:
            assert client.ask(request) == REFUSED, request
        assert client.gets(b"key") == before
        assert client.ask(b"mg key v") == b"VA 1"
        assert client.line() == b"1"
        assert client.ask(b"mg new v") == b"EN"
        assert client.ask(b"set key 0 0 1 noreply\r\nv\r\nmn") == b"MN"
        assert client.ask(b"SET key 1\r\nv") == b"ERR READ_ONLY"
        assert client.ask(b"DELETE key") == b"ERR READ_ONLY"
        assert client.ask(b"GET key") == b"OK 1"


def test_attached_programs_are_refused(copy: Daemon) -> None:
    with memcache_shm.attach("copy") as cache:
        with pytest.raises(memcache_shm.ReadOnlyError, match=r"table 'copy' follows another: .*promote copy"):
            cache.set("key", b"v")
        with pytest.raises(memcache_shm.ReadOnlyError):
            cache.gat("key", 100)
        assert cache.get("key") == b"1"
    assert "served, follows" in verb("ls").stdout


def test_a_follower_that_takes_writes(leader: Daemon) -> None:
    with Client(leader) as ours, follower_of(leader, "--follow-writable") as copy, Client(copy) as theirs:
        ours.set(b"key", b"theirs")
        until(lambda: theirs.get(b"key") == b"theirs", "the copy", PATIENCE_S)
        assert theirs.set(b"own", b"v") == b"STORED"
        assert theirs.set(b"key", b"own") == b"STORED"
        assert ours.get(b"key") == b"theirs"
        ours.set(b"key", b"newer")
        until(lambda: theirs.get(b"key") == b"newer", "the change", PATIENCE_S)
        assert theirs.get(b"own") == b"v"
        assert figures(copy)["following"] == 0
        assert figures(copy)["follow_connected"] == 1
        found = verb("promote", "copy")
        assert (found.returncode, found.stdout) == (1, "")
        assert "table 'copy' takes writes as it follows another (--follow-writable); to end that start its daemon without" in found.stderr
        assert leader.stop() == 0
        until(lambda: not figures(copy)["follow_connected"], "the loss to be noticed")
        assert "table 'copy' follows no other ('memcache-shm ls' shows which do), or takes writes" in verb("promote", "copy").stderr


def test_two_that_follow_each_other_and_take_writes(state_dir: Path, tmp_path: Path) -> None:
    """What one tells comes back to it, and goes no further."""
    path = str(tmp_path / "s")
    options = ("-m", "16", "--follow-writable", "--follow")
    with (
        Daemon("--name", "one", *options, path) as one,
        Daemon("--name", "two", "-s", path, *options, one.unix_path) as two,
        Client(one) as ours,
        Client(two) as theirs,
    ):
        for daemon in (one, two):
            await_copies(daemon, 1)
        ours.ask(b"set first 1 1000 5\r\nvalue")
        for number in range(20):
            here, there = (theirs, ours) if number % 2 else (ours, theirs)
            here.set(b"key", b"%d" % number)
            until(lambda: there.get(b"key") == b"%d" % number, "the change to come over")  # noqa: B023
        for client in (ours, theirs):
            assert client.stats()["total_items"] == "21"


# How it stands


def test_figures(leader: Daemon, copy: Daemon) -> None:
    found = figures(copy)
    assert (found["following"], found["follow_connected"], found["follow_copies"], found["follow_refused"]) == (1, 1, 1, 0)
    assert 0 <= found["follow_lag_ms"] < 5000
    with Client(leader) as client:
        for number in range(100):
            client.set(b"%d" % number, b"v")
    until(lambda: figures(copy)["follow_position"] >= found["follow_position"] + 100, "the position to advance", PATIENCE_S)
    until(lambda: figures(copy)["follow_lag_ms"] < 1000, "the lag to be small", PATIENCE_S)
    assert figures(leader) == dict.fromkeys(found, 0) | {"follow_lag_ms": -1}


# Itself


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_its_own_port(state_dir: Path, host: str) -> None:
    with Daemon("--name", "free", "16", "16") as daemon:
        port = daemon.port
    found = verb("--name", "copy", "16", "16", "-p", str(port), "--follow", f"{host}:{port}")
    assert found.returncode == 2
    assert f"--follow: {host}:{port} is this daemon itself" in found.stderr


@pytest.mark.parametrize("how", ["", "channel:"])
def test_its_own_socket(state_dir: Path, tmp_path: Path, how: str) -> None:
    path = str(tmp_path / "s")
    found = verb("--name", "copy", "16", "16", "-s", path, "--follow", how + path)
    assert found.returncode == 2
    assert "is this daemon's own socket" in found.stderr
