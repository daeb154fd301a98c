"""What a server says to who is not served, in place of a welcome: the same words by every way to it."""

from __future__ import annotations

from memcache_shm.errors import RemoteError

_WORDS_MAX_BYTES = 500  # of a refusal
_LOGIN = b"CLIENT_ERROR unauthenticated"
_FULL = {  # who serves as many as it may
    b"ERROR Too many open connections": "too many connections (-c)",
    b"SERVER_ERROR too many channels (--channels)": "too many channels (--channels)",
}


class FullError(RemoteError):
    """The server has as many clients as it may."""


def denial(where: str, line: bytes) -> RemoteError | None:
    """The error when `line`, the first that the server at `where` says, turns its client away."""
    if line == _LOGIN:
        return RemoteError(f"{where}: the server wants a login (-Y), which is not spoken here; on its host name the table instead")
    if line in _FULL:
        return FullError(f"{where}: {_FULL[line]}")
    return None


def shown(words: bytes) -> str:
    """A server's words, what is no text in them escaped: they may go to a terminal, or into a log."""
    return repr(words[:_WORDS_MAX_BYTES])[2:-1]
