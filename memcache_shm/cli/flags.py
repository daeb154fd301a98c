"""The words of the daemon's command line: every short and long option of memcached, and our own."""

from __future__ import annotations

import argparse
import os
import textwrap
from typing import Any, NoReturn

from memcache_shm.cli import arguments, extended
from memcache_shm.cli.licence import LICENCE
from memcache_shm.cli.messages import PROGRAM
from memcache_shm.storage.units import DEFAULT_MEMORY_BYTES, MIB
from memcache_shm.version import WIRE_VERSION, __version__

DEFAULT_PORT = 11211
DEFAULT_HOST = "127.0.0.1"
DEFAULT_SAVE_EVERY_S = 60
FIFO_SESSIONS = 8
FIFO_SESSIONS_MOST = 100  # three descriptors each

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
  memcache-shm --save /var/lib/cache.bak  loads that file at the start, saves to it each minute and at the end
  memcache-shm --follow cache-1:11211     a copy of another daemon's table, kept in step

other commands ('memcache-shm COMMAND --help'):
"""
_UDP = "there is no UDP (memcached's is off by default, too); leave it out, or write -U 0"
_SASL = "there is no SASL, which needs the binary protocol; use -Y FILE, or TLS with client certificates (-Z)"
_BINARY = "there is no binary protocol; let clients speak ASCII, which all of them do by default"
_MEMORY_FILE = "items are in shared memory already; use --keep, and the next start takes the table over"


def parser(commands: str) -> arguments.Parser:
    """The whole command line; `commands` lists the verbs for the help."""
    whole = arguments.Parser(PROGRAM, _DESCRIPTION, _EXAMPLES + commands, add_help=False)
    whole.usage = argparse.SUPPRESS  # the description shows both forms
    _add_listening(whole.add_argument_group("where to listen"))
    _add_table(whole.add_argument_group("the table"))
    _add_saving(whole.add_argument_group("saving the table"))
    _add_following(whole.add_argument_group("following another daemon"))
    add_pipes(whole.add_argument_group("sessions over named pipes"))
    _add_process(whole.add_argument_group("the daemon"))
    _add_start(whole.add_argument_group("its start"))
    _add_commands(whole.add_argument_group("what clients may do"))
    _add_others(whole)
    return whole


def _add_listening(group: argparse._ArgumentGroup) -> None:
    port = arguments.whole(-1, 65535)
    group.add_argument("-p", "--port", type=port, metavar="PORT", help=f"TCP port, 0 or -1 for a free one (default {DEFAULT_PORT})")
    group.add_argument(
        "-l",
        "--listen",
        dest="hosts",
        action="append",
        default=[],
        metavar="ADDR",
        help="HOST, HOST:PORT, [V6]:PORT or * for all, more with commas or another -l; notls: in front: this one without TLS"
        f" (default {DEFAULT_HOST})",
    )
    group.add_argument(
        "-s", "--unix-socket", dest="unix_path", metavar="PATH", help="UNIX socket; without TCP unless -p or -l is given, too"
    )
    group.add_argument(
        "-a",
        "--unix-mask",
        type=arguments.octal,
        default=0o700,
        metavar="MASK",
        help="access mask of the UNIX socket, octal (default 700)",
    )
    group.add_argument(
        "-b",
        "--listen-backlog",
        dest="backlog",
        type=arguments.whole(1, 2**20),
        default=1024,
        metavar="NUM",
        help="connections that wait to be accepted (default 1024; see net.core.somaxconn)",
    )
    group.add_argument("-Z", "--enable-ssl", dest="tls", action="store_true", help="TLS on TCP; needs -o ssl_chain_cert=FILE")


def _add_capacity(group: argparse._ArgumentGroup) -> None:
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


def _add_table(group: argparse._ArgumentGroup) -> None:
    _add_capacity(group)
    group.add_argument(
        "-M",
        "--disable-evictions",
        dest="evict",
        action="store_false",
        help="refuse when the table is full instead of evicting",
    )
    group.add_argument(
        "--feed",
        dest="feed_bytes",
        type=arguments.size(1),
        metavar="SIZE",
        help="memory for the feed of changes, in bytes or with k, m, g; 0: none (default 1/256 of the table's)",
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


def _add_saving(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--save",
        dest="save_path",
        metavar="FILE",
        help="save the table to FILE while it changes and at the end, whole or not at all; load it at the start into a new table",
    )
    group.add_argument(
        "--save-every",
        dest="save_every_s",
        type=arguments.whole(0, 31 * 86400, " (or 0: at the end only)"),
        metavar="SECONDS",
        help=f"how often, if something has changed; 0: at the end only (default {DEFAULT_SAVE_EVERY_S})",
    )
    group.add_argument(
        "--backup-dir", metavar="DIR", help="with -s: allow clients of that socket the command 'backup NAME', into files in DIR"
    )


def _add_following(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--follow",
        metavar="HOST:PORT|SOCKET|channel:SOCKET",
        help="fill the table from that daemon and keep it in step; it serves reads and refuses writes until 'promote NAME'",
    )
    group.add_argument("--follow-writable", action="store_true", help="take writes all the same; the daemon followed does not get them")


def add_pipes(group: argparse._ActionsContainer) -> None:
    """Those for sessions over named pipes."""
    group.add_argument(
        "--fifo",
        dest="fifo_path",
        metavar="PATH",
        help="make a registration pipe there, for 'pipe-client ID PATH' (SIGUSR1 ends all sessions)",
    )
    group.add_argument(
        "--fifo-sessions",
        type=arguments.whole(1, FIFO_SESSIONS_MOST),
        metavar="N",
        help=f"sessions at the same time, others wait (default {FIFO_SESSIONS})",
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
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
        "--channels",
        type=arguments.whole(0, 2**16),
        default=256,
        metavar="NUM",
        help="clients over shared memory at the same time, by way of -s; 0: none (default 256)",
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
        "-R",
        "--max-reqs-per-event",
        dest="requests_per_event",
        type=arguments.whole(1, 2**31 - 1),
        default=500,
        metavar="NUM",
        help="requests of one connection before others have their turn (default 500)",
    )


def _add_process(group: argparse._ArgumentGroup) -> None:
    _add_limits(group)
    group.add_argument("-k", "--lock-memory", action="store_true", help="keep all memory from being paged out")
    group.add_argument(
        "--stuck-s",
        type=_stuck_s,
        default=10,
        metavar="SECONDS",
        help="report a worker without a sign of life for so long, abort it after twice, kill it after three times (default 10; 0: never)",
    )
    group.add_argument(
        "-o",
        "--extended",
        action="append",
        default=[],
        metavar="LIST",
        help=f"names with commas between them: {', '.join(extended.MEANT)}; and those listed at the end",
    )


def _add_start(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-d", "--daemon", action="store_true", help="into the background; returns when the daemon serves")
    group.add_argument("-P", "--pidfile", dest="pid_path", metavar="FILE", help="write the daemon's pid there")
    group.add_argument("-u", "--user", metavar="USER", help="serve as USER (only when started as root)")
    group.add_argument("-r", "--enable-coredumps", dest="core_dumps", action="store_true", help="lift the limit of core dumps")
    group.add_argument("-v", "--verbose", dest="verbosity", action="count", default=0, help="say more on standard error; -vv more still")
    group.add_argument(
        "-V",
        "--version",
        action="version",
        version=f"{PROGRAM} {__version__} (on the wire {WIRE_VERSION})",
        help="print the version",
    )
    group.add_argument("-i", "--license", action=_PrintLicence, nargs=0, help="print the licence")
    group.add_argument("-h", "--help", action="help", help="print this help")


def _add_commands(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-A", "--enable-shutdown", dest="allow_shutdown", action="store_true", help="allow the command shutdown")
    group.add_argument("-F", "--disable-flush-all", dest="allow_flush", action="store_false", help="forbid flush_all")
    group.add_argument(
        "-X",
        "--disable-dumping",
        dest="allow_dump",
        action="store_false",
        help="forbid stats cachedump, lru_crawler metadump and sync (so mirrors and followers, too)",
    )
    group.add_argument("-W", "--disable-watch", dest="allow_watch", action="store_false", help="forbid watch and subscribe")
    group.add_argument("-C", "--disable-cas", dest="use_cas", action="store_false", help="no CAS ids")
    group.add_argument("-D", dest="delimiter", type=_delimiter, metavar="CHAR", help="ends a key's prefix (default :); stats detail is on")
    group.add_argument("-Y", "--auth-file", metavar="FILE", help="ask for a user and a password, of the lines user:password in FILE")


def _add_others(whole: arguments.Parser) -> None:
    """What is accepted without effect, and what is refused; the help lists both in short."""
    names = ", ".join(extended.WITHOUT_EFFECT)
    text = f"-f FACTOR, -n BYTES, -L, -N NUM, -U 0, -B ascii, -B auto, -o with: {names}"
    group = whole.add_argument_group("accepted without effect, since memcached has them", textwrap.fill(text, 110))
    hidden: dict[str, Any] = {"help": argparse.SUPPRESS}
    group.add_argument("-f", "--slab-growth-factor", type=_growth_factor, **hidden)
    group.add_argument("-n", "--slab-min-size", type=arguments.whole(1, 2**31 - 1), **hidden)
    group.add_argument("-L", "--enable-largepages", action="store_true", **hidden)
    group.add_argument("-N", "--napi-ids", "--napi_ids", type=arguments.whole(1, 2**31 - 1), **hidden)
    group.add_argument("-U", "--udp-port", type=_udp_port, **hidden)
    group.add_argument("-B", "--protocol", type=_protocol, **hidden)
    beginnings = " and ".join(f"-o {beginning}..." for beginning in extended.REFUSED)
    group = whole.add_argument_group(f"refused, with the reason: -U PORT, -B binary, -S, -e FILE, {beginnings}")
    group.add_argument("-S", "--enable-sasl", action=_Refuse, nargs=0, const=_SASL, **hidden)
    group.add_argument("-e", "--memory-file", action=_Refuse, const=_MEMORY_FILE, **hidden)


class _Refuse(argparse.Action):
    """An option that memcached has and that would be missed if it were ignored; `const` says why not."""

    def __call__(self, parser: argparse.ArgumentParser, space: object, values: object, option: str | None = None) -> NoReturn:
        raise argparse.ArgumentError(self, str(self.const))


class _PrintLicence(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, space: object, values: object, option: str | None = None) -> NoReturn:
        print(LICENCE, end="")
        parser.exit()


def _stuck_s(text: str) -> int:
    """The type of --stuck-s. A wait for a shard's lock may last 1 s, so that a lower limit would meet workers that only wait."""
    return 0 if text.strip() == "0" else arguments.whole(2, 86400, " (or 0: never)")(text)


def _udp_port(text: str) -> int:
    if arguments.whole(0, 65535)(text):
        raise argparse.ArgumentTypeError(_UDP)
    return 0


def _protocol(text: str) -> str:
    if text.strip() == "binary":
        raise argparse.ArgumentTypeError(_BINARY)
    if text.strip() not in ("ascii", "auto"):
        raise argparse.ArgumentTypeError(f"must be ascii or auto, not {text!r}")
    return text.strip()


def _delimiter(text: str) -> str:
    if len(text.encode(errors="surrogateescape")) != 1:
        raise argparse.ArgumentTypeError(f"must be one character, not {text!r}")
    return text


def _growth_factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not factor > 1:
        raise argparse.ArgumentTypeError(f"must be a number above 1, not {text!r}")
    return factor
