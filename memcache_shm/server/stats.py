"""The text of ``stats``: the daemon's figures and the table's, by memcached's names.

Monitors fail as a whole when one name is missing, so every name is printed; one that has no meaning here is 0.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import Protocol

from memcache_shm.server.config import ServerConfig
from memcache_shm.server.counters import Counters
from memcache_shm.server.groups import connection_lines, item_lines, prefix_lines, slab_lines
from memcache_shm.server.rusage import daemon_seconds
from memcache_shm.server.settings import settings
from memcache_shm.storage.following import figures
from memcache_shm.storage.occupancy import free_space
from memcache_shm.version import WIRE_VERSION

#: Plain ``stats``, in memcached 1.6.45's order.
NAMES = tuple(
    """pid uptime time version libevent pointer_size rusage_user rusage_system max_connections curr_connections
    total_connections rejected_connections connection_structures response_obj_oom response_obj_count response_obj_bytes
    read_buf_count read_buf_bytes read_buf_bytes_free read_buf_oom reserved_fds cmd_get cmd_set cmd_flush cmd_touch cmd_meta
    get_hits get_misses get_expired get_flushed delete_misses delete_hits incr_misses incr_hits decr_misses decr_hits
    cas_misses cas_hits cas_badval touch_hits touch_misses store_too_large store_no_memory auth_cmds auth_errors bytes_read
    bytes_written limit_maxbytes accepting_conns listen_disabled_num time_in_listen_disabled_us threads conn_yields
    hash_power_level hash_bytes hash_is_expanding slab_reassign_rescues slab_reassign_chunk_rescues
    slab_reassign_inline_reclaim slab_reassign_busy_items slab_reassign_busy_deletes slab_reassign_busy_nomem
    slab_reassign_last_busy_status slab_reassign_running slabs_moved malloc_fails log_worker_dropped log_worker_written
    log_watcher_skipped log_watcher_sent log_watchers unexpected_napi_ids round_robin_fallback bytes curr_items total_items
    slab_global_page_pool expired_unfetched evicted_unfetched evictions reclaimed crawler_reclaimed crawler_items_checked
    lrutail_reflocked""".split()
)

#: With TLS (``-Z``), before this one.
TLS_NAMES = ("ssl_new_sessions", "ssl_handshake_errors", "ssl_proto_errors", "time_since_server_cert_refresh")
_BEFORE = NAMES.index("unexpected_napi_ids")

#: What ``stats reset`` sets back, by taking off what was there.
EVENTS = tuple(
    """cmd_set cmd_flush cmd_touch get_hits get_misses get_expired get_flushed delete_misses delete_hits incr_misses incr_hits
    decr_misses decr_hits cas_misses cas_hits cas_badval touch_hits touch_misses store_too_large store_no_memory bytes_read
    bytes_written total_items expired_unfetched evicted_unfetched evictions reclaimed total_connections rejected_connections
    crawler_reclaimed crawler_items_checked cmd_meta conn_yields listen_disabled_num idle_kicks auth_cmds auth_errors log_worker_dropped
    log_worker_written log_watcher_skipped log_watcher_sent""".split()
)

_END = b"END\r\n"


class _Printer(Protocol):
    def __call__(self, words: list[bytes]) -> bytes: ...


def _lines(figures: Iterable[tuple[str, object]]) -> bytes:
    return "".join(f"STAT {name} {figure}\r\n" for name, figure in figures).encode() + _END


def forget_table(counters: Counters) -> None:
    """A new table counts from 0: after a reset only what the daemon itself counts is still taken off."""
    own = counters.sums()
    counters.set_base([base if name in own else 0 for name, base in zip(EVENTS, counters.base(), strict=False)])


class StatsPrinter:
    """Called with what followed the word ``stats``; returns the whole reply."""

    def __init__(self, config: ServerConfig, counters: Counters) -> None:
        self._config = config
        self._counters = counters
        #: The one that is served now; a removed table has a successor.
        self.table = config.table
        self._groups: dict[bytes, _Printer] = {
            b"": self._plain,
            b"settings": self._settings,
            b"items": self._items,
            b"slabs": self._slabs,
            b"sizes_enable": self._sizes_switch,
            b"sizes_disable": self._sizes_switch,
            b"conns": self._conns,
            b"detail": self._detail,
            b"reset": self._reset,
            b"shm": self._shm,
        }

    def __call__(self, rest: bytes) -> bytes:
        words = rest.split() or [b""]
        printer = self._groups.get(words[0])
        return printer(words) if printer is not None else b"ERROR\r\n"

    def _all(self) -> dict[str, int]:
        """The table's figures and the daemon's; a name of both is their sum."""
        figures = dict(self.table.stats())
        for name, figure in self._counters.sums().items():
            figures[name] = figures.get(name, 0) + figure
        return figures

    def _since_reset(self) -> dict[str, int]:
        figures = self._all()
        for name, base in zip(EVENTS, self._counters.base(), strict=False):
            figures[name] = max(0, figures.get(name, 0) - base)
        figures["cmd_get"] = figures["get_hits"] + figures["get_misses"]
        return figures

    def _plain(self, words: list[bytes]) -> bytes:
        figures: dict[str, object] = dict(self._since_reset())
        figures |= self._process_figures()
        names = list(NAMES)
        if self._config.tls is not None:
            names[_BEFORE:_BEFORE] = TLS_NAMES
        if self._config.idle_timeout_s:
            names.insert(names.index("bytes_read"), "idle_kicks")
        return _lines((name, figures.get(name, 0)) for name in names)

    def _process_figures(self) -> Mapping[str, object]:
        """What plain ``stats`` says about the daemon itself."""
        user_s, system_s = daemon_seconds(os.getppid(), self._counters.pids())
        return {
            "pid": os.getppid(),
            "uptime": self._counters.uptime_s,
            "time": int(time.time()),
            "version": WIRE_VERSION,
            "libevent": "none",
            "pointer_size": 64,
            "rusage_user": f"{user_s:.6f}",
            "rusage_system": f"{system_s:.6f}",
            "max_connections": self._config.max_connections,
            "connection_structures": self._counters.sums()["curr_connections"],
            "accepting_conns": 1,
            "threads": self._config.workers,
            "time_since_server_cert_refresh": self._config.credentials.age_s,
        }

    def _settings(self, words: list[bytes]) -> bytes:
        return _lines(settings(self._config, self._counters, self.table))

    def _items(self, words: list[bytes]) -> bytes:
        return _lines(item_lines(self._since_reset(), self.table))

    def _slabs(self, words: list[bytes]) -> bytes:
        return _lines(slab_lines(self._since_reset(), self.table))

    def _conns(self, words: list[bytes]) -> bytes:
        addresses = [listener.address for listener in self._config.listeners]
        return _lines(connection_lines(self._counters.roster, addresses, self._counters.uptime_s))

    def _sizes_switch(self, words: list[bytes]) -> bytes:
        """``sizes_enable``, ``sizes_disable``. (``sizes`` itself walks through the table: a stream of the executor's.)"""
        self._counters.events.sizes = on = words[0] == b"sizes_enable"
        return _lines([("sizes_status", "enabled" if on else "disabled")])

    def _detail(self, words: list[bytes]) -> bytes:
        if not self._config.allow_dump:
            return b"CLIENT_ERROR stats detail not allowed\r\n"
        what = words[1] if len(words) > 1 else b""
        if what == b"dump":
            return prefix_lines(self._counters.prefixes) + _END
        if what not in (b"on", b"off"):
            return b"CLIENT_ERROR usage: stats detail on|off|dump\r\n"
        self._counters.events.detail = what == b"on"
        return b"OK\r\n"

    def _reset(self, words: list[bytes]) -> bytes:
        figures = self._all()
        self._counters.set_base([figures.get(name, 0) for name in EVENTS])
        self._counters.prefixes.clear()
        return b"RESET\r\n"

    def _shm(self, words: list[bytes]) -> bytes:
        table = self.table
        own = {name: figure for name, figure in self._all().items() if name.startswith("shm_")} | free_space(table)
        head = {"shm_uuid": table.uuid, "shm_id": table.shmid, "sem_id": table.semid, "geometry": table.geometry.describe()}
        pids = {f"worker_{which}_pid": pid for which, pid in enumerate(self._counters.pids())}
        saves = self._config.saves.figures() if self._config.saves is not None else {}
        return _lines({**head, **own, **saves, **figures(table), **pids}.items())
