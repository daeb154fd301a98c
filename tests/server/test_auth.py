"""ASCII authentication: who has not logged in can do nothing else, and not that for long."""

from __future__ import annotations

import hmac
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.client import Client
from support.servers import Daemon, Memcached
from support.tls import Certificate, TlsSocket
from support.waiting import until

from memcache_shm.server.users import Users

REFUSALS_MAX = 8  # of server/guests.pxd
LOGIN_MAX = 512  # of protocol/auth.pxd
FAILURE = b"CLIENT_ERROR authentication failure"
UNKNOWN = b"CLIENT_ERROR unauthenticated"


def login(text: bytes, key: bytes = b"auth") -> bytes:
    return b"set %b 0 0 %d\r\n%b\r\n" % (key, len(text), text)


def read_all(sock: socket.socket) -> bytes:
    """Until the server closes, politely or with a reset."""
    got = b""
    try:
        while piece := sock.recv(65536):
            got += piece
    except ConnectionResetError:
        pass
    return got


@pytest.fixture(scope="module")
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("auth") / "users"
    path.write_bytes(b"user:pass\nother:with:colons: and blanks\n" + b"".join(b"u%d:p%d\n" % (n, n) for n in range(100)) + b"last:one")
    return path


@pytest.fixture(scope="module")
def daemon(users_file: Path) -> Iterator[Daemon]:
    with Daemon("-Y", str(users_file), workers=2) as server, server.unharmed():
        yield server


@pytest.mark.parametrize("door", ("tcp", "unix"))
@pytest.mark.parametrize("who", (b"user pass", b"other with:colons: and blanks", b"u99 p99", b"last one"))
def test_who_logs_in_is_served(daemon: Daemon, door: str, who: bytes) -> None:
    with Client(daemon, door) as client:
        assert client.ask(b"get a") == UNKNOWN
        client.send(login(who) + b"set a 0 0 1\r\nx\r\nget a\r\nSET b 3\nabc\n")
        assert [client.line() for _ in range(6)] == [b"STORED", b"STORED", b"VALUE a 0 1", b"x", b"END", b"OK"]


# What a guest sends, and what it reads; memcached 1.6.18 says the same.
SAME = {
    b"get a\r\n": UNKNOWN,
    b"version\r\n": UNKNOWN,
    b"quit\r\n": UNKNOWN,
    b"stats\r\n": UNKNOWN,
    b"mn\r\n": UNKNOWN,
    b"flush_all\r\n": UNKNOWN,
    b"shutdown\r\n": UNKNOWN,
    b"SET a 3\r\n": UNKNOWN,
    b"GET a\r\n": UNKNOWN,
    b"\r\n": UNKNOWN,
    b"add k 0 0 9\r\n": UNKNOWN,
    b"set k 0 0\r\n": UNKNOWN,
    b"set k 0 0 x\r\n": UNKNOWN,
    b"set k 0 0 -1\r\n": UNKNOWN,
    login(b"user pasx"): FAILURE,
    login(b"user pass2"): FAILURE,
    login(b"user pas"): FAILURE,
    login(b"nobody pass"): FAILURE,
    login(b"user"): b"CLIENT_ERROR bad authentication token format",
    login(b""): b"CLIENT_ERROR bad authentication token format",
    b"set k 0 0 9\r\nuser passxx": b"CLIENT_ERROR bad command line termination",
    login(b"user pass"): b"STORED",
    login(b"user pass", key=b"k" * 300): b"STORED",
    b"set k x y 9 noreply\r\nuser pass\r\n": b"STORED",
    b" set k 0 0 9\nuser pass\r\n": b"STORED",
}


@pytest.mark.parametrize("request_", SAME)
def test_replies_to_a_guest(daemon: Daemon, request_: bytes) -> None:
    with Client(daemon) as client:
        client.send(request_)
        assert client.line() == SAME[request_]
        assert client.ask(b"get nothing") == (b"END" if SAME[request_] == b"STORED" else UNKNOWN)


@pytest.mark.parametrize("request_", SAME)
def test_memcached_says_the_same(request_: bytes, users_file: Path, memcached_with: Callable[..., Memcached]) -> None:
    with Client(memcached_with("-Y", str(users_file))) as client:
        client.send(request_)
        assert client.line() == SAME[request_]


def test_byte_by_byte(daemon: Daemon) -> None:
    with Client(daemon) as client:
        for byte in login(b"user wrong") + login(b"user pass") + b"get k\r\n":
            client.send(bytes([byte]))
            os.sched_yield()
        assert [client.line() for _ in range(3)] == [FAILURE, b"STORED", b"END"]


def test_the_fake_set_stores_nothing(daemon: Daemon) -> None:
    with Client(daemon) as client:
        client.send(login(b"user pass", key=b"fake") + b"get fake\r\n")
        assert [client.line(), client.line()] == [b"STORED", b"END"]
        client.send(login(b"user pasx", key=b"fake") + b"get fake\r\n")  # a guest no longer: this is a set
        assert [client.line() for _ in range(4)] == [b"STORED", b"VALUE fake 0 9", b"user pasx", b"END"]


@pytest.mark.parametrize("wrong", (login(b"user guess"), b"get a\r\n", b"\n"))
def test_tries_are_bounded(daemon: Daemon, wrong: bytes) -> None:
    with daemon.connect() as sock:
        sock.sendall(wrong * (REFUSALS_MAX - 1) + login(b"user pass"))
        reply = b""
        while reply.count(b"\n") < REFUSALS_MAX:
            reply += sock.recv(4096)
        assert reply.endswith(b"STORED\r\n")
    with daemon.connect() as sock:
        sock.sendall(wrong * REFUSALS_MAX)
        assert read_all(sock).count(b"CLIENT_ERROR") == REFUSALS_MAX


def test_bytes_are_bounded(daemon: Daemon) -> None:
    with daemon.connect() as sock:
        sock.sendall((b"x" * 1500 + b"\r\n") * 3)
        assert read_all(sock) == (UNKNOWN + b"\r\n") * 3
    with daemon.connect() as sock:
        sock.sendall(b"x" * 2049)
        assert read_all(sock) == b""
    with daemon.connect() as sock:
        sock.sendall(b"\x80" + b"\0" * 23)  # memcached's binary protocol
        assert read_all(sock) == b""


def test_the_size_of_a_login_is_bounded(daemon: Daemon) -> None:
    with daemon.connect() as sock:
        sock.sendall(b"set k 0 0 %d\r\n" % (LOGIN_MAX + 1))
        assert read_all(sock) == b"CLIENT_ERROR auth token too long\r\n"
    with Client(daemon) as client:
        client.send(login(b"user " + b"p" * (LOGIN_MAX - 5)))
        assert client.line() == FAILURE


def test_logins_are_counted(users_file: Path) -> None:
    with Daemon("-Y", str(users_file)) as daemon, Client(daemon) as client:
        client.send(login(b"user wrong") + b"get a\r\n" + login(b"user pass"))
        assert [client.line() for _ in range(3)] == [FAILURE, UNKNOWN, b"STORED"]
        stats = client.stats()
        assert (stats["auth_cmds"], stats["auth_errors"]) == ("2", "1")


def test_over_tls(users_file: Path, certificate: Certificate) -> None:
    with Daemon("-Y", str(users_file), *certificate.options) as daemon:
        with TlsSocket(daemon.connect(), certificate.client_context()) as sock:
            sock.sendall(b"get a\r\n" + login(b"user pass") + b"get a\r\n")
            reply = UNKNOWN + b"\r\nSTORED\r\nEND\r\n"
            assert sock.makefile("rb").read(len(reply)) == reply
        with TlsSocket(daemon.connect(), certificate.client_context()) as sock:
            sock.sendall(b"get a\r\n" * REFUSALS_MAX)
            assert sock.makefile("rb").read() == (UNKNOWN + b"\r\n") * REFUSALS_MAX


def answers(daemon: Daemon, who: bytes) -> bytes:
    with Client(daemon) as client:
        client.send(login(who))
        return client.line()


def test_sighup_reads_the_file_again(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("old:pass\n")
    with Daemon("-Y", str(path), workers=2) as daemon, Client(daemon) as guest_no_more, Client(daemon) as guest:
        guest_no_more.send(login(b"old pass"))
        assert guest_no_more.line() == b"STORED"
        assert guest.ask(b"get a") == UNKNOWN
        path.write_text("new:pass\n")
        assert answers(daemon, b"new pass") == FAILURE
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: all(answers(daemon, b"new pass") == b"STORED" for _ in range(4)), "the new file to be read")
        assert answers(daemon, b"old pass") == FAILURE
        assert guest_no_more.ask(b"get a") == b"END"
        guest.send(login(b"new pass"))
        assert guest.line() == b"STORED"
        for bad in (b"", b"no colon\n", None):
            path.unlink() if bad is None else path.write_bytes(bad)
            daemon.lines.clear()
            daemon.process.send_signal(signal.SIGHUP)
            until(lambda: any("stay as they were" in line for line in daemon.lines), "a line in the log")
            assert answers(daemon, b"new pass") == b"STORED"
        before = daemon.workers
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(daemon.workers) == 2 and daemon.workers != before, "another worker")
        for _ in range(4):
            assert answers(daemon, b"new pass") == b"STORED"


@pytest.mark.parametrize(
    ("text", "complaint"),
    (
        (b"", "is empty"),
        (b"user\n", "line 1: has no colon"),
        (b"user:pass\n\n", "line 2: has no colon"),
        (b"# comment\nuser:pass\n", "line 1: has no colon"),
        (b":pass\n", "user or password is empty"),
        (b"user:\n", "user or password is empty"),
        (b"a b:pass\n", "space"),
        (b"user:" + b"p" * LOGIN_MAX, "longer than 512 bytes"),
        (None, "No such file or directory"),
    ),
)
def test_a_bad_file_refuses_the_start(text: bytes | None, complaint: str, tmp_path: Path, no_leaks: None) -> None:
    path = tmp_path / "users"
    if text is not None:
        path.write_bytes(text)
    daemon = Daemon("-Y", str(path), wait=False)
    assert daemon.wait() == 1
    assert len(daemon.lines) == 1
    assert "-Y" in daemon.lines[0]
    assert complaint in daemon.lines[0]
    assert "ppp" not in daemon.lines[0]


@pytest.mark.parametrize("who", (b"user pass", b"user nonsense", b"nobody at all", b""))
def test_all_users_are_compared_whoever_comes(who: bytes, users_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = Users(str(users_file))
    compare = hmac.compare_digest
    compared: list[tuple[int, int]] = []

    def count(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", count)
    assert users.admits(who) == (who == b"user pass")
    assert compared == [(32, 32)] * 103
