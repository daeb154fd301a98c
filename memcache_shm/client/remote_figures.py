"""The figures of `stats` as Python has them: as pymemcache gives them, so that code which moves over finds the same types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memcache_shm.client.admission import shown
from memcache_shm.client.refusals import failure
from memcache_shm.client.wire import Connection
from memcache_shm.errors import IllegalInputError

_LAST = (b"END", b"OK", b"RESET")
_KINDS: dict[bytes, Callable[[bytes], Any]] = {  # whole numbers where not said otherwise
    b"version": bytes,
    b"shm_uuid": bytes,
    b"inter": bytes,
    b"stat_key_prefix": bytes,
    b"rusage_user": float,
    b"rusage_system": float,
    b"growth_factor": float,
    b"umask": lambda value: int(value, 8),
    b"auth_enabled_sasl": lambda value: value == b"yes",
    **dict.fromkeys(
        (
            b"hash_is_expanding",
            b"slab_reassign_running",
            b"detail_enabled",
            b"cas_enabled",
            b"maxconns_fast",
            b"slab_reassign",
            b"slab_automove",
        ),
        lambda value: int(value) != 0,
    ),
}


def read_figures(connection: Connection, request: bytes) -> dict[bytes, Any]:
    """Send `request`, a stats command; what it tells under its names, and items of a dump by their keys. IllegalInputError:
    it knows no such group. Raises what `failure` gives, RemoteError mostly."""
    figures = {}
    line = connection.ask_line(request)
    while line not in _LAST:
        if line == b"ERROR" and (group := shown(request[len(b"stats") :].strip())):
            raise IllegalInputError(f"{connection.where}: stats: the server knows no group {group!r}")
        word, _, rest = line.partition(b" ")
        if word not in (b"STAT", b"ITEM"):
            raise failure(connection.where, line)
        name, _, value = rest.partition(b" ")
        figures[name] = _figure(name, value) if word == b"STAT" else value
        line = connection.line()
    return figures


def served_uuid(connection: Connection) -> str | None:
    """Of the table that the server has; None where it does not tell, as a memcached. Raises as `read_figures`."""
    try:
        uuid: bytes | None = read_figures(connection, b"stats shm\r\n").get(b"shm_uuid")
    except IllegalInputError:
        return None
    return None if uuid is None else shown(uuid)


def _figure(name: bytes, value: bytes) -> Any:
    try:
        return _KINDS.get(name, int)(value)
    except ValueError:
        return value
