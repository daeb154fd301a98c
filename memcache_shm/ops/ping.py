"""Probe a daemon over a socket, or a table by attaching it."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass

from memcache_shm.client.addresses import Address
from memcache_shm.client.api import attach
from memcache_shm.client.wire import connect
from memcache_shm.errors import MemcacheError

_MAX_REPLY_BYTES = 1024


@dataclass(frozen=True)
class Answer:
    """What a probe got, and how long that took from the connect on."""

    what: str
    took_s: float


def ping_socket(address: Address, timeout_s: float) -> Answer:
    """Ask the daemon at `address` for its version. Raises OSError, MemcacheError for another reply."""
    started = time.perf_counter()
    with closing(connect(address, timeout_s)) as stream:
        stream.sendall(b"version\r\n")
        reply = b""
        while not reply.endswith(b"\n") and len(reply) < _MAX_REPLY_BYTES:
            received = stream.recv(_MAX_REPLY_BYTES)
            if not received:
                break
            reply += received
    took_s = time.perf_counter() - started
    if not reply.startswith(b"VERSION ") or not reply.endswith(b"\r\n"):
        raise MemcacheError(f"no memcached answers there, but {reply[:60]!r}")
    return Answer(reply.decode("ascii", "replace").strip(), took_s)


def ping_table(name: str) -> Answer:
    """Attach the table read-only and count its items. Raises as `attach` does."""
    started = time.perf_counter()
    with attach(name, readonly=True) as cache:
        items = len(cache)
    return Answer(f"table with {items} items", time.perf_counter() - started)
