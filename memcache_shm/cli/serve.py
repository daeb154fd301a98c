"""Serving: from the options to a running daemon and, at its end, to a clean host."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
from collections.abc import Sequence

from memcache_shm.cli.messages import PROGRAM, StderrHandler, note
from memcache_shm.cli.options import Options
from memcache_shm.errors import MemcacheError
from memcache_shm.server import supervisor
from memcache_shm.server.config import ServerConfig
from memcache_shm.server.listeners import Address, Listener, bind_tcp, bind_unix
from memcache_shm.storage import registry

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)  # by the number of -v
_HELD_BACK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(options: Options) -> int:
    """Bind, claim the table, serve until a signal, clean up. The exit status.

    The listeners come first since the table's name may need the port. Signals are held back but for the supervisor's own
    time, so that none leaves a socket file or a table behind that was just made, or is about to go.
    """
    logging.basicConfig(format=f"{PROGRAM}: %(message)s", level=_LEVELS[min(options.verbosity, 2)], handlers=[StderrHandler()])
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    listeners = _bind(options)
    try:
        name = options.name or _default_name(listeners)
        claim = registry.claim(name, options.geometry, mode=options.mode, evict=options.evict)
    except BaseException:
        for listener in listeners:
            listener.remove()
        raise
    status = supervisor.EXIT_FAILED
    try:
        status = supervisor.serve(_config(options, listeners, claim))
        return status
    finally:
        claim.release(keep=options.keep or (status != supervisor.EXIT_OK and _holds_items(claim)))


def _holds_items(claim: registry.Claim) -> bool:
    """A daemon that fails leaves its items to the next start, and says so."""
    items = 0 if claim.table.is_removed() else len(claim.table)
    if items:
        note(f"table {claim.state.name} with {items} items stays; the next start with the same options takes it over")
    return items > 0


def _config(options: Options, listeners: Sequence[Listener], claim: registry.Claim) -> ServerConfig:
    def on_start(addresses: Sequence[Address]) -> None:
        note(_start_line(claim, addresses))

    return ServerConfig(
        table=claim.table,
        listeners=listeners,
        renew_table=claim.recreate,
        workers=options.workers,
        max_connections=options.max_connections,
        verbosity=options.verbosity,
        stuck_s=options.stuck_s,
        on_start=on_start,
    )


def _start_line(claim: registry.Claim, addresses: Sequence[Address]) -> str:
    where = " ".join(str(address) for address in addresses)
    kept = f", {len(claim.table)} items taken over" if claim.adopted else ""
    return f"serving {claim.state.name} ({claim.table.geometry.describe()}{kept}) on {where}, pid {os.getpid()}"


def _bind(options: Options) -> list[Listener]:
    listeners: list[Listener] = []
    try:
        listeners += bind_tcp(options.endpoints)
        if options.unix_path is not None:
            listeners.append(bind_unix(options.unix_path, options.unix_mask))
    except OSError as error:
        for listener in listeners:
            listener.remove()
        option = "-s" if error.filename == options.unix_path else "-p, -l"
        remedy = "choose another, or 'memcache-shm ping' it" if error.errno == errno.EADDRINUSE else "choose another"
        raise MemcacheError(f"{option}: cannot listen on {error.filename}: {error.strerror}; {remedy}") from None
    return listeners


def _default_name(listeners: Sequence[Listener]) -> str:
    """memcache_shm-PORT; with a UNIX socket alone, its file name in place of the port."""
    first = listeners[0].address
    return f"memcache_shm-{first.port or re.sub('[^A-Za-z0-9_.+-]', '_', os.path.basename(first.path))}"
