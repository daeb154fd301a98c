"""Serving: from the options to a running daemon and, at its end, to a clean host."""

from __future__ import annotations

import contextlib
import errno
import functools
import ipaddress
import logging
import os
import re
import signal
import socket
from collections.abc import Callable, Sequence
from pwd import struct_passwd
from typing import Any

from memcache_shm.cli import privileges
from memcache_shm.cli.background import Background, leave
from memcache_shm.cli.messages import PROGRAM, StderrHandler, UsageError, note
from memcache_shm.cli.options import Options
from memcache_shm.cli.pidfile import PORTS_VARIABLE, PidFile, write_ports
from memcache_shm.cli.saving import Saving, StoppedError, backing_up, check_backup_dir, saving_of
from memcache_shm.client.addresses import Address as LeaderAddress
from memcache_shm.client.addresses import socket_path, written
from memcache_shm.errors import MemcacheError
from memcache_shm.server import supervisor
from memcache_shm.server.children import EXIT_FAILED, EXIT_OK
from memcache_shm.server.companions import Companion
from memcache_shm.server.config import ServerConfig
from memcache_shm.server.credentials import Credentials
from memcache_shm.server.descriptors import raise_limit
from memcache_shm.server.environs import fill_streams
from memcache_shm.server.listeners import Address, Listener, bind_tcp, bind_unix
from memcache_shm.storage import following, registry
from memcache_shm.storage.claiming import Claim
from memcache_shm.storage.units import MIB

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)  # by the number of -v
_HELD_BACK = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def serve(options: Options) -> int:
    """Bind, claim the table, serve until a signal, clean up. The exit status; with -d the starter's, in its process.

    Signals are held back but for the supervisor's own time, so that none leaves a socket file or a table behind that was just made,
    or is about to go.
    """
    fill_streams()
    user = privileges.find_user(options.user)
    background = leave(stay=options.core_dumps) if options.daemon else None
    logging.basicConfig(format=f"{PROGRAM}: %(message)s", level=_LEVELS[min(options.verbosity, 2)], handlers=[StderrHandler()])
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    with contextlib.ExitStack() as remains:
        return _serve(options, user, background, remains)


def _serve(options: Options, user: struct_passwd | None, background: Background | None, remains: contextlib.ExitStack) -> int:
    """The order is that of rights: limits, keys and low ports while we are root; what the new user is to own, and may remove, afterwards.

    The table comes after the listeners since its name may need the port. `remains` takes what is to go at the end.
    """
    _lift_limits(options)
    credentials = Credentials(options.auth_file, options.tls)
    pid_file = PidFile(options.pid_path) if options.pid_path is not None else None
    listeners = _bind(options, remains, lambda: bind_tcp(options.endpoints, options.backlog))
    if options.leader is not None:
        _refuse_itself(options.leader, listeners, options.unix_path)
    if pid_file is not None:
        remains.callback(pid_file.remove)
    if user is not None:
        _become(user, options, pid_file)
    path = options.unix_path
    if path is not None:
        listeners += _bind(options, remains, lambda: [bind_unix(path, options.unix_mask, options.backlog)])
    if options.fifo_path is not None:
        _make_fifo(options.fifo_path, remains)
    saving = saving_of(options)
    if saving is not None:
        remains.callback(saving.release)
    try:
        claim = _claim(options, options.name or _default_name(listeners), saving)
    except StoppedError:
        note("told to stop before the table was loaded; nothing was changed")
        return EXIT_OK
    status = EXIT_FAILED
    try:
        if pid_file is not None:
            pid_file.write()
        status = supervisor.serve(_config(options, listeners, claim, credentials, background, saving))
        if saving is not None and saving.failed:
            status = EXIT_FAILED
        return status
    finally:
        claim.release(keep=options.keep or (status != EXIT_OK and _holds_items(claim)))


def _become(user: struct_passwd, options: Options, pid_file: PidFile | None) -> None:
    """Give root's rights up, once what needs them is done."""
    if pid_file is not None:
        pid_file.write_as_root(user)
    _import_ahead(options)
    privileges.become(user, options.core_dumps)


def _import_ahead(options: Options) -> None:
    """What would be imported later: the new user may not be allowed to read it."""
    if options.leader is not None:
        import memcache_shm.ops.follower
    if options.fifo_path is not None:
        import memcache_shm.ops.fifo
        import memcache_shm.ops.pipe_host
    if options.save_path is not None:
        import memcache_shm.cli.progress
        import memcache_shm.ops.saving
    if options.backup_dir is not None:
        import memcache_shm.ops.backing_up  # noqa: F401


def _claim(options: Options, name: str, saving: Saving | None) -> Claim:
    """The table, with what is to be in it from the start. StoppedError: a signal came while that was loaded."""
    check_backup_dir(options)
    guarded = options.leader is not None and not options.follow_writable
    fill = saving.fill if saving is not None and options.leader is None else None
    own_socket = os.path.abspath(options.unix_path) if options.unix_path is not None else ""  # where it was bound
    claim = registry.claim(name, options.geometry, mode=options.mode, evict=options.evict, follows=guarded, fill=fill, socket=own_socket)
    if saving is not None:
        saving.tell(claim)
    if not guarded:
        _promote(claim)
    return claim


def _refuse_itself(leader: LeaderAddress, listeners: Sequence[Listener], unix_path: str | None) -> None:
    """A leader that is this daemon's own door; what this cannot tell (another name of this host) the follower finds out."""
    if not isinstance(leader, tuple):
        if unix_path is not None and os.path.realpath(socket_path(leader) or "") == os.path.realpath(unix_path):
            raise UsageError(f"--follow: {written(leader)} is this daemon's own socket; name another")
        return
    for address in (listener.address for listener in listeners):
        if leader[1] == address.port and _same_host(leader[0], address.host):
            raise UsageError(f"--follow: {written(leader)} is this daemon itself, which listens on {address}; name another")


def _same_host(host: str, own: str) -> bool:
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False  # a name that may become known later
    everywhere = ipaddress.ip_address(own).is_unspecified
    return own in found or (everywhere and any(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found))


def _promote(claim: Claim) -> None:
    """A table that followed when its last daemon ended, and does not any more."""
    if claim.table.follows:
        highest = following.promote_table(claim.table)
        note(f"table {claim.state.name} followed another daemon and is independent now; CAS ids go on above {highest}")


def _lift_limits(options: Options) -> None:
    raise_limit(options.max_connections, options.channels)
    if options.core_dumps:
        privileges.lift_core_limit()
    if options.lock_memory:
        privileges.lift_lock_limit()


def _holds_items(claim: Claim) -> bool:
    """A daemon that fails leaves its items to the next start, and says so."""
    items = 0 if claim.table.is_removed() else len(claim.table)
    if items:
        note(f"table {claim.state.name} with {items} items stays; the next start with the same options takes it over")
    return items > 0


def _config(
    options: Options,
    listeners: Sequence[Listener],
    claim: Claim,
    credentials: Credentials,
    background: Background | None,
    saving: Saving | None,
) -> ServerConfig:
    def on_end(is_urged: Callable[[], bool]) -> None:
        if saving is not None:
            saving.finish(claim, is_urged)

    return ServerConfig(
        table=claim.table,
        listeners=listeners,
        renew_table=claim.recreate,
        workers=options.workers,
        max_connections=options.max_connections,
        channels=options.channels,
        maxconns_fast=options.extended.maxconns_fast,
        backlog=options.backlog,
        unix_mask=options.unix_mask,
        tls=options.tls,
        credentials=credentials,
        verbosity=options.verbosity,
        lock_memory=options.lock_memory,
        leave_streams=options.daemon and not options.verbosity,  # as memcached: -d -v goes on talking
        requests_per_event=options.requests_per_event,
        buffer_limit_bytes=options.extended.buffer_limit * MIB or ServerConfig.buffer_limit_bytes,
        idle_timeout_s=options.extended.idle_timeout_s,
        auth_file=options.auth_file or "",
        stuck_s=options.stuck_s,
        companions=_companions(options, claim, saving),
        back_up=backing_up(options, claim),
        saves=saving.figures if saving is not None else None,
        on_start=functools.partial(_say_start, claim, background),
        on_end=on_end,
        **_what_clients_may(options),
    )


def _say_start(claim: Claim, background: Background | None, addresses: Sequence[Address]) -> None:
    _tell_ports(addresses)
    note(_start_line(claim, addresses))
    if background is not None:
        background.serves()


def _what_clients_may(options: Options) -> dict[str, Any]:
    """Fields of the configuration: which commands are allowed, and what some of them tell."""
    return {
        "allow_shutdown": options.allow_shutdown,
        "allow_flush": options.allow_flush,
        "allow_dump": options.allow_dump,
        "allow_watch": options.allow_watch,
        "allow_debugtime": options.extended.allow_debugtime,
        "use_cas": options.use_cas,
        "prefix_delimiter": options.delimiter or ServerConfig.prefix_delimiter,
        "detail": options.delimiter is not None,
        "track_sizes": options.extended.track_sizes,
    }


def _companions(options: Options, claim: Claim, saving: Saving | None) -> list[Companion]:
    name = claim.state.name
    companions = []
    if options.leader is not None:
        from memcache_shm.ops.follower import follow

        companions.append(Companion("follower", functools.partial(follow, name, options.leader, options.follow_writable)))
    if options.fifo_path is not None:
        from memcache_shm.ops.pipe_host import serve_pipes

        serve_them = functools.partial(serve_pipes, name, options.fifo_path, options.fifo_sessions, False)
        companions.append(Companion("server of named pipes", serve_them, user_signal=True))
    return companions + (saving.companion(claim) if saving is not None else [])


def _make_fifo(path: str, remains: contextlib.ExitStack) -> None:
    """The registration pipe, held by this process as well: who has registered waits while the child that serves is started again."""
    from memcache_shm.ops.fifo import hold_fifo, make_fifo, remove_fifo

    make_fifo(path)
    remains.callback(remove_fifo, path)
    remains.callback(os.close, hold_fifo(path))


def _tell_ports(addresses: Sequence[Address]) -> None:
    """Nobody is refused for a file that only a starter looks for."""
    try:
        write_ports(addresses)
    except OSError as error:
        note(f"{PORTS_VARIABLE}: cannot write {error.filename}: {error.strerror}")


def _start_line(claim: Claim, addresses: Sequence[Address]) -> str:
    where = " ".join(str(address) for address in addresses)
    kept = f", {len(claim.table)} items taken over" if claim.adopted else ""
    return f"serving {claim.state.name} ({claim.table.geometry.describe()}{kept}) on {where}, pid {os.getpid()}"


def _bind(options: Options, remains: contextlib.ExitStack, bind: Callable[[], list[Listener]]) -> list[Listener]:
    """What `bind` binds, with an error for people; removed at the end."""
    try:
        listeners = bind()
    except OSError as error:
        option = "-s" if error.filename == options.unix_path else "-p, -l"
        remedy = "choose another, or 'memcache-shm ping' it" if error.errno == errno.EADDRINUSE else "choose another"
        raise MemcacheError(f"{option}: cannot listen on {error.filename}: {error.strerror}; {remedy}") from None
    for listener in listeners:
        remains.callback(listener.remove)
    return listeners


def _default_name(listeners: Sequence[Listener]) -> str:
    """memcache_shm-PORT; with a UNIX socket alone, its file name in place of the port."""
    first = listeners[0].address
    return f"memcache_shm-{first.port or re.sub('[^A-Za-z0-9_.+-]', '_', os.path.basename(first.path))}"
