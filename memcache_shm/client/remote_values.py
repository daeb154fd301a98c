"""Values as the replies of get, gets, gat and gats carry them."""

from __future__ import annotations

from memcache_shm.client.refusals import failure
from memcache_shm.client.wire import Connection

_SIZE_DIGITS = 10
Value = tuple[bytes, bytes, bytes]  # what was stored; its flags and its CAS id as digits, the latter empty where not asked for
_END = b"\r\nEND\r\n"


def fetch(connection: Connection, request: bytes, key: bytes) -> Value | None:
    """Send `request`, which asks for `key` alone; None when it is not there. RemoteError."""
    reply = connection.ask(request)
    if reply == b"END\r\n":
        return None
    # As a rule the whole reply has come, and is taken apart where it is.
    end = reply.find(b"\r\n")
    head = _head(reply[:end])
    if head is not None and head[1] == key and len(reply) == end + 2 + int(head[3]) + len(_END) and reply.endswith(_END):
        return reply[end + 2 : -len(_END)], head[2], head[4] if len(head) > 4 else b""
    connection.put_back(reply)
    found: dict[bytes, Value] = {}
    read_values(connection, found)
    if not found.keys() <= {key}:
        raise failure(connection.where, b"VALUE " + next(iter(found)))
    return found.get(key)


def read_values(connection: Connection, found: dict[bytes, Value]) -> None:
    """Read the reply to a request for any number of keys into `found`. RemoteError."""
    while (line := connection.line()) != b"END":
        head = _head(line)
        if head is None:
            raise failure(connection.where, line)
        found[head[1]] = connection.block(int(head[3])), head[2], head[4] if len(head) > 4 else b""


def _head(line: bytes) -> list[bytes] | None:
    """The words of the line in front of a value: VALUE, key, flags, size, and the CAS id where asked for; None: it is no such line."""
    words = line.split(b" ")
    if 4 <= len(words) <= 5 and words[0] == b"VALUE" and words[2].isdigit() and words[3].isdigit() and len(words[3]) <= _SIZE_DIGITS:
        return words
    return None
