"""A daemon that serves named pipes, shared by the tests of a process, and its table attached and empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.pipes import PipeDaemon

import memcache_shm


@pytest.fixture(scope="module")
def piped() -> Iterator[PipeDaemon]:
    with PipeDaemon("-m", "16", workers=2) as daemon:
        yield daemon


@pytest.fixture
def cache(piped: PipeDaemon) -> Iterator[memcache_shm.Cache]:
    with memcache_shm.attach(piped.name) as cache:
        cache.flush_all()
        yield cache
