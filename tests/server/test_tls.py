"""TLS: handshakes, certificates and their reload, and clients of all kinds that behave badly amid it."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.client import Client
from support.servers import Daemon
from support.tls import Certificate, TlsSocket, connect, make_certificate, serves
from support.waiting import until

VALUE = 1 << 20
HEAD = b"VALUE big 0 %d\r\n" % VALUE
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)

# In a network namespace of its own: a daemon whose sockets buffer little, and a client.
_LONG_CHAIN = """
import socket, ssl, subprocess, sys
python, chain, key = sys.argv[1:]
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with open("/proc/sys/net/ipv4/tcp_wmem", "w") as file:
    file.write("4096 4608 4608")
command = [python, "-m", "memcache_shm", "-p", "11211", "-t", "1", "--name", "chain", "-Z", "-o", f"ssl_chain_cert={chain},ssl_key={key}"]
with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
    try:
        assert "serving" in daemon.stderr.readline()
        with socket.create_connection(("127.0.0.1", 11211), timeout=5) as plain:
            with ssl.create_default_context(cafile=chain).wrap_socket(plain, server_hostname="localhost") as client:
                client.sendall(b"mn\\r\\n")
                print(client.recv(100))
    finally:
        daemon.terminate()
"""


@pytest.fixture(scope="module")
def shared(certificate: Certificate) -> Iterator[Daemon]:
    """A daemon whose workers must all be alive at the end."""
    with Daemon("-m", "64", "-I", "2m", *certificate.options, workers=2) as daemon, daemon.unharmed():
        yield daemon


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    """The same, whose connections must all be gone after a test."""
    yield shared
    until(lambda: figures(shared)["curr_connections"] == 1, "connections to be closed")


def figures(daemon: Daemon) -> dict[str, int]:
    """Through the UNIX socket, which speaks plain text."""
    with Client(daemon, "unix") as client:
        return {name: int(value) for name, value in client.stats().items() if value.isdigit()}


def read(sock: TlsSocket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size and (piece := sock.recv(size - len(got))):
        got += piece
    return bytes(got)


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_big_values_and_a_slow_reader(daemon: Daemon, certificate: Certificate, version: ssl.TLSVersion) -> None:
    value = random.Random(1).randbytes(VALUE)
    with connect(daemon, certificate.client_context(version)) as sock:
        assert sock.tls.version() == version.name.replace("_", ".")
        sock.sendall(b"set big 0 0 %d\r\n%b\r\n" % (VALUE, value))
        assert read(sock, 8) == b"STORED\r\n"
        for _ in range(20):
            sock.sendall(b"get big\r\n")
        with connect(daemon, certificate.client_context()) as other:  # while the first one takes nothing
            other.sendall(b"get nothing\r\n")
            assert read(other, 5) == b"END\r\n"
        for _ in range(20):
            assert read(sock, len(HEAD) + VALUE + 7) == HEAD + value + b"\r\nEND\r\n"


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_a_slow_reader_that_quits_gets_all(daemon: Daemon, certificate: Certificate, version: ssl.TLSVersion) -> None:
    """Replies, and the farewell behind them, wait until the client takes them."""
    with connect(daemon, certificate.client_context(version)) as sock:
        sock.sendall(b"set big 0 0 %d\r\n%b\r\n" % (VALUE, b"v" * VALUE))
        assert read(sock, 8) == b"STORED\r\n"
        sock.sendall(b"get big\r\n" * 10 + b"quit\r\n")
        assert read(sock, 20 * VALUE) == (HEAD + b"v" * VALUE + b"\r\nEND\r\n") * 10


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_ciphertext_byte_by_byte(daemon: Daemon, certificate: Certificate, version: ssl.TLSVersion) -> None:
    """From the first byte of the handshake to the farewell."""
    with connect(daemon, certificate.client_context(version), cut=1) as sock:
        sock.sendall(b"set k 0 0 5\r\nhello\r\nget k\r\n")
        reply = b"STORED\r\nVALUE k 0 5\r\nhello\r\nEND\r\n"
        assert read(sock, len(reply)) == reply
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def test_many_records_at_once(daemon: Daemon, certificate: Certificate) -> None:
    """More than a worker receives at a time, in records of all sizes; nothing of it may wait for the next bytes to come."""
    chance = random.Random(2)
    with connect(daemon, certificate.client_context()) as sock:
        requests = b"set a 0 0 30\r\n%b\r\nget a nothing\r\n" % (b"a" * 30) * 8000
        cipher = bytearray()
        while requests:
            size = chance.choice((1, 7, 500, 16384, 16384))
            cipher += sock.encrypt(requests[:size])
            requests = requests[size:]
        reply = b"STORED\r\nVALUE a 0 30\r\n%b\r\nEND\r\n" % (b"a" * 30)
        pid = os.fork()
        if pid == 0:  # one sends, the other reads
            try:
                sock.send_cipher(bytes(cipher))
            finally:
                os._exit(0)
        assert read(sock, len(reply) * 8000) == reply * 8000
        os.waitpid(pid, 0)


def test_a_farewell_right_behind_requests(daemon: Daemon, certificate: Certificate) -> None:
    """In one segment, and the socket stays open: the replies come, then the server's farewell."""
    with connect(daemon, certificate.client_context()) as sock:
        cipher = sock.encrypt(b"set k 0 0 1\r\nx\r\n") + sock.encrypt(b"get k\r\n")
        with pytest.raises(ssl.SSLWantReadError):
            sock.tls.unwrap()
        sock.send_cipher(cipher + sock.encrypt(b""))
        assert read(sock, 100) == b"STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n"


def test_half_closed_without_a_farewell(daemon: Daemon, certificate: Certificate) -> None:
    with connect(daemon, certificate.client_context()) as sock:
        sock.sendall(b"get nothing\r\nSET a 5\nab")
        sock.plain.shutdown(socket.SHUT_WR)
        assert read(sock, 100) == b"END\r\nERR TOO_SMALL\r\n"


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_quit_comes_with_a_farewell(daemon: Daemon, certificate: Certificate, version: ssl.TLSVersion) -> None:
    with connect(daemon, certificate.client_context(version)) as sock:
        sock.sendall(b"get nothing\r\nquit\r\n")
        assert read(sock, 100) == b"END\r\n"  # TlsSocket raises where the farewell is missing


@pytest.mark.parametrize("greeting", (b"get a\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 9000))
def test_no_handshake_is_closed_and_counted(daemon: Daemon, greeting: bytes) -> None:
    before = figures(daemon)["ssl_handshake_errors"]
    with daemon.connect() as sock:
        sock.sendall(greeting)
        sock.shutdown(socket.SHUT_WR)
        until(lambda: figures(daemon)["ssl_handshake_errors"] == before + 1, "the error to be counted")
        while piece := sock.recv(1000):
            assert piece[0] == 0x15, "nothing but an alert"


def test_garbage_amid_a_connection_ends_it(daemon: Daemon, certificate: Certificate) -> None:
    before = figures(daemon)["ssl_proto_errors"]
    with connect(daemon, certificate.client_context()) as sock:
        sock.sendall(b"get nothing\r\n")
        assert read(sock, 5) == b"END\r\n"
        sock.send_cipher(b"\x17\x03\x03\x00\x20" + b"garbage!" * 4)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            sock.recv(1)
    assert figures(daemon)["ssl_proto_errors"] == before + 1


def private_bytes(pid: int) -> int:
    """Memory that a process wrote and shares with nobody."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))


def test_unfinished_handshakes_hold_little(certificate: Certificate) -> None:
    """Clients that say nothing cost what plain ones do; those that stop amid their first record what OpenSSL needs for it."""
    count = 200
    with Daemon(*certificate.options) as daemon, contextlib.ExitStack() as clients:
        assert serves(daemon, certificate.client_context())
        (worker,) = daemon.workers
        for begin, most in ((b"", 4096), (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 65536)):
            before = private_bytes(worker)
            for _ in range(count):
                sock = clients.enter_context(daemon.connect())
                sock.sendall(begin)
            assert serves(daemon, certificate.client_context())
            assert private_bytes(worker) - before < count * most


def test_handshakes_broken_anywhere(daemon: Daemon, certificate: Certificate) -> None:
    """A client's hello cut at each place, and one with a bit turned; half of them leave with a reset."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certificate.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    chance = random.Random(3)
    for at in range(0, len(hello), 2):
        with Client(daemon) as client:
            client.send(hello[:at])
            if at % 4:
                client.reset()
        with Client(daemon) as client:
            client.send(hello[:at] + bytes([hello[at] ^ (1 << chance.randrange(8))]) + hello[at + 1 :])
    assert serves(daemon, certificate.client_context())


def test_a_handshake_that_the_socket_does_not_take_at_once(certificate: Certificate, tmp_path: Path) -> None:
    """A long chain of certificates where a socket buffers little, which a network namespace of its own can be told."""
    if subprocess.run(["unshare", "-n", "ip", "link"], capture_output=True).returncode != 0:
        pytest.skip("no right to make a network namespace")
    chain = tmp_path / "chain.crt"
    chain.write_bytes(certificate.cert.read_bytes() * 150)
    command = ["unshare", "-n", sys.executable, "-c", _LONG_CHAIN, sys.executable, str(chain), str(certificate.key)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "b'MN\\r\\n'\n", done.stderr


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_sessions_are_resumed_by_any_worker(certificate: Certificate, version: ssl.TLSVersion) -> None:
    with Daemon(*certificate.options, workers=3) as daemon:
        context = certificate.client_context(version)
        socks = [connect(daemon, context)]
        for _ in range(5):
            socks[-1].sendall(b"version\r\n")
            assert socks[-1].recv(100)  # and the ticket before it
            socks.append(connect(daemon, context, session=socks[-1].tls.session))
        assert [sock.tls.session_reused for sock in socks] == [False] + [True] * 5
        assert figures(daemon)["ssl_new_sessions"] == 1
        for sock in socks:
            sock.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_least_version(certificate: Certificate) -> None:
    with Daemon(*certificate.options, "-o", "ssl_min_version=tlsv1.3") as daemon:
        assert [serves(daemon, certificate.client_context(version)) for version in VERSIONS] == [False, True]
    old = certificate.client_context()
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with Daemon(*certificate.options, "-o", "ssl_ciphers=DEFAULT:@SECLEVEL=0") as daemon:
        assert not serves(daemon, old)
    with Daemon(*certificate.options, "-o", "ssl_ciphers=DEFAULT:@SECLEVEL=0,ssl_min_version=tlsv1.0") as daemon:
        assert serves(daemon, old)


@pytest.mark.parametrize("version", VERSIONS, ids=str)
@pytest.mark.parametrize(("mode", "served"), ((0, "nbs"), (1, "nb"), (2, "b"), (3, "nb")))
def test_client_certificates(
    mode: int, served: str, version: ssl.TLSVersion, certificate: Certificate, stranger: Certificate, tmp_path: Path
) -> None:
    """Clients with none, with the right one (b), and with a stranger's."""
    bob = make_certificate(tmp_path, "bob")
    contexts = {"n": None, "b": bob, "s": stranger}
    with Daemon(*certificate.options, "-o", f"ssl_ca_cert={bob.cert},ssl_verify_mode={mode}") as daemon:
        got = [name for name, identity in contexts.items() if serves(daemon, certificate.client_context(version, identity))]
        assert "".join(got) == served
        assert figures(daemon)["ssl_handshake_errors"] == 3 - len(served)


def test_listeners_with_and_without(certificate: Certificate) -> None:
    """`notls:` in front of an address, and the UNIX socket, speak plain text."""
    with Daemon("-l", "127.0.0.1,notls:127.0.0.2", *certificate.options) as daemon:
        assert serves(daemon, certificate.client_context())
        for family, address in ((socket.AF_INET, ("127.0.0.2", daemon.port)), (socket.AF_UNIX, daemon.unix_path)):
            with socket.socket(family) as sock:
                sock.settimeout(5)
                sock.connect(address)
                sock.sendall(b"get a\r\n")
                assert sock.recv(100) == b"END\r\n"


def test_figures_of_tls_only_with_it(daemon: Daemon) -> None:
    with Daemon() as plain:
        assert not [name for name in figures(plain) if "ssl" in name or "cert" in name]
    assert {"ssl_new_sessions", "ssl_handshake_errors", "ssl_proto_errors", "time_since_server_cert_refresh"} <= figures(daemon).keys()
