"""Read directly, write through: a mapping that may only be read, and changes by its daemon."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from support.servers import Daemon
from support.waiting import until

import memcache_shm
from memcache_shm import IllegalInputError, RemoteError

ANOTHER_USER = 65534  # nobody's uid, who needs no entry anywhere


@pytest.fixture
def daemon(daemon_with: Callable[..., Daemon]) -> Daemon:
    """An empty one."""
    daemon = daemon_with("-m", "16", workers=2)
    daemon.flush()
    return daemon


@pytest.fixture
def cache(daemon: Daemon) -> Iterator[memcache_shm.Cache]:
    with _attached(daemon) as cache:
        yield cache


def _attached(daemon: Daemon, **options: Any) -> memcache_shm.Cache:
    return memcache_shm.attach(daemon.name, readonly=True, writes=daemon.unix_path, **options)


class Stopped:
    """The workers of a daemon stand still, until the end of a `with` or a call."""

    def __init__(self, daemon: Daemon) -> None:
        self._workers = daemon.workers
        self._signal(signal.SIGSTOP)

    def __enter__(self) -> Stopped:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self()

    def __call__(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for worker in self._workers:
            os.kill(worker, number)


def test_reads_come_from_the_mapping(daemon: Daemon, cache: memcache_shm.Cache) -> None:
    """They are answered while the workers stand still."""
    cache.set("key", b"1")
    with Stopped(daemon):
        assert cache.get("key") == cache["key"] == cache.gets("key")[0] == b"1"
        assert cache.get_many(["key", "none"]) == {"key": b"1"}
        assert "key" in cache
        assert len(cache) == 1
    assert repr(cache) == f"<memcache_shm.Cache {daemon.name!r} read-only, writes through {daemon.unix_path!r}>"


def test_ids_of_the_mapping_are_the_daemons(cache: memcache_shm.Cache) -> None:
    cache.set("key", b"1")
    _, cas = cache.gets("key")
    assert cache.cas("key", b"2", cas) is True
    assert cache.cas("key", b"3", cas) is False
    assert cache.gats("key", 100) == cache.gets("key") == (b"2", cache.gets_many(["key"])["key"][1])


READS: dict[str, Callable[[memcache_shm.Cache], object]] = {
    "get": lambda cache: cache.get("key"),
    "gets": lambda cache: cache.gets("key")[0],
    "index": lambda cache: cache["key"],
    "get_many": lambda cache: cache.get_many(["key"])["key"],
    "gets_many": lambda cache: cache.gets_many(["key"])["key"][0],
    "gat": lambda cache: cache.gat("key"),
    "in": lambda cache: b"new" if "other" in cache else b"old",
    "len": lambda cache: b"new" if len(cache) == 2 else b"old",
    "stats": lambda cache: b"new" if cache.stats()[b"curr_items"] == 2 else b"old",
}


@pytest.mark.parametrize("name", READS)
def test_what_was_written_without_a_reply_is_read(daemon: Daemon, cache: memcache_shm.Cache, name: str) -> None:
    """Although the worker does it later: it is stopped, and goes on while the read waits."""
    cache.set("key", b"old", noreply=True)
    assert cache.get("key") == b"old"
    with Stopped(daemon) as stopped:
        cache.set_many({"key": b"new", "other": b""}, noreply=True)
        going_on = threading.Timer(0.1, stopped)
        going_on.start()
        assert READS[name](cache) == b"new"
        going_on.join()


def test_a_worker_that_does_not_answer(daemon: Daemon) -> None:
    """A read does not tell the old value for the new one, nor does it wait for ever."""
    with _attached(daemon, timeout=0.2) as cache:
        cache.set("key", b"old", noreply=True)
        assert cache.get("key") == b"old"
        with Stopped(daemon):
            cache.set("key", b"new", noreply=True)
            with pytest.raises(RemoteError, match=r"no answer within 0\.2 s; what was sent with noreply may be lost$"):
                cache.get("key")
            assert cache.get("key") == b"old", "said once"
        until(lambda: cache.get("key") == b"new", "the worker to do what was in the ring")


@pytest.mark.parametrize(
    ("read", "miss"),
    [
        (lambda cache: cache.get("key", 5), 5),
        (lambda cache: cache.gets("key", 5, 6), (5, 6)),
        (lambda cache: cache.get_many(["key", "other"]), {}),
        (lambda cache: cache.gets_multi(["key", "other"]), {}),
        (lambda cache: "key" in cache, False),
    ],
)
def test_a_get_that_fails_is_a_miss(daemon: Daemon, read: Callable[[memcache_shm.Cache], object], miss: object) -> None:
    with _attached(daemon, timeout=0.1, ignore_exc=True) as cache:
        cache.set_many({"key": b"old", "other": b"old"})
        with Stopped(daemon):
            cache.set("key", b"new", noreply=True)
            assert read(cache) == miss


@pytest.mark.parametrize("noreply", [False, True])
def test_threads(cache: memcache_shm.Cache, noreply: bool) -> None:
    """Each reads what it wrote, and what another one wrote before it said so."""
    problems: list[object] = []
    newest = [(b"key0", 0)] * 4

    def use(me: int) -> None:
        for number in range(1, 200):
            cache.set(b"key%d" % me, b"%d" % number, noreply=noreply)
            newest[me] = b"key%d" % me, number
            for key, least in (newest[me], newest[(me + 1) % 4]):
                found = int(cache.get(key, 0))
                if found < least:
                    problems.append((me, key, found, least))

    threads = [threading.Thread(target=use, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_forks_and_pickles(daemon: Daemon) -> None:
    with _attached(daemon, key_prefix=b"p:") as cache:
        cache.set("key", b"1")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                cache.set("child", b"2", noreply=True)
                status = 0 if cache.get("child") == b"2" and cache.get("key") == b"1" else 2
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert cache.get("child") == b"2"
        cache.set("key", b"3")
        with pickle.loads(pickle.dumps(cache)) as copy:
            assert copy.get("key") == b"3"
            copy.set("key", b"4", noreply=True)
            assert copy.get("key") == cache.get("key") == b"4"


def test_a_path_that_is_relative(daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It stays what it was; path-like objects are taken."""
    monkeypatch.chdir(os.path.dirname(daemon.unix_path))
    for path in ("./s", Path("s")):
        with memcache_shm.attach(daemon.name, readonly=True, writes=path) as cache, monkeypatch.context() as elsewhere:
            elsewhere.chdir(tmp_path)
            with pickle.loads(pickle.dumps(cache)) as copy:
                assert copy.set("key", b"1") is True


def test_after_close(daemon: Daemon) -> None:
    cache = _attached(daemon)
    cache.close()
    for call in (lambda: cache.get("key"), lambda: cache.set("key", b""), lambda: cache.set("key", b"", noreply=True), lambda: len(cache)):
        with pytest.raises(memcache_shm.ClosedError):
            call()


def test_who_may_only_read(tmp_path: Path) -> None:
    """Another user, whom mode 0640 lets read the table by the group, and -a the socket."""
    if os.getuid() != 0:
        pytest.skip("needs root to be another user")
    with Daemon("--mode", "0640", "-a", "0660", "64", "64") as daemon:
        state_directory = os.environ["MEMCACHE_SHM_DIR"]
        places = [state_directory, os.path.dirname(daemon.unix_path)]
        modes = [os.stat(place).st_mode for place in places]
        for place in places:
            os.chmod(place, 0o755)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setgroups([])
                os.setgid(0)
                os.setuid(ANOTHER_USER)
                status = _as_another_user(daemon)
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        for place, mode in zip(places, modes, strict=True):
            os.chmod(place, mode & 0o7777)
        with memcache_shm.attach(daemon.name) as own:
            assert own.get("key") == b"theirs"


def _as_another_user(daemon: Daemon) -> int:
    with pytest.raises(PermissionError):
        memcache_shm.attach(daemon.name)
    with _attached(daemon) as cache:
        cache["key"] = b"theirs"
        assert cache["key"] == b"theirs"
    return 0


# What is refused


def test_what_cannot_be_given(daemon: Daemon) -> None:
    with pytest.raises(IllegalInputError, match=r"^writes goes with readonly=True"):
        memcache_shm.attach(daemon.name, writes=daemon.unix_path)
    for path in ("s", f"channel:{daemon.unix_path}", 5, "/a\0"):
        with pytest.raises(IllegalInputError, match=r"^writes must be the path of the daemon's UNIX socket"):
            memcache_shm.attach(daemon.name, readonly=True, writes=path)  # type: ignore[arg-type]
    with pytest.raises(RemoteError, match=r"/none: No such file or directory; .* -s PATH$"):
        memcache_shm.attach(daemon.name, readonly=True, writes=daemon.unix_path.removesuffix("s") + "none")
    with pytest.raises(memcache_shm.TableNotFoundError):
        memcache_shm.attach("none", readonly=True, writes=daemon.unix_path)


def test_the_socket_of_another_table(daemon: Daemon, daemon_with: Callable[..., Daemon]) -> None:
    other = daemon_with("-m", "64", workers=2)
    with pytest.raises(RemoteError, match=rf"^writes: the daemon at {other.unix_path} serves another table than '{daemon.name}'; give"):
        memcache_shm.attach(daemon.name, readonly=True, writes=other.unix_path)


# What goes on


def _set(cache: memcache_shm.Cache, value: bytes) -> bool:
    """Whether "key" could be set; errors that a change meets while something is made anew, and no others, are none here."""
    try:
        return cache.set("key", value)
    except (RemoteError, memcache_shm.TableRemovedError):
        return False


def test_killed_workers() -> None:
    with Daemon("64", "64", workers=2) as daemon, _attached(daemon) as cache:
        cache.set("key", b"1")
        for worker in daemon.workers:
            os.kill(worker, signal.SIGKILL)
        assert cache.get("key") == b"1"
        until(lambda: _set(cache, b"2"), "another worker")
        assert cache.get("key") == b"2"


def test_another_daemon_of_that_name(tmp_path: Path) -> None:
    """With another table: what was mapped is not what is served any more."""
    path = str(tmp_path / "s")
    options = ("--name", f"through-{os.getpid()}", "-s", path, "64", "64")
    with Daemon(*options) as first, _attached(first) as cache:
        cache.set("key", b"1")
        first.stop()
        with pytest.raises(RemoteError):
            cache.set("key", b"2")
        with pytest.raises(memcache_shm.TableRemovedError):
            cache.get("key")
        with Daemon(*options):
            assert cache.set("key", b"3") is True
            assert cache.get("key") == b"3"
        with Daemon(*options[2:]), pytest.raises(memcache_shm.MemcacheError, match=r"removed|serves another table"):
            cache.set("key", b"4")
