"""Every conversation through every door, with one worker and with three, its bytes cut four ways; and against memcached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.conversation import Conversation, load
from support.player import CUTTINGS, play
from support.servers import Daemon, Memcached, Server

FILES = sorted(Path(__file__).parent.glob("scripts/*.conv"))
DEFAULT = ("-m", "64")


def _cases() -> Iterator[object]:
    for path in FILES:
        for conversation in load(path):
            yield pytest.param(conversation, id=f"{path.stem}: {conversation.title}")


def _start(server: Server, conversation: Conversation, door: str, cutting: str) -> None:
    with server.connect(door) as sock:
        sock.sendall(b"flush_all\r\n")
        assert sock.recv(64) == b"OK\r\n"
        play(conversation, sock, cutting)


@pytest.mark.parametrize("conversation", _cases())
@pytest.mark.parametrize("cutting", CUTTINGS)
@pytest.mark.parametrize("door", ["tcp", "unix"])
@pytest.mark.parametrize("workers", [1, 3])
def test_conversation(
    conversation: Conversation, cutting: str, door: str, workers: int, daemon_with: Callable[..., Daemon]
) -> None:
    daemon = daemon_with(*(conversation.daemon or DEFAULT), workers=workers)
    _start(daemon, conversation, door, cutting)


@pytest.mark.parametrize("conversation", [case for case in _cases() if not case.values[0].differs])  # type: ignore[attr-defined]
@pytest.mark.parametrize("cutting", CUTTINGS)
def test_memcached_says_the_same(
    conversation: Conversation, cutting: str, memcached_with: Callable[..., Memcached]
) -> None:
    """The expectations are memcached's, unless a conversation says where and why not."""
    _start(memcached_with(*conversation.memcached), conversation, "tcp", cutting)


def test_there_are_enough() -> None:
    titles = [conversation.title for path in FILES for conversation in load(path)]
    assert len(titles) >= 60
    assert len(set(titles)) == len(titles)
