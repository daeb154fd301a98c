"""``stats settings``: what the daemon was told at its start, by memcached's names and in its order.

A name of what has no counterpart here (slabs, the LRU's segments, the maintainer's threads) says off or 0.
"""

from __future__ import annotations

from collections.abc import Iterator

from memcache_shm.server.config import ServerConfig
from memcache_shm.server.counters import Counters
from memcache_shm.server.tls import TlsOptions
from memcache_shm.storage.table import Table

Setting = tuple[str, object]
_PEM = 1  # OpenSSL's SSL_FILETYPE_PEM


def settings(config: ServerConfig, counters: Counters, table: Table) -> Iterator[Setting]:
    """Names and values, in order."""
    yield from _doors(config, counters, table)
    yield from _requests(config, counters, table)
    yield from _table(config, counters)
    yield from _connections(config, counters)
    yield from _tls(config.tls)
    yield "num_napi_ids", "(null)"
    yield "memory_file", "(null)"
    yield "client_flags_size", 4


def _doors(config: ServerConfig, counters: Counters, table: Table) -> Iterator[Setting]:
    addresses = [listener.address for listener in config.listeners]
    inet = [address for address in addresses if not address.path]
    yield "maxbytes", table.stats()["limit_maxbytes"]
    yield "maxconns", config.max_connections
    yield "tcpport", inet[0].port if inet else 0
    yield "udpport", 0
    yield "inter", ",".join(address.host for address in inet) or "NULL"
    yield "verbosity", counters.verbosity
    yield "oldest", 0
    yield "evictions", "on" if table.evicts else "off"
    yield "domain_socket", next((address.path for address in addresses if address.path), "NULL")
    yield "umask", f"{config.unix_mask:o}"


def _requests(config: ServerConfig, counters: Counters, table: Table) -> Iterator[Setting]:
    yield "shutdown_command", _yes(config.allow_shutdown)
    yield "growth_factor", "1.00"
    yield "chunk_size", 48
    yield "num_threads", config.workers
    yield "num_threads_per_udp", 0
    yield "stat_key_prefix", config.prefix_delimiter
    yield "detail_enabled", _yes(counters.events.detail)
    yield "reqs_per_event", config.requests_per_event
    yield "cas_enabled", _yes(config.use_cas)
    yield "tcp_backlog", config.backlog
    yield "binding_protocol", "ascii"
    yield "auth_enabled_sasl", "no"
    yield "auth_enabled_ascii", config.auth_file or "no"
    yield "item_size_max", table.max_value
    yield "maxconns_fast", _yes(config.maxconns_fast)
    yield "hashpower_init", 0


def _table(config: ServerConfig, counters: Counters) -> Iterator[Setting]:
    crawler, sleep_us, tocrawl = counters.events.crawler()
    yield "slab_reassign", "no"
    yield "slab_automove", 0
    yield "slab_automove_ratio", "0.00"
    yield "slab_automove_window", 0
    yield "slab_automove_freeratio", "0.000"
    yield "slab_chunk_max", 0
    yield "lru_crawler", _yes(crawler)
    yield "lru_crawler_sleep", sleep_us
    yield "lru_crawler_tocrawl", tocrawl
    yield "tail_repair_time", 0
    yield "flush_enabled", _yes(config.allow_flush)
    yield "dump_enabled", _yes(config.allow_dump)
    yield "hash_algorithm", "siphash13"
    yield "lru_maintainer_thread", "no"
    yield "lru_segmented", "no"
    yield "hot_lru_pct", 0
    yield "warm_lru_pct", 0
    yield "hot_max_factor", "0.00"
    yield "warm_max_factor", "0.00"
    yield "temp_lru", "no"
    yield "temporary_ttl", 0


def _connections(config: ServerConfig, counters: Counters) -> Iterator[Setting]:
    yield "idle_timeout", config.idle_timeout_s
    yield "watcher_logbuf_size", 0
    yield "worker_logbuf_size", 0
    yield "read_buf_mem_limit", config.buffer_limit_bytes >> 20
    yield "track_sizes", _yes(counters.events.sizes)
    yield "inline_ascii_response", "no"


def _tls(tls: TlsOptions | None) -> Iterator[Setting]:
    told = tls or TlsOptions(chain_cert="")
    yield "ssl_enabled", _yes(tls is not None)
    yield "ssl_chain_cert", told.chain_cert or "(null)"
    yield "ssl_key", told.key or "(null)"
    yield "ssl_verify_mode", told.verify_mode
    yield "ssl_keyformat", _PEM
    yield "ssl_ciphers", told.ciphers or "NULL"
    yield "ssl_ca_cert", told.ca_cert or "NULL"
    yield "ssl_wbuf_size", 0
    yield "ssl_session_cache", _yes(tls is not None)  # by tickets, always
    yield "ssl_kernel_tls", "no"
    yield "ssl_min_version", told.min_version


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
