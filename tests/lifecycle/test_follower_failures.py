"""A follower when its leader or one of its own processes ends, when its table goes, and when it falls behind."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from pathlib import Path

from support.client import Client
from support.following import PATIENCE_S, REFUSED, await_equal, companion_of, figures, follower_of
from support.isolation import is_running
from support.servers import Daemon
from support.supervision import await_line, said
from support.tables import state, verb
from support.waiting import until

import memcache_shm


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
