"""Listening sockets: TCP on several addresses, and a UNIX socket. Everything here happens before the fork."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

BACKLOG = 1024


class Endpoint(NamedTuple):
    """Where to listen: a host name or address, a port (0: a free one), and whether its connections speak TLS."""

    host: str
    port: int
    tls: bool = False


@dataclass(frozen=True)
class Address:
    """Where one listener listens, as the start line prints it."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Listener:
    """One bound, listening, non-blocking socket; ``tls``: its connections begin with a TLS handshake."""

    def __init__(self, sock: socket.socket, address: Address, *, tls: bool = False) -> None:
        self.socket = sock
        self.address = address
        self.tls = tls
        self._file_id = _file_id(address.path) if address.path else None

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        """Close the socket; a worker calls this, the socket file belongs to the supervisor."""
        self.socket.close()

    def remove(self) -> None:
        """Close the socket and unlink its file, once, unless another daemon's socket took the path meanwhile."""
        self.close()
        if self._file_id is not None and _file_id(self.address.path) == self._file_id:
            os.unlink(self.address.path)
        self._file_id = None


def bind_tcp(endpoints: Iterable[Endpoint], backlog: int = BACKLOG) -> list[Listener]:
    """Bind every address of every endpoint. Where a port is 0, the first port the kernel gives serves all of them.

    Raises OSError with the address in ``filename``.
    """
    listeners: list[Listener] = []
    free_port = 0
    try:
        for host, port, tls in endpoints:
            for family, sockaddr in _resolve(host, port or free_port):
                listener = _bind_inet(family, (sockaddr[0], port or free_port, *sockaddr[2:]), backlog, tls)
                free_port = free_port or (listener.address.port if port == 0 else 0)
                listeners.append(listener)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def bind_unix(path: str, mask: int = 0o700, backlog: int = BACKLOG) -> Listener:
    """Bind a UNIX socket with access ``mask`` (memcached's ``-a``); a stale socket file is replaced.

    Raises OSError: EADDRINUSE when a daemon listens there, EEXIST when the path is no socket.
    """
    if not path:  # Linux would make an abstract socket of it, which no mask protects
        raise OSError(errno.EINVAL, "an empty path names no socket", path)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    old_umask = os.umask(~mask & 0o777)
    try:
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, error.strerror or str(error), path) from error
    finally:
        os.umask(old_umask)
    sock.listen(backlog)
    return Listener(sock, Address("", 0, path))


def _resolve(host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
    """Every distinct address a host name stands for; ``*`` and the empty name mean all interfaces."""
    name = None if host in ("", "*") else host
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: no host name at all, by its length or its letters
        raise OSError(errno.EADDRNOTAVAIL, getattr(error, "strerror", None) or str(error), host) from error
    usable = [entry for entry in found if name is not None or _has_family(entry[0])]
    return list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in usable))


def _has_family(family: int) -> bool:
    """A wildcard covers IPv6 only where the kernel has it."""
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def _bind_inet(family: int, sockaddr: tuple[object, ...], backlog: int, tls: bool) -> Listener:
    """Options are set on the listener: accepted sockets inherit them, which saves system calls a connection."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        sock.bind(sockaddr)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, error.strerror or str(error), f"{sockaddr[0]}:{sockaddr[1]}") from error
    host, port = sock.getsockname()[:2]
    return Listener(sock, Address(host, port), tls=tls)


def _remove_stale(path: str) -> None:
    """Unlink a socket file whose daemon is gone; a connect tells."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "exists and is no socket", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody listens
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)


def _file_id(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
