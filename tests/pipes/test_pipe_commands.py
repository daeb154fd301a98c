"""What `memcache-shm pipe-client` takes for a command."""

from __future__ import annotations

import pytest

from memcache_shm.ops.pipe_client import BadCommand, read_command
from memcache_shm.ops.pipe_messages import Request

COMMANDS: dict[bytes, Request | float | None] = {
    b"SUBSCRIBE [key]": Request(3, b"key"),
    b"  SUBSCRIBE   [ k]y ]  \r": Request(3, b" k]y "),
    b"UNSUBSCRIBE [key]": Request(4, b"key"),
    b"SUBSCRIBE [" + 40 * b"k" + b"]": Request(3, 40 * b"k"),
    b"DISCONNECT": Request(2, b""),
    b"DELAY 1500": 1.5,
    b"DELAY 0": 0.0,
    b"": None,
    b" # SUBSCRIBE [key]": None,
}


@pytest.mark.parametrize("text", COMMANDS)
def test_commands(text: bytes) -> None:
    assert read_command(text) == COMMANDS[text]


BAD = [b"SUBSCRIBE", b"SUBSCRIBE key", b"SUBSCRIBE []", b"SUBSCRIBE [" + 41 * b"k" + b"]", b"SUBSCRIBE [a\0b]", b"DELAY", b"DELAY -1"]
BAD += [b"DELAY 1.5", b"DELAY 9999999999", b"DISCONNECT now", b"disconnect", b"\xff", b"QUIT", b"SUBSCRIBE [a] b", b"SUBSCRIBE[a]"]


@pytest.mark.parametrize("text", BAD)
def test_bad_commands(text: bytes) -> None:
    with pytest.raises(BadCommand):
        read_command(text)
