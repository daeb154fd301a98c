r"""Conversations: what a client sends and what it must read, written like the terminal session it is.

    # a title, unique in its file                       one conversation goes to the next title
    daemon: 4 100 -M                                    options of our daemon, if it needs some
    memcached: -I 1k | differs: why                     Debian's memcached: options, or why its replies differ
    > set k 0 0 5                                       a line the client sends, CRLF after it
    > hel\                                              no CRLF after a line that ends with a backslash
    < STORED                                            a line it must read
    < VALUE k 0 5 {cas:a}                               a number to remember; {cas:a} in a sent line gives it back
    ~ get k                                             sent again and again until the expected reply comes (time passes)
    > {a*250} \x00\n {0..99:k%d }                       repeats, bytes as in Python, a run of numbers
    = close                                             the client closes its sending side; then it reads to the end
    < EOF                                               the server closes

Blank lines and lines that begin with `;` are skipped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_TOKEN = re.compile(r"\{(?P<text>[^{}*]+)\*(?P<times>\d+)\}|\{(?P<first>\d+)\.\.(?P<last>\d+):(?P<form>[^{}]*)\}")
_CAPTURE = re.compile(rb"\{cas:(\w+)\}")


@dataclass
class Exchange:
    """Bytes to send, then the bytes expected back; both may hold {cas:NAME}."""

    send: bytes = b""
    expect: bytes = b""
    repeat: bool = False  # send again until the expected reply comes
    close: bool = False  # shut the sending side down after it
    eof: bool = False  # the server must close after the expected bytes

    @property
    def joinable(self) -> bool:
        """It may be sent before the replies to what came before it are read."""
        return not self.repeat and not _CAPTURE.search(self.send)


@dataclass
class Conversation:
    """A titled list of exchanges and the servers it is meant for."""

    title: str
    daemon: tuple[str, ...] = ()
    memcached: tuple[str, ...] = ()
    differs: str = ""  # why Debian's memcached answers otherwise
    exchanges: list[Exchange] = field(default_factory=list)

    @property
    def takes_time(self) -> bool:
        return any(exchange.repeat for exchange in self.exchanges)

    def pipelined(self) -> list[Exchange]:
        """The same with everything sent as early as possible."""
        joined: list[Exchange] = []
        for exchange in self.exchanges:
            last = joined[-1] if joined else None
            if last and exchange.joinable and not last.repeat and not last.close:
                joined[-1] = Exchange(last.send + exchange.send, last.expect + exchange.expect, close=exchange.close, eof=exchange.eof)
            else:
                joined.append(exchange)
        return joined


def load(path: Path) -> list[Conversation]:
    """All conversations of a file."""
    conversations: list[Conversation] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line or line.startswith(";"):
            continue
        mark, _, rest = line.partition(" ")
        if mark == "#":
            conversations.append(Conversation(rest))
            continue
        if mark not in _READERS or not conversations:
            raise ValueError(f"{path.name}:{number}: {line!r}")
        _READERS[mark](conversations[-1], rest)
    return conversations


def _read_daemon(conversation: Conversation, text: str) -> None:
    conversation.daemon = tuple(text.split())


def _read_memcached(conversation: Conversation, text: str) -> None:
    if text.startswith("differs:"):
        conversation.differs = text.removeprefix("differs:").strip()
    else:
        conversation.memcached = tuple(text.split())


def _read_send(conversation: Conversation, text: str) -> None:
    last = conversation.exchanges[-1] if conversation.exchanges else None
    if last is None or last.expect or last.close or last.repeat:
        last = Exchange()
        conversation.exchanges.append(last)
    last.send += _line(text)


def _read_expect(conversation: Conversation, text: str) -> None:
    if text == "EOF":
        conversation.exchanges[-1].eof = True
    else:
        conversation.exchanges[-1].expect += _line(text)


def _read_repeat(conversation: Conversation, text: str) -> None:
    conversation.exchanges.append(Exchange(_line(text), repeat=True))


def _read_close(conversation: Conversation, text: str) -> None:
    if text != "close":
        raise ValueError(f"= close, not = {text}")
    if not conversation.exchanges or conversation.exchanges[-1].expect:
        conversation.exchanges.append(Exchange())
    conversation.exchanges[-1].close = conversation.exchanges[-1].eof = True


_READERS = {
    "daemon:": _read_daemon,
    "memcached:": _read_memcached,
    ">": _read_send,
    "<": _read_expect,
    "~": _read_repeat,
    "=": _read_close,
}


def _line(text: str) -> bytes:
    """The bytes of a written line, with its CRLF unless a lone backslash ends it."""
    end = b"\r\n"
    if text.endswith("\\") and not text.endswith("\\\\"):
        text, end = text[:-1], b""
    while (expanded := _TOKEN.sub(_expand, text)) != text:  # from the inside out
        text = expanded
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1") + end


def _expand(match: re.Match[str]) -> str:
    if match["text"]:
        return match["text"] * int(match["times"])
    return "".join(match["form"].replace("%d", str(n)) for n in range(int(match["first"]), int(match["last"]) + 1))


def fill_in(send: bytes, captured: dict[bytes, bytes]) -> bytes:
    """The bytes to send, with the numbers that came before in place of {cas:NAME}."""
    return _CAPTURE.sub(lambda match: captured[match[1]], send)


def matches(expect: bytes, got: bytes, captured: dict[bytes, bytes]) -> bool:
    """Whether `got` is what is expected; remembers the numbers that {cas:NAME} stands for."""
    parts = _CAPTURE.split(expect)
    if len(parts) == 1:
        return got == expect  # it may be long, as a pattern would be
    names = parts[1::2]
    pattern = b"".join(rb"(\d+)" if index % 2 else re.escape(part) for index, part in enumerate(parts))
    match = re.fullmatch(pattern, got, re.DOTALL)
    if match is None:
        return False
    found: dict[bytes, bytes] = {}
    for name, number in zip(names, match.groups(), strict=True):
        if captured.get(name, found.setdefault(name, number)) != number:
            return False
    captured.update(found)
    return True


def is_complete(expect: bytes, got: bytes) -> bool:
    """As many lines have come as are expected; more bytes than that are a difference, not a wait."""
    return got.count(b"\n") >= expect.count(b"\n") and len(got) >= len(_CAPTURE.sub(b"0", expect))
