"""Every conversation of the *.talk files, over all doors, with one and with several workers, its bytes cut in several ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.channels import RINGS
from support.conversation import Conversation, load
from support.player import play
from support.servers import Daemon, Memcached
from support.tls import Certificate, TlsSocket

CONVERSATIONS = [
    pytest.param(conversation, id=f"{path.stem}: {conversation.title}")
    for path in sorted(Path(__file__).parent.glob("*.talk"))
    for conversation in load(path)
]
# Each cutting by one door of one daemon at least; the rest would find the same again.
CUT_BY = {("unix", 1): ("whole", "bytes"), ("tcp", 3): ("cuts",), ("tcp", 1): ("steps",)}
# Each conversation by one of these, by turns.
CHANNELS = [("channel", 1, "steps"), ("narrow", 3, "whole"), ("channel", 3, "bytes"), ("narrow", 1, "cuts")]
DAEMON = ("-m", "64")
# Its thread for LRU lists holds an item for a moment now and then, and incr makes a new one then instead of changing the old.
MEMCACHED = ("-m", "64", "-o", "no_lru_maintainer")
LONG = 20_000  # bytes sent in all, above which they are not sent one by one


def _cut() -> Iterator[object]:
    """All conversations in all cuttings, and over a channel; those in which time passes in two cuttings only."""
    sockets = [(door, workers, cutting) for (door, workers), cuttings in CUT_BY.items() for cutting in cuttings]
    for number, conversation in enumerate(CONVERSATIONS):
        takes_time = conversation.values[0].takes_time
        for door, workers, cutting in [*sockets, CHANNELS[number % len(CHANNELS)]]:
            if not takes_time or cutting in ("whole", "bytes") or door in RINGS:
                yield pytest.param(*conversation.values, cutting, door, workers, id=f"{conversation.id}-{cutting}-{door}-{workers}")


@pytest.mark.parametrize(("conversation", "cutting", "door", "workers"), list(_cut()))
def test_daemon(conversation: Conversation, cutting: str, door: str, workers: int, daemon_with: Callable[..., Daemon]) -> None:
    daemon = daemon_with(*(conversation.daemon or DAEMON), workers=workers)
    daemon.flush()
    with daemon.connect(door) as sock:
        play(conversation, sock, cutting)


def _cut_ciphertext() -> Iterator[object]:
    """All conversations, step by step or at once with the ciphertext sent by bytes, by turns."""
    for number, conversation in enumerate(CONVERSATIONS):
        cutting, cut = ("whole", 1) if number % 2 else ("steps", 0)
        yield pytest.param(*conversation.values, cutting, cut, id=f"{conversation.id}-{cutting}")


@pytest.mark.parametrize(("conversation", "cutting", "cut"), list(_cut_ciphertext()))
def test_daemon_by_tls(
    conversation: Conversation, cutting: str, cut: int, certificate: Certificate, daemon_with: Callable[..., Daemon]
) -> None:
    daemon = daemon_with(*(conversation.daemon or DAEMON), *certificate.options)
    if cut and sum(len(exchange.send) for exchange in conversation.exchanges) > LONG:
        cut = 1000
    with TlsSocket(daemon.connect(), certificate.client_context(), cut) as sock:
        daemon.flush_by(sock)
    with TlsSocket(daemon.connect(), certificate.client_context(), cut) as sock:
        play(conversation, sock, cutting)


@pytest.mark.parametrize("cutting", ("steps", "whole"))
@pytest.mark.parametrize("conversation", [param for param in CONVERSATIONS if not param.values[0].differs])
def test_memcached(conversation: Conversation, cutting: str, memcached_with: Callable[..., Memcached]) -> None:
    """The reference says the same, so what the table expects is no invention of ours."""
    server = memcached_with(*(conversation.memcached or MEMCACHED))
    server.flush()
    with server.connect() as sock:
        play(conversation, sock, cutting)


def test_enough_of_them() -> None:
    titles = [param.id for param in CONVERSATIONS]
    assert len(titles) >= 60
    assert len(set(titles)) == len(titles)
