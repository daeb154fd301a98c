"""Versions: the package's own, and the one that clients on a socket see."""

from __future__ import annotations

__version__ = "0.1.0"

#: Proxies and libmemcached want digits first and compare them with memcached's; the rest tells who we are.
WIRE_VERSION = f"1.6.45-shm-{__version__}"
