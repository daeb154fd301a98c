"""Channels for tests: the client's end with the rest of a socket's methods, so that what is written for sockets runs over it."""

from __future__ import annotations

import io
import socket

from memcache_shm.client.channel import Channel
from support.reading import Reading

#: Bytes of both rings, by door: the usual ones, and the least there are, which most replies do not fit into.
RINGS = {"channel": 65536, "narrow": 4096}


class ChannelSocket(Channel):
    """A channel through the door "channel" or "narrow"."""

    family = socket.AF_UNSPEC

    def __init__(self, path: str, door: str, timeout_s: float | None) -> None:
        super().__init__(path, timeout_s, request_bytes=RINGS[door], reply_bytes=RINGS[door])

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(Reading(self))

    def setsockopt(self, *option: int | bytes) -> None:
        """There is nothing to set."""
