"""Certificates of the daemon: read at the start or refused, and read again on request."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.client import Client
from support.servers import Daemon
from support.tls import Certificate, TlsSocket, connect, serves
from support.waiting import until


def copy(source: Certificate, target: Certificate) -> None:
    target.cert.write_bytes(source.cert.read_bytes())
    target.key.write_bytes(source.key.read_bytes())


def by_signal(daemon: Daemon, sock: TlsSocket) -> None:
    daemon.process.send_signal(signal.SIGHUP)


def by_command(daemon: Daemon, sock: TlsSocket) -> None:
    sock.sendall(b"refresh_certs\r\n")
    assert sock.recv(100) == b"OK\r\n"


def test_no_certificates_to_read_again() -> None:
    with Daemon() as daemon, Client(daemon) as client:
        assert client.ask(b"refresh_certs") == b"Error TLS not enabled"


@pytest.mark.parametrize("ask", [by_signal, by_command])
def test_certificates_are_read_again(
    certificate: Certificate, stranger: Certificate, tmp_path: Path, ask: Callable[[Daemon, TlsSocket], None]
) -> None:
    used = Certificate(tmp_path / "used.crt", tmp_path / "used.key")
    copy(certificate, used)
    old, new = certificate.client_context(), stranger.client_context()
    with Daemon(*used.options, workers=2) as daemon, connect(daemon, old) as connected:
        copy(stranger, used)
        assert serves(daemon, old)
        ask(daemon, connected)
        until(lambda: all(serves(daemon, new) for _ in range(4)), "the new certificate")
        assert not serves(daemon, old)
        connected.sendall(b"get a\r\n")
        assert connected.recv(100) == b"END\r\n"
        used.key.write_bytes(certificate.key.read_bytes())  # not the certificate's
        ask(daemon, connected)
        until(lambda: any("stays as it was" in line for line in daemon.lines), "a line in the log")
        assert serves(daemon, new)
        before = daemon.workers
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(daemon.workers) == 2 and daemon.workers != before, "another worker")
        assert all(serves(daemon, new) for _ in range(4))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_key_that_only_root_may_read(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """With -u the files are read before and, if they can be no more, the daemon goes on with what it has."""
    with tempfile.TemporaryDirectory(prefix="ms") as name:
        place = Path(name)
        place.chmod(0o777)
        monkeypatch.setenv("MEMCACHE_SHM_DIR", f"{place}/tables")
        used = Certificate(place / "crt", place / "key")
        copy(certificate, used)
        used.key.chmod(0o600)
        with Daemon("-u", "nobody", "-s", f"{place}/s", *used.options) as daemon:
            assert serves(daemon, certificate.client_context())
            daemon.process.send_signal(signal.SIGHUP)
            until(lambda: any("Permission denied" in line and "stays as it was" in line for line in daemon.lines), "a line in the log")
            assert serves(daemon, certificate.client_context())


def _encrypted_key(directory: Path) -> str:
    key = directory / "encrypted.key"
    kind = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-aes256", "-pass", "pass:x"]
    subprocess.run(["openssl", "genpkey", *kind, "-out", key], check=True, capture_output=True)
    return str(key)


@pytest.mark.parametrize(
    ("options", "complaint"),
    (
        ("ssl_chain_cert={missing}", "No such file"),
        ("ssl_chain_cert={cert}", "no part PRIVATE KEY"),
        ("ssl_chain_cert={key}", "no part CERTIFICATE"),
        ("ssl_chain_cert={cert},ssl_key={missing}", "No such file"),
        ("ssl_chain_cert={cert},ssl_key={cert}", "no part PRIVATE KEY"),
        ("ssl_chain_cert={cert},ssl_key={other}", "not that of the certificate"),
        ("ssl_chain_cert={cert},ssl_key={encrypted}", "passphrase"),
        ("ssl_chain_cert={broken},ssl_key={key}", "cannot use"),
        ("ssl_chain_cert={cert},ssl_key={key},ssl_ca_cert={missing}", "No such file"),
        ("ssl_chain_cert={cert},ssl_key={key},ssl_ca_cert={broken}", "cannot use"),
        ("ssl_chain_cert={cert},ssl_key={key},ssl_verify_mode=2", "ssl_ca_cert"),
        ("ssl_chain_cert={cert},ssl_key={key},ssl_ciphers=NONSENSE", "selects none"),
    ),
)
def test_bad_files_refuse_the_start(
    options: str, complaint: str, certificate: Certificate, stranger: Certificate, tmp_path: Path, no_leaks: None
) -> None:
    broken = tmp_path / "broken.crt"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    names = {"missing": tmp_path / "none", "cert": certificate.cert, "key": certificate.key, "other": stranger.key, "broken": broken}
    encrypted = _encrypted_key(tmp_path) if "encrypted" in options else ""
    daemon = Daemon("-Z", "-o", options.format(**names, encrypted=encrypted), wait=False)
    assert daemon.wait() == 1
    assert len(daemon.lines) == 1
    assert complaint in daemon.lines[0]
