"""The daemon's options: memcached's letters mean what they mean there."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from memcache_shm.cli import arguments, extended, flags
from memcache_shm.cli.extended import Extended
from memcache_shm.cli.flags import DEFAULT_HOST, DEFAULT_PORT, DEFAULT_SAVE_EVERY_S
from memcache_shm.cli.messages import PROGRAM, UsageError
from memcache_shm.client.addresses import Address, ChannelAddress, given_address
from memcache_shm.errors import IllegalInputError
from memcache_shm.server.listeners import Endpoint
from memcache_shm.server.tls import TlsOptions
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.units import DEFAULT_MEMORY_BYTES, KIB, MIB, default_max_item

_PLAIN = "notls:"
_ADDRESSES_MAX = 100  # a name may stand for two; the accept loop numbers its listeners with a byte


@dataclass(frozen=True)
class Options:
    """What the words of the command line come to. Paths are absolute where the daemon goes into the background.

    What `parse` does not work out itself is what the flag of the same name (its dest) was given.
    """

    endpoints: tuple[Endpoint, ...]  # empty: no TCP
    unix_path: str | None
    unix_mask: int
    backlog: int
    tls: TlsOptions | None
    geometry: Geometry
    evict: bool
    name: str | None  # None: made of the port or the socket
    keep: bool
    mode: int
    max_connections: int
    channels: int
    workers: int
    requests_per_event: int
    lock_memory: bool
    stuck_s: int  # 0: never
    daemon: bool
    pid_path: str | None
    user: str | None
    core_dumps: bool
    verbosity: int
    allow_shutdown: bool
    allow_flush: bool
    allow_dump: bool
    allow_watch: bool
    use_cas: bool
    delimiter: str | None  # None: stats detail is off
    auth_file: str | None
    extended: Extended
    save_path: str | None
    save_every_s: int  # 0: at the end only
    backup_dir: str | None
    leader: Address | None  # the daemon to follow
    follow_writable: bool
    fifo_path: str | None
    fifo_sessions: int


def parse(words: Sequence[str], commands: str) -> Options:
    """The options meant by `words`; `commands` lists the verbs for the help. Raises UsageError; exits after -h, -i and -V."""
    space = flags.parser(commands).parse_args(arguments.split_words(words))
    told = extended.parse(space.extended)
    meant: dict[str, Any] = {
        "endpoints": _endpoints(space),
        "unix_path": _path(space, space.unix_path),
        "tls": _tls(space, told),
        "geometry": table_geometry(space),
        "pid_path": _path(space, space.pid_path),
        "auth_file": _path(space, space.auth_file),
        "extended": told,
        "save_path": _path(space, space.save_path),
        "save_every_s": _save_every_s(space),
        "backup_dir": _backup_dir(space),
        "leader": _leader(space),
        "fifo_path": fifo_path(space),
        "fifo_sessions": space.fifo_sessions or flags.FIFO_SESSIONS,
    }
    as_given = {field.name: getattr(space, field.name) for field in fields(Options) if field.name not in meant}
    return Options(**meant, **as_given)


def _save_every_s(space: argparse.Namespace) -> int:
    if space.save_path is None and space.save_every_s is not None:
        raise UsageError("--save-every: goes with --save FILE, which says where to")
    if space.save_path == "":
        raise UsageError("--save: needs a name, not an empty word")
    return DEFAULT_SAVE_EVERY_S if space.save_every_s is None else int(space.save_every_s)


def _backup_dir(space: argparse.Namespace) -> str | None:
    if space.backup_dir == "":
        raise UsageError("--backup-dir: needs a name, not an empty word")
    if space.backup_dir is not None and space.unix_path is None:
        raise UsageError("--backup-dir: goes with -s PATH, since only clients of the UNIX socket may ask for a backup")
    return _path(space, space.backup_dir)


def _leader(space: argparse.Namespace) -> Address | None:
    if space.follow is None:
        if space.follow_writable:
            raise UsageError("--follow-writable: goes with --follow HOST:PORT, which says what to follow")
        return None
    try:
        address = given_address(space.follow)
    except IllegalInputError as error:
        raise UsageError(f"--follow: {error}") from None
    if isinstance(address, ChannelAddress):
        return ChannelAddress(_path(space, address.path) or "")
    return _path(space, address) if isinstance(address, str) else address


def fifo_path(space: argparse.Namespace) -> str | None:
    """Of `fifo_path`, `fifo_sessions` and `feed_bytes` of `space`. UsageError."""
    if space.fifo_path is None and space.fifo_sessions is not None:
        raise UsageError("--fifo-sessions: goes with --fifo PATH, which says where clients register")
    if space.fifo_path is not None and space.feed_bytes == 0:
        raise UsageError("--fifo: its clients are told of changes, which needs the feed; leave --feed 0 out")
    return _path(space, space.fifo_path)


def _path(space: argparse.Namespace, path: str | None) -> str | None:
    """In the background the working directory is another. An empty path stays one, for whoever opens it to refuse."""
    return os.path.abspath(path) if space.daemon and path else path


def _tls(space: argparse.Namespace, told: Extended) -> TlsOptions | None:
    """Without -Z the certificates may be named already, as in memcached."""
    if not space.tls:
        return None
    if "chain_cert" not in told.tls:
        raise UsageError("-Z: needs a certificate; name its file with -o ssl_chain_cert=FILE")
    files = dict(told.tls)
    for name in files.keys() & {"chain_cert", "key", "ca_cert"}:
        files[name] = _path(space, files[name])
    return TlsOptions(**files)


def _endpoints(space: argparse.Namespace) -> tuple[Endpoint, ...]:
    if space.unix_path is not None and space.port is None and not space.hosts:
        return ()
    default_port = DEFAULT_PORT if space.port is None else max(space.port, 0)
    addresses = [address for word in space.hosts for address in re.split("[,;]", word)] or [DEFAULT_HOST]
    if len(addresses) > _ADDRESSES_MAX:
        raise UsageError(f"-l: at most {_ADDRESSES_MAX} addresses, not {len(addresses)}; listen on * instead")
    endpoints = []
    for address in addresses:
        try:
            host, port = arguments.host_port(address.strip().removeprefix(_PLAIN))
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"-l: {error}") from None
        tls = space.tls and not address.strip().startswith(_PLAIN)
        endpoints.append(Endpoint(host, default_port if port is None else port, tls))
    return tuple(endpoints)


def table_geometry(space: argparse.Namespace) -> Geometry:
    """What `shape`, `memory_bytes`, `max_item_bytes` and `feed_bytes` of `space` come to. UsageError."""
    try:
        if not space.shape:
            return _by_memory(space)
        numbers = [_positional(word) for word in space.shape]
        if len(numbers) != 2:
            raise UsageError(f"NUM_ELEMENTS ELEMENT_SIZE: give two numbers, not {' '.join(map(str, space.shape))!r}")
        if space.memory_bytes is not None or space.max_item_bytes is not None:
            raise UsageError("NUM_ELEMENTS ELEMENT_SIZE: they fix the size already; leave -m and -I out")
        return Geometry.by_elements(numbers[0], numbers[1], space.feed_bytes)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _positional(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise UsageError(f"NUM_ELEMENTS ELEMENT_SIZE: {word!r} is neither a number nor a command ('{PROGRAM} --help' lists them)") from None


def _by_memory(space: argparse.Namespace) -> Geometry:
    memory_bytes = DEFAULT_MEMORY_BYTES if space.memory_bytes is None else space.memory_bytes
    if space.max_item_bytes is None:
        return Geometry.by_memory(memory_bytes, default_max_item(memory_bytes), space.feed_bytes)
    if not KIB <= space.max_item_bytes <= KIB * MIB:
        raise UsageError(f"-I: the largest item must be from 1k to 1024m, not {space.max_item_bytes} bytes")
    return Geometry.by_memory(memory_bytes, space.max_item_bytes, space.feed_bytes)
