"""A daemon that follows another: what it copies, what it refuses, and what it does when one of the two or the way between them fails."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.client import Client
from support.following import (
    PATIENCE_S,
    await_copies,
    await_equal,
    companion_of,
    contents,
    figures,
    follower_of,
    has_companion,
    is_in_step,
    where,
)
from support.isolation import is_running
from support.servers import Daemon
from support.supervision import await_line, said
from support.tables import state, verb
from support.waiting import until

import memcache_shm

REFUSED = b"SERVER_ERROR this table follows another: write to that one, or promote it"
FAR = 2_000_000_000  # unix time


@pytest.fixture
def leader(state_dir: Path) -> Iterator[Daemon]:
    with Daemon("--name", "lead", "-m", "16", workers=2) as daemon:
        yield daemon


@pytest.fixture
def copy(leader: Daemon) -> Iterator[Daemon]:
    """A follower that is in step."""
    with Client(leader) as client:
        client.set(b"key", b"1")
    with follower_of(leader) as daemon:
        await_copies(daemon, 1)
        yield daemon


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


# What fails


def test_a_leader_that_is_not_there_yet(leader: Daemon) -> None:
    port = leader.port
    assert leader.stop() == 0
    with Daemon("--name", "copy", "-m", "16", "--follow", f"127.0.0.1:{port}") as copy, Client(copy) as theirs:
        line = await_line(copy, "cannot follow")
        assert line.endswith(f"127.0.0.1:{port}: Connection refused; trying again and again, the copy serves meanwhile")
        assert theirs.get(b"key") is None
        assert theirs.set(b"key", b"v") == REFUSED
        assert figures(copy)["follow_lag_ms"] == -1
        with Daemon("--name", "lead", "-m", "16", "-p", str(port)) as late, Client(late) as ours:
            ours.set(b"key", b"v")
            until(lambda: theirs.get(b"key") == b"v", "the copy", PATIENCE_S)
            await_line(copy, f"in step with 127.0.0.1:{port} again after")
        told = said(copy, "cannot follow")  # one that is starting may break a connection off
        assert all(earlier != later for earlier, later in itertools.pairwise(told))


def test_the_leader_restarts_empty(leader: Daemon, copy: Daemon) -> None:
    with Client(copy) as theirs:
        assert leader.stop() == 0
        until(lambda: not figures(copy)["follow_connected"], "the loss to be noticed")
        assert theirs.get(b"key") == b"1"
        with Daemon("--name", "lead", "-m", "16", "-p", str(leader.port)) as again, Client(again) as ours:
            ours.set(b"other", b"v")
            assert set(await_equal(copy, again)) == {b"other"}
            assert figures(copy)["follow_copies"] == 2


def test_the_leader_is_killed_and_takes_its_table_over(leader: Daemon, copy: Daemon) -> None:
    os.kill(leader.pid, signal.SIGKILL)
    leader.wait()
    until(lambda: not figures(copy)["follow_connected"], "the loss to be noticed")
    with memcache_shm.attach("lead") as cache:
        cache.set("meanwhile", b"v")
        cache.delete("key")
    with Daemon("--name", "lead", "-m", "16", "-p", str(leader.port)) as again:
        assert set(await_equal(copy, again)) == {b"meanwhile"}


def test_the_following_process_is_killed(leader: Daemon, copy: Daemon) -> None:
    for turn in range(3):
        victim = companion_of(copy)
        os.kill(victim, signal.SIGKILL)
        line = await_line(copy, rf"follower \(pid {victim}\)")
        assert f"follower (pid {victim}) killed by SIGKILL; starting another" in line
        with Client(leader) as client:
            client.set(b"turn", b"%d" % turn)
        assert await_equal(copy, leader)[b"turn"].value == b"%d" % turn
    assert figures(copy)["follow_copies"] == 4


def test_the_following_process_is_told_to_end_by_somebody(leader: Daemon, copy: Daemon) -> None:
    victim = companion_of(copy)
    os.kill(victim, signal.SIGSTOP)  # so that nothing else happens before it ends
    os.kill(victim, signal.SIGTERM)
    os.kill(victim, signal.SIGCONT)
    assert f"follower (pid {victim}) killed by SIGTERM; starting another" in await_line(copy, rf"follower \(pid {victim}\)")
    with Client(leader) as client:
        client.set(b"after", b"v")
    assert await_equal(copy, leader)[b"after"].value == b"v"


def test_a_worker_of_the_follower_is_killed(leader: Daemon, copy: Daemon) -> None:
    companion = companion_of(copy)
    os.kill(next(pid for pid in copy.workers if pid != companion), signal.SIGKILL)
    await_line(copy, "worker 0 .* killed by SIGKILL")
    with Client(leader) as client:
        client.set(b"after", b"v")
    await_equal(copy, leader)
    assert companion_of(copy) == companion


def test_a_stop_is_clean(leader: Daemon, copy: Daemon) -> None:
    companion = companion_of(copy)
    began = time.monotonic()
    assert copy.stop() == 0
    assert time.monotonic() - began < 5
    assert not is_running(companion)
    assert len(copy.lines) == 1  # the start line


def test_the_following_process_dies_with_its_daemon(copy: Daemon) -> None:
    companion = companion_of(copy)
    os.kill(copy.pid, signal.SIGKILL)
    copy.wait()
    until(lambda: not is_running(companion), "the follower's process to go")
    assert verb("rm", "copy").returncode == 0


def test_a_table_removed_under_it(leader: Daemon, copy: Daemon) -> None:
    ids = state(Path(os.environ["MEMCACHE_SHM_DIR"]), "copy")
    os.system(f"ipcrm -m {ids['shmid']} -s {ids['semid']}")
    await_line(copy, "an empty one took its place")
    assert await_equal(copy, leader)[b"key"].value == b"1"
    with Client(copy) as client:
        assert client.set(b"key", b"v") == REFUSED


def test_behind_by_more_than_the_feed(state_dir: Path) -> None:
    """The leader has a tiny feed and is written to as fast as it goes: the follower falls behind, copies anew, and both end up equal."""
    with Daemon("--name", "lead", "-m", "16", "--feed", "64k", workers=1) as leader, follower_of(leader) as copy:
        over = threading.Event()
        writers = [threading.Thread(target=_write_on, args=(leader, over, seed)) for seed in range(2)]
        for writer in writers:
            writer.start()
        try:
            with memcache_shm.attach("lead") as cache:
                end = time.monotonic() + 3
                number = 0
                while time.monotonic() < end:
                    cache.set(f"k{number % 20000}", b"%d" % number)
                    number += 1
        finally:
            over.set()
            for writer in writers:
                writer.join()
        await_equal(copy, leader)


def _write_on(leader: Daemon, over: threading.Event, seed: int) -> None:
    choose = random.Random(seed)
    with Client(leader) as client:
        while not over.is_set():
            key = b"k%d" % choose.randrange(20000)
            if choose.random() < 0.2:
                client.ask(b"delete " + key)
            else:
                client.set(key, b"%d" % choose.randrange(10**6))


# Itself


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_its_own_port(state_dir: Path, host: str) -> None:
    with Daemon("--name", "free", "16", "16") as daemon:
        port = daemon.port
    found = verb("--name", "copy", "16", "16", "-p", str(port), "--follow", f"{host}:{port}")
    assert found.returncode == 2
    assert f"--follow: {host}:{port} is this daemon itself" in found.stderr


def test_its_own_socket(state_dir: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    found = verb("--name", "copy", "16", "16", "-s", path, "--follow", path)
    assert found.returncode == 2
    assert "is this daemon's own socket" in found.stderr


# Promotion


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
