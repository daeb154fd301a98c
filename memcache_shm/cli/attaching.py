"""Attaching the table that a command line names, with errors of one line that tell what to do."""

from __future__ import annotations

from memcache_shm.cli.messages import PROGRAM
from memcache_shm.client.api import attach
from memcache_shm.client.cache import Cache
from memcache_shm.errors import MemcacheError, TableNotFoundError


def attach_named(name: str, readonly: bool, denied: str) -> Cache:
    """The table `name`. MemcacheError when there is none, and with `denied` as its cause where the rights are missing."""
    try:
        return attach(name, readonly=readonly)
    except TableNotFoundError as problem:
        raise MemcacheError(f"{str(problem).partition(';')[0]}; '{PROGRAM} ls' shows what there is") from None
    except PermissionError:
        raise MemcacheError(f"{denied}; run it as the table's owner") from None
