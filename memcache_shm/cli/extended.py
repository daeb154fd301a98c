"""``-o``: memcached's list of names, each meant the same, without effect here, or refused with the reason.

The tables below are all there is to know about a name; the help lists them by kind.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from memcache_shm.cli import arguments
from memcache_shm.cli.messages import UsageError

_Type = Callable[[str], Any]


@dataclass(frozen=True)
class _Meant:
    """A name with an effect: it sets `target`, to `fixed` where it takes no value."""

    target: str
    parse: _Type | None = None
    fixed: bool = True


@dataclass(frozen=True)
class Extended:
    """What all ``-o`` come to."""

    maxconns_fast: bool = True
    idle_timeout_s: int = 0
    track_sizes: bool = False
    allow_debugtime: bool = False
    #: MiB of all buffers; 0: the default.
    buffer_limit: int = 0
    #: Fields of `TlsOptions`.
    tls: dict[str, Any] = field(default_factory=dict)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _one_of(*names: str) -> Callable[[str], int]:
    """The type of a choice by name or by its place in the list."""

    def parse(text: str) -> int:
        places = {name: place for place, name in enumerate(names)} | {str(place): place for place in range(len(names))}
        if text.lower() not in places:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(names)}, not {text!r}")
        return places[text.lower()]

    return parse


def _tls_version(text: str) -> str:
    names = ("tlsv1.0", "tlsv1.1", "tlsv1.2", "tlsv1.3")
    return names[_one_of(*names)(text)]


def _pem(text: str) -> str:
    if text.lower() not in ("pem", "1"):
        raise argparse.ArgumentTypeError(f"only PEM is read, not {text!r}; convert the key with 'openssl pkey'")
    return text


_count = arguments.whole(0, 2**31 - 1)

MEANT = {
    "maxconns_fast": _Meant("maxconns_fast"),
    "no_maxconns_fast": _Meant("maxconns_fast", fixed=False),
    "idle_timeout": _Meant("idle_timeout_s", _count),
    "track_sizes": _Meant("track_sizes"),
    "debugtime": _Meant("allow_debugtime"),
    "read_buf_mem_limit": _Meant("buffer_limit", arguments.whole(0, 2**20)),
    "ssl_chain_cert": _Meant("tls.chain_cert", str),
    "ssl_key": _Meant("tls.key", str),
    "ssl_ca_cert": _Meant("tls.ca_cert", str),
    "ssl_verify_mode": _Meant("tls.verify_mode", _one_of("none", "request", "require", "once")),
    "ssl_min_version": _Meant("tls.min_version", _tls_version),
    "ssl_ciphers": _Meant("tls.ciphers", str),
}

#: The type of the value, None where there is none or it does not matter.
WITHOUT_EFFECT: dict[str, _Type | None] = {
    "modern": None,
    "no_modern": None,
    "drop_privileges": None,
    "no_drop_privileges": None,
    "relaxed_privileges": None,
    "expirezero_does_not_evict": None,
    "hashpower": arguments.whole(12, 63),
    "no_hashexpand": None,
    "hash_algorithm": _one_of("jenkins", "murmur3", "xxh3"),
    "tail_repair_time": _count,
    "lru_crawler": None,
    "no_lru_crawler": None,
    "lru_crawler_sleep": _count,
    "lru_crawler_tocrawl": _count,
    "lru_maintainer": None,
    "no_lru_maintainer": None,
    "hot_lru_pct": _count,
    "warm_lru_pct": _count,
    "hot_max_factor": _number,
    "warm_max_factor": _number,
    "temporary_ttl": _count,
    "slab_reassign": None,
    "no_slab_reassign": None,
    "slab_automove": None,
    "no_slab_automove": None,
    "slab_automove_ratio": _number,
    "slab_automove_window": _count,
    "slab_automove_freeratio": _number,
    "slab_chunk_max": _count,
    "slab_sizes": str,
    "no_chunked_items": None,
    "resp_obj_mem_limit": _count,
    "watcher_logbuf_size": _count,
    "worker_logbuf_size": _count,
    "inline_ascii_resp": None,
    "no_inline_ascii_resp": None,
    "sock_cookie_id": _count,
    "ssl_keyformat": _pem,
    "ssl_wbuf_size": _count,
    "ssl_kernel_tls": None,
    "ssl_session_cache": None,
}

#: Names by their beginning, and why not.
REFUSED = {
    "ext_": "there is no external storage, all items are in memory; leave it out and choose -m by what is to be kept",
    "proxy_": "it is no proxy; leave it out, and let clients or memcached's proxy choose among servers",
}


def parse(lists: Iterable[str]) -> Extended:
    """What the words after ``-o`` mean, the last one of a name winning. Raises UsageError."""
    told: dict[str, Any] = {}
    for word in (word for text in lists for word in text.strip().split(",")):
        name, equals, value = word.partition("=")
        name = name.strip()
        if name in MEANT:
            meant = MEANT[name]
            told[meant.target] = meant.fixed if meant.parse is None else _value(name, meant.parse, value)
        elif name in WITHOUT_EFFECT:
            parser = WITHOUT_EFFECT[name]
            if parser is not None:
                _value(name, parser, value)
        elif word or equals:
            raise UsageError(_why_not(name))
    tls = {target.removeprefix("tls."): value for target, value in told.items() if target.startswith("tls.")}
    return Extended(**{target: value for target, value in told.items() if not target.startswith("tls.")}, tls=tls)


def _value(name: str, parser: _Type, text: str) -> Any:
    if not text:
        raise UsageError(f"-o {name}: needs a value; write {name}=VALUE")
    try:
        return parser(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"-o {name}: {error}") from None


def _why_not(name: str) -> str:
    reason = next((reason for beginning, reason in REFUSED.items() if name.startswith(beginning)), None)
    return f"-o {name}: {reason or 'no such option; --help lists them'}"
