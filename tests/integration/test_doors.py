"""One table, all doors at the same time: several addresses of both families, a UNIX socket, an attached program."""

from __future__ import annotations

import re
import socket

from support.client import Client
from support.servers import Daemon

import memcache_shm


def _loopbacks() -> list[str]:
    """The loopback addresses of this host; IPv6 may be switched off."""
    found = ["127.0.0.1", "127.0.0.2"]
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return found
    return [*found, "::1"]


def test_all_doors_at_once() -> None:
    hosts = _loopbacks()
    options = [word for host in hosts for word in ("-l", host)]
    with Daemon(*options, "64", "100", workers=2) as daemon:
        assert daemon.start is not None
        addresses = re.findall(r"(\S+):(\d+)(?= |$|,)", daemon.start["addresses"])
        assert sorted(host.strip("[]") for host, _ in addresses) == sorted(hosts)
        clients = [Client(daemon, "unix")]
        for host, port in addresses:
            daemon.host, daemon.port = host.strip("[]"), int(port)
            clients.append(Client(daemon))
        with memcache_shm.attach(daemon.name) as cache:
            for number, writer in enumerate(clients):
                assert writer.set(b"k", b"%d" % number) == b"STORED"
                assert all(reader.get(b"k") == b"%d" % number for reader in clients)
                assert cache.get("k") == b"%d" % number
            cache.set("k", b"attached")
            assert all(reader.get(b"k") == b"attached" for reader in clients)
        for client in clients:
            client.close()
