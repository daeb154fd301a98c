"""The module `socket` for client libraries that take another one: their UNIX sockets become channels.

pymemcache.Client("/run/cache/sock", socket_module=memcache_shm.channel_sockets)
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC, IPPROTO_TCP, SHUT_RD, SHUT_RDWR, SHUT_WR, SOCK_STREAM, SOL_SOCKET, TCP_NODELAY
from typing import NoReturn

from memcache_shm.client.channel import Channel

__all__ = [
    "AF_INET",
    "AF_INET6",
    "AF_UNIX",
    "AF_UNSPEC",
    "IPPROTO_TCP",
    "SHUT_RD",
    "SHUT_RDWR",
    "SHUT_WR",
    "SOCK_STREAM",
    "SOL_SOCKET",
    "TCP_NODELAY",
    "error",
    "getaddrinfo",
    "socket",
    "timeout",
]

error = OSError
timeout = TimeoutError


class socket(Channel):  # the name that libraries call
    """A channel that is connected later, as a socket is."""

    def __init__(self, family: int = AF_UNIX, type: int = SOCK_STREAM, proto: int = 0) -> None:
        """OSError for what is no UNIX stream."""
        if family != AF_UNIX or type != SOCK_STREAM:
            _refuse()

    def connect(self, path: str) -> None:
        """Open a channel to the daemon at the UNIX socket `path`. Raises as `Channel`."""
        super().__init__(path, self.gettimeout())

    def setsockopt(self, *option: object) -> None:
        """A channel has no options: whatever it is, there is nothing to set."""


def getaddrinfo(host: object, port: object, *hints: object) -> NoReturn:
    """OSError: a channel leads to a UNIX socket of this host."""
    _refuse()


def _refuse() -> NoReturn:
    raise OSError("a channel leads to a UNIX socket; give its path in place of host and port")
