"""The stream of a daemon's changes: reading it in any cutting, refusals, silence, and both doors of the real thing."""

from __future__ import annotations

import base64
import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.client import Client
from support.scripted import Scripted
from support.servers import Daemon, Memcached

from memcache_shm import Change, FeedOffError, IllegalInputError, RemoteError
from memcache_shm.client import remote_feed
from memcache_shm.client.notices import NoticeReader
from memcache_shm.client.remote_feed import RemoteFeed, RemoteStream

BINARY = b"a b\r\n\0"
NOTICES = [
    (b"NOTIFY set key 5 1700000000 5 42\r\nva\r\nl\r\n", Change("set", b"key", b"va\r\nl", 5, 1700000000, 42)),
    (b"NOTIFY set empty 0 0 0 18446744073709551615\r\n\r\n", Change("set", b"empty", b"", 0, 0, 2**64 - 1)),
    (b"NOTIFY set %b 0 0 3 1 b\r\n\0\xff\n\r\n" % base64.b64encode(BINARY), Change("set", BINARY, b"\0\xff\n", 0, 0, 1)),
    (b"NOTIFY touch key 5 1700000001 0 42\r\n", Change("touch", b"key", None, 5, 1700000001, 42)),
    (b"NOTIFY delete key 0 0 0 42\r\n", Change("delete", b"key", cas=42)),
    (b"NOTIFY expire key 0 0 0 43\r\n", Change("expire", b"key", cas=43)),
    (b"NOTIFY evict %b 0 0 0 44 b\r\n" % base64.b64encode(BINARY), Change("evict", BINARY, cas=44)),
    (b"NOTIFY flush * 0 0 0 0\r\n", Change("flush", None)),
    (b"LOST 17 99\r\n", Change("lost", None, first=17, last=99)),
    (b"SYNCED 100\r\n", Change("synced", None, last=100)),
    (b"ALIVE 101\r\n", Change("alive", None, last=101)),
    (b"NOTIFY set %b 0 0 70000 9\r\n%b\r\n" % (b"k" * 250, b"x" * 70000), Change("set", b"k" * 250, b"x" * 70000, 0, 0, 9)),
]
STREAM = b"".join(text for text, _ in NOTICES)
CHANGES = [change for _, change in NOTICES]


# Reading


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 1 << 20])
def test_notices_in_pieces(size: int) -> None:
    reader = NoticeReader("somewhere")
    heard = [change for at in range(0, len(STREAM), size) for change in reader.feed(STREAM[at : at + size])]
    assert heard == CHANGES


def test_notices_in_random_pieces() -> None:
    chance = random.Random(3)
    for _ in range(200):
        reader, at, heard = NoticeReader("somewhere"), 0, []
        while at < len(STREAM):
            end = at + chance.choice([1, 5, 40, 300, 50_000])
            heard += reader.feed(STREAM[at:end])
            at = end
        assert heard == CHANGES


BROKEN = [
    b"HELLO\r\n",
    b"NOTIFY\r\n",
    b"NOTIFY set key 0 0 3\r\nabc\r\n",
    b"NOTIFY set key 0 0 three 1\r\nabc\r\n",
    b"NOTIFY set key 0 0 -3 1\r\nabc\r\n",
    b"NOTIFY set key 0 0 3 1\r\nabcdef\r\n",
    b"NOTIFY set key 0 0 99999999999 1\r\n",
    b"NOTIFY moved key 0 0 0 1\r\n",
    b"NOTIFY delete !!! 0 0 0 1 b\r\n",
    b"NOTIFY delete key 0 0 0 1 c\r\n",
    b"LOST 1\r\n",
    b"SYNCED\r\n",
    b"\r\n",
    b"x" * 5000,
]


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_notice_ends_the_stream(text: bytes) -> None:
    with pytest.raises(RemoteError, match="somewhere: its notices cannot be read"):
        NoticeReader("somewhere").feed(text)


def test_many_notices_take_little_time() -> None:
    """A million in a few seconds; here a tenth of that, with room for a machine that does other things."""
    text = b"".join(b"NOTIFY set key%d 0 0 10 %d\r\n0123456789\r\n" % (n, n) for n in range(100_000))
    reader = NoticeReader("somewhere")
    began_s = time.process_time()
    assert sum(len(reader.feed(text[at : at + 65536])) for at in range(0, len(text), 65536)) == 100_000
    assert time.process_time() - began_s < 1


def test_a_large_value_in_small_pieces_is_not_copied_each_time() -> None:
    reader = NoticeReader("somewhere")
    size = 64 << 20
    began_s = time.process_time()
    assert reader.feed(b"NOTIFY set key 0 0 %d 1\r\n" % size) == []
    piece = b"x" * 16384
    for _ in range(size // len(piece)):
        assert reader.feed(piece) == []
    (change,) = reader.feed(b"\r\n")
    assert len(change.value) == size
    assert time.process_time() - began_s < 3


# Who answers, and who does not

REFUSALS: list[tuple[bytes, type[Exception], str]] = [
    (b"ERROR\r\n", RemoteError, "does not know 'sync'; it is memcached, or an older memcache_shm"),
    (
        b"SERVER_ERROR the feed is off; start the daemon with --feed SIZE\r\n",
        FeedOffError,
        "the feed is off; start the daemon with --feed SIZE",
    ),
    (b"CLIENT_ERROR unauthenticated\r\n", RemoteError, r"wants a login \(-Y\).*; on its host name the table instead$"),
    (b"CLIENT_ERROR sync not allowed\r\n", RemoteError, ": sync not allowed$"),
    (b"CLIENT_ERROR \x1b[31mred \x07\xff\r\n", RemoteError, r": \\x1b\[31mred \\x07\\xff$"),
    (b"SERVER_ERROR the feed is off\x1b]0;title\x07\r\n", FeedOffError, r": the feed is off\\x1b\]0;title\\x07$"),
    (b"HTTP/1.1 400 Bad Request\r\n", RemoteError, "no memcached answers there"),
    (b"", RemoteError, "no answer to 'sync'"),
    (b"OK\r\nNOTIFY set key 0 0 9 1\r\nhal", RemoteError, "connection lost$"),
    (b"OK\r\nALIVE 1\r\nwhat?\r\n", RemoteError, "cannot be read"),
]


@pytest.mark.parametrize(("answer", "kind", "text"), REFUSALS, ids=[text for _, _, text in REFUSALS])
def test_refusals_and_breaks(answer: bytes, kind: type[Exception], text: str) -> None:
    with Scripted([(b"sync\r\n", answer)]) as server:
        with pytest.raises(kind, match=text) as caught, RemoteFeed(server.address).sync() as stream:
            for _ in stream:
                pass
        assert str(caught.value).startswith(server.address)
        assert "\n" not in str(caught.value)


def test_memcached_does_not_know_it(memcached_with: Callable[..., Memcached]) -> None:
    server = memcached_with()
    with pytest.raises(RemoteError, match="does not know 'subscribe'"):
        RemoteFeed(f"{server.host}:{server.port}").subscribe(["a*"])


@pytest.mark.parametrize(
    ("address", "text"), [("127.0.0.1:1", "refused"), ("/nowhere/at/all", "No such file"), ("a.invalid:1", "a.invalid:1: ")]
)
def test_nobody_there(address: str, text: str) -> None:
    with pytest.raises(RemoteError, match=text):
        RemoteFeed(address).sync()


@pytest.mark.parametrize("address", ["name", "", "[a:b"])
def test_no_address(address: str) -> None:
    with pytest.raises(IllegalInputError):
        RemoteFeed(address)


def test_no_answer_in_time() -> None:
    with Scripted([(b"sync\r\n", Scripted.SILENCE)]) as server, pytest.raises(RemoteError, match=r"no answer within 0.2 s"):
        RemoteFeed(server.address, 0.2).sync()


def test_an_answer_that_never_ends() -> None:
    """A byte now and then is no answer in time."""
    over = threading.Event()

    def drip(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock, contextlib.suppress(ConnectionError):
            for _ in range(100):
                sock.sendall(b"O")
                if over.wait(0.05):
                    break

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip, args=(listener,))
        dripping.start()
        try:
            with pytest.raises(RemoteError, match=r"no answer within 0.5 s"):
                RemoteFeed(f"127.0.0.1:{listener.getsockname()[1]}", 0.5).sync()
        finally:
            over.set()
            dripping.join()


def test_silence_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_feed, "SILENCE_S", 0.5)
    with Scripted(
        [(b"sync\r\n", b"OK\r\nALIVE 1\r\n"), (b"", Scripted.SILENCE)], [(b"sync\r\n", b"OK\r\nALIVE 1\r\n"), (b"-", b"")]
    ) as server:
        RemoteFeed(server.address).sync().close()
        with RemoteFeed(server.address).sync() as stream:
            began_s = time.monotonic()
            assert stream.read(5) == [Change("alive", None, last=1)]
            with pytest.raises(RemoteError, match="no sign of life for"):
                stream.read(10)
            assert 0.4 < time.monotonic() - began_s < 5


def test_a_subscription_asks_for_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_feed, "SILENCE_S", 1.0)
    monkeypatch.setattr(remote_feed, "_ASK_S", 0.1)
    steps = [(b"subscribe a* b\r\n", b"OK 2\r\n"), *[(b"mn\r\n", b"MN\r\n")] * 20, (b"mn\r\n", b"NOTIFY delete b 0 0 0 1\r\n")]
    with Scripted([*steps, (b"mn\r\n", Scripted.SILENCE)]) as server, RemoteFeed(server.address).subscribe(["a*", b"b"]) as stream:
        assert next(stream) == Change("delete", b"b", cas=1)
        with pytest.raises(RemoteError, match="no sign of life for 1 s"):
            next(stream)


# A daemon


@pytest.fixture(params=["tcp", "unix"])
def feed(request: pytest.FixtureRequest, daemon_with: Callable[..., Daemon]) -> Iterator[tuple[RemoteFeed, Daemon]]:
    daemon = daemon_with("-m", "64")
    daemon.flush()
    yield RemoteFeed(daemon.unix_path if request.param == "unix" else f"{daemon.host}:{daemon.port}"), daemon


def read_until(stream: RemoteStream, kind: str) -> list[Change]:
    """All changes before the first of that kind."""
    heard = []
    for change in stream:
        if change.kind == kind:
            return heard
        heard.append(change)
    raise AssertionError(f"it ended before {kind}")


def test_sync(feed: tuple[RemoteFeed, Daemon]) -> None:
    source, daemon = feed
    big = b"x" * 300_000
    with Client(daemon) as client:
        client.send(b"".join(b"set key%d 3 0 2 noreply\r\n%02d\r\n" % (number, number) for number in range(100)))
        assert client.set(b"big", big) == b"STORED"
        client.ask(b"ms YSBi 1 b\r\nz")
        with source.sync() as stream:
            copy = {change.key: (change.value, change.flags) for change in read_until(stream, "synced") if change.kind == "set"}
            assert copy == {b"key%d" % n: (b"%02d" % n, 3) for n in range(100)} | {b"big": (big, 0), b"a b": (b"z", 0)}
            read_until(stream, "alive")
            client.set(b"key1", b"new")
            assert next(stream)[:3] == ("set", b"key1", b"new")
            client.ask(b"delete key2")
            assert next(stream)[:2] == ("delete", b"key2")
            client.ask(b"flush_all")
            assert next(stream).kind == "flush"


def test_subscribe(feed: tuple[RemoteFeed, Daemon]) -> None:
    source, daemon = feed
    with Client(daemon) as client, source.subscribe(["a*", b"key"]) as stream, source.subscribe() as everything:
        for key in (b"b", b"a1", b"key", b"key1", b"a2"):
            client.set(key, b"value")
        assert {next(stream).key for _ in range(3)} == {b"a1", b"key", b"a2"}
        assert {next(everything).key for _ in range(5)} == {b"b", b"a1", b"key", b"key1", b"a2"}


def test_close_ends_a_read_of_another_thread(feed: tuple[RemoteFeed, Daemon]) -> None:
    stream = feed[0].subscribe(["key"])
    heard: list[Change] = []
    thread = threading.Thread(target=lambda: heard.extend(stream))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    stream.close()
    thread.join(10)
    assert not thread.is_alive()
    assert heard == []
    assert stream.read(1) == []


def test_close_leaves_the_descriptor_to_who_is_sending(feed: tuple[RemoteFeed, Daemon], monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be another file's by the time."""
    stream = feed[0].subscribe(["key"])
    inner = stream._stream

    class Closing:
        def send(self, request: bytes) -> None:
            stream.close()
            assert inner.fileno() != -1
            inner.send(request)

        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

    monkeypatch.setattr(stream, "_stream", Closing())
    with pytest.raises(RemoteError, match="connection lost"):
        stream.send(b"sync\r\n")
    assert inner.fileno() == -1
    assert stream.closed


def test_a_daemon_that_ends() -> None:
    with Daemon("64", "100") as daemon, RemoteFeed(f"{daemon.host}:{daemon.port}").sync() as stream:
        read_until(stream, "alive")
        daemon.stop()
        with pytest.raises(RemoteError, match="connection lost"):
            read_until(stream, "nothing")


def test_a_daemon_without_a_feed(daemon_with: Callable[..., Daemon]) -> None:
    daemon = daemon_with("-m", "64", "--feed", "0")
    source = RemoteFeed(daemon.unix_path)
    for call in (source.sync, lambda: source.subscribe(["a"])):
        with pytest.raises(FeedOffError, match="--feed SIZE"):
            call()
