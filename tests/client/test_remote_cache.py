"""`connect`: beside pymemcache's own client, with threads, forks, and pipelines larger than all buffers."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymemcache.client.base import Client
from pymemcache.serde import pickle_serde
from support.scripted import VERSION, Scripted
from support.servers import Daemon, Memcached

import memcache_shm
from memcache_shm import ClosedError, IllegalInputError, RemoteCache, RemoteError
from memcache_shm.client.remote_changes import RemoteChanges

GET = b"get key\r\n"
MISS = (GET, b"END\r\n")
WRITE = b"set key 0 0 1\r\n1\r\n"


@pytest.fixture(params=["tcp", "unix", "channel"])
def address(request: pytest.FixtureRequest, daemon_with: Callable[..., Daemon]) -> str:
    """Of an empty daemon with two workers."""
    daemon = daemon_with("-m", "64", workers=2)
    daemon.flush()
    return daemon.addresses[request.param]


@pytest.fixture
def cache(address: str) -> Iterator[RemoteCache]:
    with memcache_shm.connect(address) as cache:
        yield cache


# What it answers


CALLS: list[Callable[[Any], object]] = [
    lambda cache: cache.set("key", [1, "two"]),
    lambda cache: cache.get("key"),
    lambda cache: cache.get("none"),
    lambda cache: cache.get("none", "default"),
    lambda cache: cache.gets("none", 1, 2),
    lambda cache: cache.add("key", "other"),
    lambda cache: cache.replace("key", {"a": None}, expire=100, flags=1),
    lambda cache: cache.replace("none", 1),
    lambda cache: cache.get_many(["key", b"other", "none"]),
    lambda cache: cache.set_many({"n": "10", "m": b"", b"bytes": b"\r\n"}),
    lambda cache: cache.incr("n", 5),
    lambda cache: cache.decr("n", 100),
    lambda cache: cache.incr("none", 1),
    lambda cache: cache.incr("n", 1, noreply=True),
    lambda cache: cache.append("n", "1"),
    lambda cache: cache.prepend("none", "1"),
    lambda cache: cache.get("n"),
    lambda cache: cache.cas("n", "1", 1),
    lambda cache: cache.cas("n", "1", cache.gets("n")[1]),
    lambda cache: cache.cas("none", "1", b"1"),
    lambda cache: cache.gets_many(["n", "none"]).keys(),
    lambda cache: cache.touch("n", 100),
    lambda cache: cache.touch("none"),
    lambda cache: cache["m"],
    lambda cache: cache.delete("m"),
    lambda cache: cache.delete("m"),
    lambda cache: cache.delete("m", noreply=True),
    lambda cache: cache.delete_many(["key", "none"]),
    lambda cache: cache.get_many(["key", "n"]),
    lambda cache: {name: type(value) for name, value in cache.stats().items()},
    lambda cache: {name: value for name, value in cache.stats("settings").items() if name != b"verbosity"},
    lambda cache: cache.version(),
    lambda cache: cache.flush_all(delay=0),
    lambda cache: cache.get("n"),
]


def test_beside_pymemcache(address: str, daemon_with: Callable[..., Daemon]) -> None:
    daemon = daemon_with("-m", "64", workers=2)
    outcomes = []
    for client in (
        Client((daemon.host, daemon.port), serde=pickle_serde, default_noreply=False, no_delay=True),
        memcache_shm.connect(address, serde=pickle_serde),
    ):
        outcomes.append([call(client) for call in CALLS])
        client.close()
    assert outcomes[0] == outcomes[1]


def test_a_memcached(memcached_with: Callable[..., Memcached]) -> None:
    memcached = memcached_with()
    where = f"{memcached.host}:{memcached.port}"
    too_large = bytes(1 << 20)
    with memcache_shm.connect(where) as cache:
        assert cache.set_many({"a": b"1", "large": too_large, "b": b"10"}) == ["large"]
        assert cache.decr("b", 1) == 9
        assert cache.get("b") == b"9 ", "filled up there"
        cache.set("large", too_large, noreply=True)
        assert cache.get_many(["a", "b", "large"]) == {"a": b"1", "b": b"9 "}
        with pytest.raises(memcache_shm.TooLargeError, match=f"^{where}: object too large for cache; .* -I$"):
            cache["large"] = too_large


def test_no_space(daemon_with: Callable[..., Daemon]) -> None:
    daemon = daemon_with("-M", "3", "10")
    daemon.flush()
    with memcache_shm.connect(daemon.unix_path) as cache:
        assert cache.set_many(dict.fromkeys("abcd", b"1")) == ["d"]
        with pytest.raises(memcache_shm.NoSpaceError, match="out of memory storing object; give the server more memory"):
            cache.set("d", b"1")
        assert cache.get_many("abcd") == dict.fromkeys("abc", b"1")


@pytest.mark.parametrize("value", [b"", b"\r\nEND\r\n", b"END\r\nVALUE key 0 1\r\n1\r\n", b"x" * 1000])
def test_a_reply_in_pieces(value: bytes) -> None:
    reply = b"VALUE key 7 %d 5\r\n%b\r\nEND\r\n" % (len(value), value)
    talk = [VERSION, (b"gets key\r\n", reply), (WRITE, b"STORED\r\n"), MISS]
    with Scripted(talk) as server, memcache_shm.connect(server.address) as cache:
        assert cache.gets("key") == (value, b"5")
        assert cache.set("key", b"1") is True
        assert cache.get("key") is None


@pytest.mark.parametrize(
    "reply",
    [
        b"VALUE other 0 1\r\n1\r\nEND\r\n",
        b"VALUE key 0 x\r\n1\r\nEND\r\n",
        b"VALUE key 0 1\r\n123END\r\n",
        b"VALUE key 0 99999999999\r\n",
        b"SERVER_ERROR out of \x1b[31mmemory\r\n",
    ],
)
def test_a_reply_that_cannot_be(reply: bytes) -> None:
    with Scripted([VERSION, (GET, reply)], [VERSION, (GET, reply)], [VERSION, MISS]) as server:
        with memcache_shm.connect(server.address) as cache:
            with pytest.raises(RemoteError, match=f"^{server.address}: ") as raised:
                cache.get("key")
            assert "\x1b" not in str(raised.value)
        with memcache_shm.connect(server.address, ignore_exc=True) as cache:
            assert cache.get("key", 5) == 5
            assert cache.get("key") is None, "on a new connection"


def test_results_of_every_door(opened: Callable[..., Any]) -> None:
    cache = opened()
    assert cache.set("key", b"x" * 60_000, expire=-(2**63)) is True
    assert cache.get("key") is None, "it is over"
    with pytest.raises(IllegalInputError, match="nope"):
        cache.stats("nope")
    cache.set("key", b"x" * 60_000)
    for add in (cache.append, cache.prepend):
        if isinstance(cache, RemoteChanges):
            assert add("key", b"y" * 60_000) is False
        else:
            with pytest.raises(memcache_shm.TooLargeError):
                add("key", b"y" * 60_000)
    assert cache.get("key") == b"x" * 60_000


def test_a_removed_table() -> None:
    removed = (WRITE, b"SERVER_ERROR table was removed\r\n")
    with (
        Scripted([VERSION, removed]) as server,
        memcache_shm.connect(server.address) as cache,
        pytest.raises(memcache_shm.TableRemovedError, match=f"^{server.address}: table was removed; its daemon is about to make"),
    ):
        cache.set("key", b"1")


# Who is there


def test_nobody_there(tmp_path: Path, memcached_with: Callable[..., Memcached]) -> None:
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(stale))
    (tmp_path / "file").write_text("")
    old = memcached_with()
    for address, why in {
        str(tmp_path / "none"): "No such file or directory; a daemon makes it with -s PATH$",
        f"channel:{tmp_path}/none": "No such file or directory; a daemon makes it with -s PATH$",
        str(stale): "Connection refused; no daemon listens there, start one with -s PATH$",
        f"channel:{stale}": "Connection refused; no daemon listens there, start one with -s PATH$",
        f"channel:{tmp_path}/file": "Connection refused; no daemon listens there",
        "/" + "x" * 200: "path too long",
    }.items():
        with pytest.raises(RemoteError, match=f"^{address}: .*{why}"):
            memcache_shm.connect(address)
    with memcache_shm.connect(f"{old.host}:{old.port}") as cache:
        assert cache.version().startswith(b"1.6.")


def test_a_memcached_has_no_channels(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def answer() -> None:
            with listener.accept()[0] as sock:
                sock.recv(100)
                sock.sendall(b"ERROR\r\n")

        server = threading.Thread(target=answer)
        server.start()
        with pytest.raises(RemoteError, match=r"/s: no channels there; a memcache_shm daemon .* has them"):
            memcache_shm.connect(f"channel:{tmp_path}/s")
        server.join()


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("app", {}),
        ("channel:app", {}),
        ("localhost:99999", {}),
        (5, {}),
        ("localhost", {"timeout": 0}),
        ("localhost", {"timeout": None}),
        ("localhost", {"timeout": float("nan")}),
        ("localhost", {"serde": 5}),
        ("localhost", {"encoding": "none"}),
    ],
)
def test_what_cannot_be_given(address: Any, options: dict[str, Any]) -> None:
    with pytest.raises(IllegalInputError):
        memcache_shm.connect(address, **options)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1", r"^'127\.0\.0\.1' is no address without a port; write 127\.0\.0\.1:11211, "),
        ("cache-1.example", r" without a port; write cache-1\.example:11211"),
        ("channel:/dir/\0s", r"^'channel:/dir/\\x00s' is no address: a NUL is in it$"),
    ],
)
def test_what_is_wrong_with_an_address(address: str, message: str) -> None:
    with pytest.raises(IllegalInputError, match=message):
        memcache_shm.connect(address)


def test_a_killed_worker_is_told_with_one_address() -> None:
    with Daemon("64", "64") as daemon, memcache_shm.connect(f"channel:{daemon.unix_path}") as cache:
        (worker,) = daemon.workers
        os.kill(worker, signal.SIGSTOP)
        killing = threading.Timer(0.1, os.kill, (worker, signal.SIGKILL))
        killing.start()
        with pytest.raises(RemoteError, match=rf"^channel:{daemon.unix_path}: connection lost \(the worker .* of the channel is gone\)$"):
            cache.set("key", b"1")
        killing.join()


def test_after_close(address: str) -> None:
    cache = memcache_shm.connect(address)
    cache.set("key", b"1", noreply=True)
    cache.close()
    cache.close()
    for call in (lambda: cache.get("key"), lambda: cache.set("key", b""), lambda: cache.set("key", b"", noreply=True), lambda: len(cache)):
        with pytest.raises(ClosedError, match="connect again"):
            call()
    assert repr(cache) == f"<memcache_shm.RemoteCache {address!r}>"


# Threads, processes


@pytest.mark.parametrize("noreply", [False, True])
def test_threads(cache: RemoteCache, noreply: bool) -> None:
    """Each reads what it wrote, and what another one wrote that says so."""
    problems = []
    newest = [(b"0", b"")] * 4

    def use(me: int) -> None:
        key = b"key%d" % me
        for number in range(150):
            value = b"%d:%d" % (me, number) * (number + 1)
            cache.set(key, value, noreply=noreply)
            newest[me] = key, value
            if cache.get(key) != value:
                problems.append((me, number))
            other, least = newest[(me + 1) % 4]
            found = cache.get_many([other, "none"]).get(other, b"")
            if len(found) < len(least):
                problems.append((other, found, least))

    threads = [threading.Thread(target=use, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_forked_children(cache: RemoteCache) -> None:
    """Parent and child talk at the same time, each on a connection of its own."""
    cache.set("parent", b"p")
    cache.set("told", b"t", noreply=True)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            good = all(cache.get("parent") == b"p" and cache.set("child", b"%d" % number) for number in range(300))
            cache.set("quiet", b"q", noreply=True)
            status = 0 if good and cache.get("quiet") == b"q" else 2
        finally:
            os._exit(status)
    for number in range(300):
        assert cache.set("parent", b"p")
        assert cache.get("parent") == b"p", number
    assert os.waitpid(pid, 0)[1] == 0
    assert cache.get_many(["child", "told", "quiet"]) == {"child": b"299", "told": b"t", "quiet": b"q"}


def test_pickle(address: str) -> None:
    with memcache_shm.connect(address, key_prefix=b"p:", timeout=3, serde=pickle_serde) as cache:
        cache["key"] = [1]
        with pickle.loads(pickle.dumps(cache)) as copy:
            assert copy["key"] == [1]
            assert repr(copy) == repr(cache)


@pytest.mark.parametrize("kind", ["", "channel:"])
def test_paths(kind: str, daemon_with: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A relative one stays what it was; path-like objects are taken."""
    path = daemon_with("-m", "64", workers=2).unix_path
    monkeypatch.chdir(os.path.dirname(path))
    opened = [memcache_shm.connect(kind + "./s")]
    if not kind:
        opened += [memcache_shm.connect(Path("s")), memcache_shm.connect(Path(path))]
    monkeypatch.chdir(tmp_path)
    for cache in opened:
        thread = threading.Thread(target=cache.set, args=("key", b"1"))
        with cache, pickle.loads(pickle.dumps(cache)) as copy:
            thread.start()
            thread.join()
            assert copy.get("key") == b"1"


# Pipelines


def test_more_than_all_buffers(cache: RemoteCache) -> None:
    pairs = {f"key{number}": b"%06d" % number * 150 for number in range(20_000)}
    large = {f"large{number}": bytes([number]) * 1_000_000 for number in range(12)}
    too_large = {f"too_large{number}": bytes((1 << 20) + 1) for number in range(3)}
    assert cache.set_many(pairs | too_large | large) == list(too_large)
    assert cache.get_many(pairs) == pairs
    assert cache.get_many([*large, *too_large]) == large
    found = cache.gets_many(["key1", *large])
    assert {key: value for key, (value, _) in found.items()} == {"key1": pairs["key1"], **large}
    assert cache.delete_many([*pairs, "none"]) is True
    assert cache.get_many(pairs) == {}
    assert cache.set_many(pairs, noreply=True) == []
    assert cache.get_many(pairs) == pairs


def test_nothing(cache: RemoteCache) -> None:
    assert cache.set_many({}) == []
    assert cache.get_many([]) == {}
    assert cache.delete_many([]) is True
    assert cache.set_many({}, noreply=True) == []


def test_a_bad_key_among_many(cache: RemoteCache) -> None:
    """Nothing is sent of what cannot be sent as a whole."""
    for call in (
        lambda: cache.set_many({"a": b"1", "b c": b"2"}),
        lambda: cache.get_many(["a", ""]),
        lambda: cache.delete_many(["a", "\n"]),
    ):
        with pytest.raises(IllegalInputError):
            call()
    assert cache.get("a") is None


# Without a reply


def test_what_was_told_is_read(address: str) -> None:
    """Each worker in turn is stopped: it may be the one that was told, and the other would answer at once."""
    with Daemon("64", "64", workers=2) as daemon:
        door = "tcp" if "/" not in address else "channel" if address.startswith("channel:") else "unix"
        with memcache_shm.connect(daemon.addresses[door]) as cache:
            cache.set("key", b"0", noreply=True)
            assert cache.get("key") == b"0"
            for number, worker in enumerate(daemon.workers, 1):
                os.kill(worker, signal.SIGSTOP)
                cache.set("key", b"%d" % number, noreply=True)
                going_on = threading.Timer(0.2, os.kill, (worker, signal.SIGCONT))
                going_on.start()
                assert cache.get("key") == b"%d" % number
                going_on.join()
