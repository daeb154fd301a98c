"""The daemon's options: memcached's letters mean what they mean there."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

from memcache_shm.cli import arguments
from memcache_shm.cli.messages import PROGRAM, UsageError
from memcache_shm.server.listeners import Endpoint
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.units import DEFAULT_MEMORY_BYTES, KIB, MIB, default_max_item
from memcache_shm.version import WIRE_VERSION, __version__

DEFAULT_PORT = 11211
DEFAULT_HOST = "127.0.0.1"

_DESCRIPTION = """\
Serve a key/value table in System V shared memory to memcached clients over TCP and UNIX
sockets. Programs on this host can map the same table: memcache_shm.attach("NAME").

  memcache-shm [options]                             as much as fits into -m
  memcache-shm [options] NUM_ELEMENTS ELEMENT_SIZE   exactly NUM_ELEMENTS items up to ELEMENT_SIZE bytes
"""
_EXAMPLES = """\
examples:
  memcache-shm                            64 MiB on 127.0.0.1:11211, as memcached
  memcache-shm 1024 256                   1024 items of up to 256 bytes
  memcache-shm -m 1g -I 8m -l 0.0.0.0     1 GiB, values up to 8 MiB, every interface
  memcache-shm -s /run/cache.sock -a 770  a UNIX socket only
  memcache-shm -p 0 --name app --keep     a free port; the table stays at the end

other commands ('memcache-shm COMMAND --help'):
"""


@dataclass(frozen=True)
class Options:
    """What the words of the command line come to."""

    endpoints: tuple[Endpoint, ...]  # empty: no TCP
    unix_path: str | None
    unix_mask: int
    geometry: Geometry
    evict: bool
    max_connections: int
    workers: int
    verbosity: int
    name: str | None  # None: made of the port or the socket
    keep: bool
    mode: int
    stuck_s: int  # 0: never


def parse(words: Sequence[str], commands: str) -> Options:
    """The options meant by `words`; `commands` lists the verbs for the help. Raises UsageError; exits after -h and -V."""
    space = _parser(commands).parse_args(arguments.split_words(words))
    return Options(
        endpoints=_endpoints(space),
        unix_path=space.unix_path,
        unix_mask=space.unix_mask,
        geometry=_geometry(space),
        evict=space.evict,
        max_connections=space.max_connections,
        workers=space.workers,
        verbosity=space.verbosity,
        name=space.name,
        keep=space.keep,
        mode=space.mode,
        stuck_s=space.stuck_s,
    )


def _parser(commands: str) -> arguments.Parser:
    parser = arguments.Parser(PROGRAM, _DESCRIPTION, _EXAMPLES + commands, add_help=False)
    parser.usage = argparse.SUPPRESS  # the description shows both forms
    _add_listening(parser.add_argument_group("where to listen"))
    _add_table(parser.add_argument_group("the table"))
    _add_process(parser.add_argument_group("the daemon"))
    return parser


def _add_listening(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-p",
        "--port",
        type=arguments.whole(0, 65535),
        metavar="PORT",
        help=f"TCP port, 0 for a free one (default {DEFAULT_PORT})",
    )
    group.add_argument(
        "-l",
        "--listen",
        dest="hosts",
        action="append",
        default=[],
        metavar="ADDR",
        help=f"HOST, HOST:PORT, [V6]:PORT or * for all; more with commas or another -l (default {DEFAULT_HOST})",
    )
    group.add_argument(
        "-s", "--unix-socket", dest="unix_path", metavar="PATH", help="UNIX socket; without TCP unless -p or -l is given, too"
    )
    group.add_argument(
        "-a",
        "--unix-mask",
        dest="unix_mask",
        type=arguments.octal,
        default=0o700,
        metavar="MASK",
        help="access mask of the UNIX socket, octal (default 700)",
    )


def _add_table(group: argparse._ArgumentGroup) -> None:
    group.add_argument("shape", nargs="*", metavar="NUM_ELEMENTS ELEMENT_SIZE", help="instead of -m and -I: this many items of this size")
    group.add_argument(
        "-m",
        "--memory-limit",
        dest="memory_bytes",
        type=arguments.size(MIB),
        metavar="MIB",
        help=f"size of the whole segment in MiB, or with k, m, g (default {DEFAULT_MEMORY_BYTES // MIB})",
    )
    group.add_argument(
        "-I",
        "--max-item-size",
        dest="max_item_bytes",
        type=arguments.size(1),
        metavar="SIZE",
        help="largest value in bytes, or with k, m, g (default 1m; from 1k to 1024m)",
    )
    group.add_argument(
        "-M",
        "--disable-evictions",
        dest="evict",
        action="store_false",
        help="refuse when the table is full instead of evicting",
    )
    group.add_argument("--name", type=arguments.table_name, metavar="NAME", help="the table's name for attach (default memcache_shm-PORT)")
    group.add_argument("--keep", action="store_true", help="leave the table at the end; the next start takes it over")
    group.add_argument(
        "--mode",
        type=arguments.octal,
        default=0o600,
        metavar="MODE",
        help="who may attach the table, octal permissions (default 600)",
    )


def _add_process(group: argparse._ArgumentGroup) -> None:
    cpus = len(os.sched_getaffinity(0))
    group.add_argument(
        "-c",
        "--conn-limit",
        dest="max_connections",
        type=arguments.whole(1, 2**20),
        default=1024,
        metavar="NUM",
        help="connections at the same time (default 1024)",
    )
    group.add_argument(
        "-t",
        "--threads",
        dest="workers",
        type=arguments.whole(1, 1024),
        default=cpus,
        metavar="NUM",
        help=f"worker processes (default: one a CPU, here {cpus})",
    )
    group.add_argument(
        "--stuck-s",
        type=_stuck_s,
        default=10,
        metavar="SECONDS",
        help="report a worker without a sign of life for so long, abort it after twice, kill it after three times (default 10; 0: never)",
    )
    group.add_argument("-v", "--verbose", dest="verbosity", action="count", default=0, help="say more on standard error; -vv more still")
    group.add_argument(
        "-V",
        "--version",
        action="version",
        version=f"{PROGRAM} {__version__} (on the wire {WIRE_VERSION})",
        help="print the version",
    )
    group.add_argument("-h", "--help", action="help", help="print this help")


def _stuck_s(text: str) -> int:
    """The type of --stuck-s. A wait for a shard's lock may last 1 s, so that a lower limit would meet workers that only wait."""
    return 0 if text.strip() == "0" else arguments.whole(2, 86400, " (or 0: never)")(text)


def _endpoints(space: argparse.Namespace) -> tuple[Endpoint, ...]:
    if space.unix_path is not None and space.port is None and not space.hosts:
        return ()
    default_port = DEFAULT_PORT if space.port is None else space.port
    addresses = [address for word in space.hosts for address in word.split(",")] or [DEFAULT_HOST]
    endpoints = []
    for address in addresses:
        try:
            host, port = arguments.host_port(address)
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"-l: {error}") from None
        endpoints.append(Endpoint(host, default_port if port is None else port))
    return tuple(endpoints)


def _geometry(space: argparse.Namespace) -> Geometry:
    try:
        if not space.shape:
            return _by_memory(space)
        numbers = [_positional(word) for word in space.shape]
        if len(numbers) != 2:
            raise UsageError(f"NUM_ELEMENTS ELEMENT_SIZE: give two numbers, not {' '.join(space.shape)!r}")
        if space.memory_bytes is not None or space.max_item_bytes is not None:
            raise UsageError("NUM_ELEMENTS ELEMENT_SIZE: they fix the size already; leave -m and -I out")
        return Geometry.by_elements(*numbers)
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
        return Geometry.by_memory(memory_bytes, default_max_item(memory_bytes))
    if not KIB <= space.max_item_bytes <= KIB * MIB:
        raise UsageError(f"-I: the largest item must be from 1k to 1024m, not {space.max_item_bytes} bytes")
    return Geometry.by_memory(memory_bytes, space.max_item_bytes)
