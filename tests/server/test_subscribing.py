"""subscribe: a connection hears of changes of the keys it names, by whatever door they are made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from support.client import Client
from support.feeding import Hearer, Told, subscribe
from support.servers import Daemon
from support.tls import Certificate, TlsSocket
from support.waiting import until


@pytest.fixture(scope="module", params=[1, 3], ids=["one worker", "three workers"])
def shared(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon whose workers must all be alive at the end."""
    with Daemon("-m", "64", "-o", "debugtime", workers=request.param) as daemon, daemon.unharmed():
        yield daemon


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    """The same, empty; nobody may subscribe any more after a test."""
    shared.flush()
    yield shared
    with Client(shared) as client:
        until(lambda: _figures(client)["shm_subscribers"] == 0, "the last subscriber to be gone")
        assert _figures(client)["shm_patterns"] == 0


def _figures(client: Client) -> dict[str, int]:
    return {name: int(value) for name, value in client.stats(b"shm").items() if value.isdigit()}


@pytest.mark.parametrize("door", ["tcp", "unix"])
def test_each_kind_of_change(daemon: Daemon, door: str) -> None:
    with subscribe(daemon, b"k", door=door) as hearer, Client(daemon) as client:
        assert client.ask(b"set k 7 0 3\r\nabc") == b"STORED"
        _, cas = client.gets(b"k")
        assert hearer.told() == Told("set", b"k", b"abc", 7, 0, int(cas))
        soon = int(time.time()) + 1000
        assert client.ask(b"touch k 1000") == b"TOUCHED"
        told = hearer.told()
        assert told._replace(exptime=0) == Told("touch", b"k", b"", 7, 0, int(cas))
        assert 0 <= told.exptime - soon <= 2
        assert client.ask(b"append k 0 0 2\r\nde") == b"STORED"
        assert hearer.told()[:4] == ("set", b"k", b"abcde", 7)
        assert client.ask(b"ms k 2 F9 T0\r\n10") == b"HD"
        assert hearer.told()[:5] == ("set", b"k", b"10", 9, 0)
        assert client.ask(b"incr k 5") == b"15"
        assert hearer.next() == ("set", b"k", b"15")
        _, cas = client.gets(b"k")
        assert client.ask(b"delete k") == b"DELETED"
        assert hearer.told() == Told("delete", b"k", cas=int(cas))
        assert client.ask(b"SET k 1\r\nx") == b"OK"
        assert hearer.next() == ("set", b"k", b"x")
        assert client.ask(b"flush_all") == b"OK"
        assert hearer.told() == Told("flush", b"*")
        assert client.set(b"k", b"last") == b"STORED"
        assert hearer.next() == ("set", b"k", b"last")


def test_expiry_is_told_when_it_is_swept(daemon: Daemon) -> None:
    """Nobody asks for the item: the daemon's own sweep finds it."""
    with subscribe(daemon, b"mortal*") as hearer, Client(daemon) as client:
        assert client.ask(b"set mortal1 0 1 1\r\nx") == b"STORED"
        assert hearer.next() == ("set", b"mortal1", b"x")
        assert hearer.next() == ("expire", b"mortal1", b"")


def test_an_item_that_expired_before_it_is_told_is_told_to_have_expired() -> None:
    """The sweep stands still, so nobody else would tell it: stored or touched, and expired before the worker looks at its feed."""
    with Daemon("-m", "16", "-o", "debugtime") as daemon, subscribe(daemon, b"k*") as hearer, Client(daemon) as client:
        assert client.set(b"k2", b"x") == b"STORED"
        assert hearer.next() == ("set", b"k2", b"x")
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            for request, key in ((b"set k1 0 10 1\r\nx", b"k1"), (b"touch k2 10", b"k2")):
                client.send(request + b"\r\ndebugtime 100\r\n")
                assert hearer.told()[:5] == ("expire", key, b"", 0, 0)
            client.send(b"set k3 0 0 1\r\nx\r\ndelete k3\r\n")
            assert hearer.next() == ("delete", b"k3", b"")
        finally:
            os.kill(daemon.pid, signal.SIGCONT)


def test_only_what_was_asked_for(daemon: Daemon) -> None:
    with subscribe(daemon, b"a*", b"b") as hearer, Client(daemon) as client:
        for key in (b"A", b"b1", b"ba", b"b", b"c", b"a", b"abc"):
            assert client.set(key, b"1") == b"STORED"
        assert sorted(hearer.told().key for _ in range(3)) == [b"a", b"abc", b"b"]
        assert client.set(b"b", b"end") == b"STORED"
        assert hearer.next() == ("set", b"b", b"end")


def test_patterns_that_overlap_tell_once(daemon: Daemon) -> None:
    with subscribe(daemon, b"*", b"ab*", b"a*", b"abc", b"abc*", b"abcd*") as hearer, Client(daemon) as client:
        for value in (b"1", b"2", b"3"):
            assert client.set(b"abc", value) == b"STORED"
            assert hearer.next() == ("set", b"abc", value)
        assert hearer.ask(b"unsubscribe ab* abc") == b"OK 4"
        assert client.set(b"abc", b"4") == b"STORED"
        assert hearer.next() == ("set", b"abc", b"4")
        assert client.ask(b"delete abc") == b"DELETED"
        assert hearer.next()[:2] == ("delete", b"abc")


def test_unsubscribed_is_not_told(daemon: Daemon) -> None:
    with subscribe(daemon, b"a", b"b*") as hearer, Client(daemon) as client:
        assert client.set(b"a", b"1") == b"STORED"
        assert hearer.next() == ("set", b"a", b"1")
        assert hearer.ask(b"unsubscribe a") == b"OK 1"
        assert client.set(b"a", b"2") == b"STORED"
        assert client.set(b"b", b"3") == b"STORED"
        assert hearer.next() == ("set", b"b", b"3")
        assert hearer.ask(b"unsubscribe") == b"OK 0"
        assert client.set(b"b", b"4") == b"STORED"
        assert hearer.ask(b"version").startswith(b"VERSION")
        until(lambda: _figures(client)["shm_subscribers"] == 0, "no subscriber")


def test_unsubscribed_while_an_event_is_being_told_is_not_told() -> None:
    """An event with many subscribers and a large value is told bit by bit; who has subscribed first comes last."""
    with (
        Daemon("-m", "64", "-o", "read_buf_mem_limit=256") as daemon,
        subscribe(daemon, b"large", b"other") as leaving,
        ExitStack() as stack,
    ):
        staying = [stack.enter_context(subscribe(daemon, b"large", door="unix")) for _ in range(60)]
        client = stack.enter_context(Client(daemon))
        value = b"v" * 1_000_000
        assert client.set(b"large", value) == b"STORED"
        assert staying[-1].line().startswith(b"NOTIFY set large ")
        assert leaving.ask(b"unsubscribe large") == b"OK 1"
        for hearer in staying[:-1]:
            assert hearer.next() == ("set", b"large", value)
        assert client.set(b"other", b"x") == b"STORED"
        assert leaving.next() == ("set", b"other", b"x")


def test_a_subscribe_line_tells_nothing_before_its_end() -> None:
    """A line that is read in pieces, and what changes in between: its reply comes first, and one that is refused has told nothing."""
    many = b" ".join(b"many%0240d" % number for number in range(300))
    with (
        Daemon("-m", "16") as daemon,
        Client(daemon) as client,
        subscribe(daemon, b"new*") as witness,
        subscribe(daemon, b"old*") as hearer,
    ):
        for end, reply in ((b"q" * 300, b"CLIENT_ERROR pattern too long: a key or prefix has at most 250 bytes"), (b"last", b"OK 303")):
            hearer.send(b"subscribe new* %b " % many)
            until(lambda: _figures(client)["shm_patterns"] > 300, "the line's patterns to be there")
            client.set(b"old1", b"x")
            client.set(b"new1", b"x")
            assert witness.next() == ("set", b"new1", b"x")
            assert hearer.ask(end) == reply
            assert hearer.next() == ("set", b"old1", b"x")
            assert hearer.ask(b"mn") == b"MN"
            until(lambda end=end: _figures(client)["shm_patterns"] == (304 if end == b"last" else 2), "what counts of the line")
        client.set(b"new2", b"x")
        assert hearer.next() == ("set", b"new2", b"x")


def test_an_unsubscribe_line_with_a_bad_pattern(daemon: Daemon) -> None:
    """What stands before that is gone; who has no pattern any more is no subscriber."""
    with subscribe(daemon, b"k", b"l") as hearer, Client(daemon) as client:
        for left, key in ((1, b"k"), (0, b"l")):
            assert hearer.ask(b"unsubscribe %b %b" % (key, b"q" * 251)).startswith(b"CLIENT_ERROR pattern too long")
            until(lambda left=left: _figures(client)["shm_patterns"] == left, "the pattern to be gone")
            assert _figures(client)["shm_subscribers"] == left
        assert client.ask(b"flush_all") == b"OK"
        assert hearer.ask(b"mn") == b"MN"


def test_changes_by_an_attached_process(daemon: Daemon) -> None:
    """What it stored first and touched may be passed over, since it was gone soon after."""
    program = (
        "import sys, memcache_shm\n"
        "with memcache_shm.attach(sys.argv[1]) as cache:\n"
        "    cache.set('near', b'1'); cache.touch('near', 500); cache.delete('near'); cache.set('near', b'2')\n"
    )
    with subscribe(daemon, b"near") as hearer:
        subprocess.run([sys.executable, "-c", program, daemon.name], check=True, timeout=30)
        kinds = [told.kind for told in hearer.until_told(b"near", b"2")]
        assert kinds[-2:] == ["delete", "set"]
        subprocess.run([sys.executable, "-c", program.replace("set('near', b'1')", "flush_all()"), daemon.name], check=True, timeout=30)
        assert hearer.told() == Told("flush", b"*")


def test_one_flush_is_told_once(daemon: Daemon) -> None:
    """Whichever shards note it, and whenever."""
    with subscribe(daemon, b"k*") as hearer, Client(daemon) as client:
        for _ in range(3):
            assert client.ask(b"flush_all") == b"OK"
            for number in range(100):
                client.set(b"k%d" % number, b"x")
            seen = [hearer.told() for _ in range(101)]
            assert [told.kind for told in seen].count("flush") == 1
            assert len({told.key for told in seen}) == 101


def test_evictions(daemon_with: Callable[..., Daemon]) -> None:
    daemon = daemon_with("10", "100", workers=2)
    with subscribe(daemon, b"e*") as hearer, Client(daemon) as client:
        for number in range(30):
            assert client.set(b"e%d" % number, b"x") == b"STORED"
        seen = [hearer.told() for _ in range(20)]
        while sum(told.kind == "evict" for told in seen) < 20:
            seen.append(hearer.told())
        gone = {told.key for told in seen if told.kind == "evict"}
        assert len(gone) == 20
        assert [number for number in range(30) if client.get(b"e%d" % number) is None] == sorted(int(key[1:]) for key in gone)


def test_binary_keys(daemon: Daemon) -> None:
    with subscribe(daemon, b"\xff*", b"\x01*") as hearer, Client(daemon) as client:
        assert client.ask(b"ms AQ0KIP8= 3 b\r\n\r\n\0") == b"HD"  # 01 0d 0a 20 ff
        assert hearer.next() == ("set", b"\x01\r\n \xff", b"\r\n\0")
        assert client.ask(b"md AQ0KIP8= b") == b"HD"
        assert hearer.next() == ("delete", b"\x01\r\n \xff", b"")
        assert client.set(b"\xff\x80", b"high bytes are text") == b"STORED"
        assert hearer.line().startswith(b"NOTIFY set \xff\x80 0 0 19 ")


def test_large_values(daemon: Daemon) -> None:
    """Larger than what may wait for a subscriber: a single message always fits."""
    values = [bytes([65 + number]) * (1 << 20) for number in range(4)]
    with subscribe(daemon, b"large") as hearer, Client(daemon, timeout_s=30) as client:
        for value in values:
            assert client.set(b"large", value) == b"STORED"
            assert hearer.next() == ("set", b"large", value)


def test_commands_go_on_working_between_messages(daemon: Daemon) -> None:
    """Pipelined requests are answered in order, and no message is within a reply."""
    with subscribe(daemon, b"mine*", b"other*") as hearer, Client(daemon) as client:
        assert client.set(b"big", b"v" * 100_000) == b"STORED"
        hearer.sock.settimeout(30)
        expected = []
        for number in range(50):
            hearer.send(b"set mine%d 0 0 1\r\nx\r\nget big big none\r\nincr none 1\r\n" % number)
            client.send(b"set other%d 0 0 1 noreply\r\ny\r\n" % number)
            expected += [b"STORED", b"VALUE big 0 100000", b"VALUE big 0 100000", b"END", b"NOT_FOUND"]
        replies, heard = [], set()
        while len(replies) < len(expected) or len(heard) < 100:
            line = hearer.line()
            if line.startswith(b"NOTIFY set "):
                assert replies[-1:] != [b"VALUE big 0 100000"], "a message within a reply"
                heard.add(line.split()[2])
                assert hearer.read(3) in (b"x\r\n", b"y\r\n")
                continue
            replies.append(line)
            if line.startswith(b"VALUE"):
                assert hearer.read(100_002) == b"v" * 100_000 + b"\r\n"
        assert replies == expected
        assert heard == {b"%b%d" % (name, number) for name in (b"mine", b"other") for number in range(50)}


def test_message_waits_for_the_end_of_a_get_line(daemon: Daemon) -> None:
    with subscribe(daemon, b"k") as hearer, Client(daemon) as client:
        client.set(b"k", b"1")
        assert hearer.next() == ("set", b"k", b"1")
        hearer.send(b"get " + b"k " * 2000)  # long enough to be answered piece by piece
        assert hearer.line() == b"VALUE k 0 1"
        before = _figures(client)["shm_notified"]
        client.set(b"k", b"2")
        until(lambda: _figures(client)["shm_notified"] > before, "the message to wait")
        hearer.send(b"k\r\n")
        lines = []
        while b"END" not in lines:
            lines.append(hearer.line())
        assert not [line for line in lines if line.startswith(b"NOTIFY")]
        assert hearer.next() == ("set", b"k", b"2")


def test_last_value_always_comes(daemon: Daemon) -> None:
    """Many changes of few keys: some may be passed over, the last of each is told, and none goes back."""
    with subscribe(daemon, b"hot*") as hearer, Client(daemon) as client:
        for number in range(900):
            client.send(b"set hot%d 0 0 4 noreply\r\n%4d\r\n" % (number % 3, number))
        assert client.ask(b"delete hot0") == b"DELETED"
        last: dict[bytes, int] = {}
        waiting = {("delete", b"hot0", b""), ("set", b"hot1", b" 898"), ("set", b"hot2", b" 899")}
        while waiting:
            kind, key, value = hearer.next()
            waiting.discard((kind, key, value))
            assert kind == "set" or (kind, key) == ("delete", b"hot0")
            if kind == "set":
                assert int(value) > last.get(key, -1)
                last[key] = int(value)


def test_what_is_told_is_no_use_of_an_item(daemon: Daemon) -> None:
    with subscribe(daemon, b"k") as hearer, Client(daemon) as client:
        before = client.stats()
        for value in (b"1", b"2", b"3"):
            client.set(b"k", value)
            assert hearer.next() == ("set", b"k", value)
        after = client.stats()
        assert [after[name] for name in ("get_hits", "get_misses")] == [before[name] for name in ("get_hits", "get_misses")]
        assert client.ask(b"mg k h") == b"HD h0"


def test_figures(daemon: Daemon) -> None:
    with Client(daemon) as client:
        before = _figures(client)
        with subscribe(daemon, b"a*", b"b") as first, subscribe(daemon, b"a1") as second:
            client.set(b"a1", b"x")
            for hearer in (first, second):
                assert hearer.next() == ("set", b"a1", b"x")
            now = _figures(client)
            assert (now["shm_subscribers"], now["shm_patterns"]) == (2, 3)
            assert now["shm_notified"] - before["shm_notified"] == 2
            assert now["shm_lost"] == before["shm_lost"]
            states = [value for name, value in client.stats(b"conns").items() if name.endswith(":state")]
            assert states.count("conn_read") == 3


def test_a_log_takes_no_patterns_along(daemon: Daemon) -> None:
    with subscribe(daemon, b"*") as watching, Client(daemon) as client:
        assert watching.ask(b"watch mutations") == b"OK"
        until(lambda: _figures(client)["shm_subscribers"] == 0, "no subscriber")
        client.set(b"k", b"v")
        assert b"type=item_store key=k " in watching.raw_line()


def test_patterns_of_a_guest(tmp_path_factory: pytest.TempPathFactory) -> None:
    users = tmp_path_factory.mktemp("users") / "users"
    users.write_text("me:secret\n")
    with Daemon("-m", "16", "-Y", str(users)) as daemon, Hearer(daemon) as hearer, Client(daemon) as client:
        assert hearer.ask(b"subscribe *") == b"CLIENT_ERROR unauthenticated"
        for one in (hearer, client):
            assert one.set(b"auth", b"me secret") == b"STORED"
        assert hearer.ask(b"subscribe *") == b"OK 1"
        client.set(b"k", b"v")
        assert hearer.next() == ("set", b"k", b"v")


def test_tls(certificate: Certificate) -> None:
    """Messages by themselves and between replies, large ones too."""
    context = certificate.client_context()
    with (
        Daemon("-m", "64", *certificate.options, workers=2) as daemon,
        TlsSocket(daemon.connect(), context) as sock,
        TlsSocket(daemon.connect(), context) as other,
    ):
        hearer, client = _by(sock), _by(other)
        assert hearer.ask(b"subscribe k*") == b"OK 1"
        for size in (1, 1000, 300_000):
            assert client.set(b"k%d" % size, b"v" * size) == b"STORED"
            assert hearer.next() == ("set", b"k%d" % size, b"v" * size)
        hearer.send(b"get k1 k1000\r\nmn\r\n")
        lines = [hearer.line() for _ in range(6)]
        assert (lines[0], lines[-2:]) == (b"VALUE k1 0 1", [b"END", b"MN"])
        assert client.ask(b"delete k1") == b"DELETED"
        assert hearer.next() == ("delete", b"k1", b"")


def _by(sock: TlsSocket) -> Hearer:
    """A hearer on a connection that is there."""
    hearer = Hearer.__new__(Hearer)
    hearer.sock = sock  # type: ignore[assignment]
    hearer._file = sock.makefile("rb")
    return hearer


def test_a_subscriber_is_not_idle() -> None:
    with Daemon("-m", "16", "-o", "idle_timeout=1") as daemon, subscribe(daemon, b"k") as hearer, Client(daemon) as client:
        with Client(daemon) as idle:
            until(lambda: client.stats()["idle_kicks"] == "1", "an idle client's end", every_s=0.2)
            assert idle.is_closed()
        with Client(daemon) as idle:
            until(lambda: client.stats()["idle_kicks"] == "2", "a second one's end", every_s=0.2)
        client.set(b"k", b"v")
        assert hearer.next() == ("set", b"k", b"v")
