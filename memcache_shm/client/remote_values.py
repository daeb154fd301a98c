"""Values as the replies of get, gets, gat and gats carry them."""

from __future__ import annotations

from memcache_shm.client.refusals import failure
from memcache_shm.client.texts import whole_value
from memcache_shm.client.wire import Connection

Value = tuple[bytes, int, bytes]  # what was stored, its flags, and its CAS id, which is empty where not asked for
_DIGITS_MOST = 10  # of flags and of sizes


def fetch(connection: Connection, request: bytes, key: bytes) -> Value | None:
    """Send `request`, which asks for `key` alone; None when it is not there. RemoteError."""
    reply = connection.ask(request)
    if reply == b"END\r\n":
        return None
    value = whole_value(reply, key)
    if value is not None:
        return value
    connection.put_back(reply)  # it comes in pieces, or is none
    found: dict[bytes, Value] = {}
    read_values(connection, found)
    if not found.keys() <= {key}:
        raise failure(connection.where, b"VALUE " + next(iter(found)))
    return found.get(key)


def read_values(connection: Connection, found: dict[bytes, Value]) -> None:
    """Read the reply to a request for any number of keys into `found`. RemoteError."""
    while (line := connection.line()) != b"END":
        words = line.split(b" ")
        if not 4 <= len(words) <= 5 or words[0] != b"VALUE" or not (_is_number(words[2]) and _is_number(words[3])):
            raise failure(connection.where, line)
        found[words[1]] = connection.block(int(words[3])), int(words[2]), words[4] if len(words) > 4 else b""


def _is_number(word: bytes) -> bool:
    return word.isdigit() and len(word) <= _DIGITS_MOST
