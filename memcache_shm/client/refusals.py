"""What a server says when it does not do what was asked, as the errors that an attached table raises."""

from __future__ import annotations

from memcache_shm.client.admission import shown
from memcache_shm.errors import BusyError, IllegalInputError, MemcacheError, NoSpaceError, ReadOnlyError, RemoteError, TooLargeError

# The beginning of the line; the error; what helps.
_KNOWN: list[tuple[bytes, type[MemcacheError], str]] = [
    (b"SERVER_ERROR object too large for cache", TooLargeError, "start the server with a larger -I"),
    (b"SERVER_ERROR out of memory storing object", NoSpaceError, "give the server more memory, or let it evict"),
    (b"SERVER_ERROR too many processes write to this table", NoSpaceError, "close some"),
    (b"SERVER_ERROR shard busy", BusyError, "that process is stopped or hung: continue or kill it"),
    (b"SERVER_ERROR table is read-only", ReadOnlyError, ""),
    (b"SERVER_ERROR this table follows another", ReadOnlyError, ""),
    (b"CLIENT_ERROR cannot increment or decrement non-numeric value", IllegalInputError, ""),
]
DID_NOT_FIT = (TooLargeError, NoSpaceError)


def failure(where: str, line: bytes) -> MemcacheError:
    """The error that the reply `line` of the server at `where` stands for."""
    for beginning, kind, remedy in _KNOWN:
        if line.startswith(beginning):
            said = shown(line).partition(" ")[2]
            return kind(f"{where}: {said}; {remedy}" if remedy else f"{where}: {said}")
    return RemoteError(f"{where}: {shown(line)}")
