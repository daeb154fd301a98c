"""TLS for tests: certificates made on the fly, and a client whose ciphertext can be cut, whose side can be closed alone."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from support.reading import Reading
from support.servers import Daemon

RECEIVE_BYTES = 65536


@dataclass(frozen=True)
class Certificate:
    """A certificate that signs itself, so it is its own authority, and its key."""

    cert: Path
    key: Path

    @property
    def options(self) -> tuple[str, ...]:
        """The daemon's, for serving with it."""
        return "-Z", "-o", f"ssl_chain_cert={self.cert},ssl_key={self.key}"

    def client_context(self, version: ssl.TLSVersion | None = None, identity: Certificate | None = None) -> ssl.SSLContext:
        """A client's that trusts this certificate alone; with that one version and a certificate of its own, if given."""
        context = ssl.create_default_context(cafile=str(self.cert))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if identity is not None:
            context.load_cert_chain(identity.cert, identity.key)
        return context


def make_certificate(directory: Path, name: str) -> Certificate:
    """For localhost, by the `openssl` command."""
    made = Certificate(directory / f"{name}.crt", directory / f"{name}.key")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", *kind, *subject, "-keyout", str(made.key), "-out", str(made.cert)]
    subprocess.run(command, check=True, capture_output=True)
    return made


class TlsSocket:
    """The part of a socket's methods that tests use, over TLS. ``cut``: most ciphertext bytes that are sent at a time; 0: all."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, cut: int = 0, session: ssl.SSLSession | None = None) -> None:
        self.family = sock.family
        self.plain = sock
        self._cut = cut
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost", session=session)
        self._shut = False
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.send_cipher()
                if not self._receive():
                    raise ConnectionError("closed amid the handshake") from None
        self.send_cipher()

    def __enter__(self) -> TlsSocket:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def encrypt(self, data: bytes) -> bytes:
        """Ciphertext, not sent, with what waited to be sent; of nothing: that alone."""
        if data:
            self.tls.write(data)
        return self._outgoing.read()

    def send_cipher(self, cipher: bytes = b"") -> None:
        """Send that, or what waits to be sent, in pieces."""
        cipher = cipher or self._outgoing.read()
        step = self._cut or len(cipher) or 1
        for at in range(0, len(cipher), step):
            self.plain.sendall(cipher[at : at + step])
            if self._cut:
                os.sched_yield()

    def _receive(self) -> bool:
        """False: the server closed."""
        cipher = self.plain.recv(RECEIVE_BYTES)
        self._incoming.write(cipher)
        return bool(cipher)

    def sendall(self, data: bytes) -> None:
        for at in range(0, len(data), RECEIVE_BYTES):
            self.send_cipher(self.encrypt(data[at : at + RECEIVE_BYTES]))

    def recv(self, size: int) -> bytes:
        """Raises ConnectionError when the server's end comes without TLS's farewell."""
        while True:
            try:
                return self.tls.read(size)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                if not self._receive():
                    raise ConnectionError("the connection ended without a farewell of TLS") from None

    def shutdown(self, how: int) -> None:
        """Say that no more comes, and close the sending side; the other one goes on."""
        with contextlib.suppress(ssl.SSLError):  # it waits for the server's farewell
            self.tls.unwrap()
        self.send_cipher()
        self.plain.shutdown(how)

    def fileno(self) -> int:
        return self.plain.fileno()

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(Reading(self))

    def setsockopt(self, *option: int | bytes) -> None:
        self.plain.setsockopt(*option)  # type: ignore[arg-type, call-overload]

    def close(self) -> None:
        self.plain.close()


def connect(daemon: Daemon, context: ssl.SSLContext, **options: object) -> TlsSocket:
    return TlsSocket(daemon.connect(), context, **options)  # type: ignore[arg-type]


def serves(daemon: Daemon, context: ssl.SSLContext) -> bool:
    """Whether a client of that context gets an answer; with TLS 1.3 a refusal comes only after the client's handshake."""
    try:
        with connect(daemon, context) as sock:
            sock.sendall(b"version\r\n")
            return sock.recv(100).startswith(b"VERSION")
    except (ssl.SSLError, ConnectionError):
        return False
