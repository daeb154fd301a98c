"""Tables to begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.servers import Daemon

import memcache_shm


def pytest_configure(config: pytest.Config) -> None:
    """pymemcache's tests, which `test_pymemcache` borrows, carry a mark of their own."""
    config.addinivalue_line("markers", "integration: a test of pymemcache's")


@pytest.fixture
def cache(state_dir: Path) -> Iterator[memcache_shm.Cache]:
    """An empty cache of 1 MiB."""
    with memcache_shm.open("test", memory="1m", max_item="64k") as cache:
        yield cache


@pytest.fixture
def roomy(state_dir: Path) -> Iterator[memcache_shm.Cache]:
    """An empty cache whose feed takes thousands of changes before a listener would be too late."""
    with memcache_shm.open("roomy", memory="4m", feed="1m") as cache:
        yield cache


@pytest.fixture(params=["attached", "tcp", "unix", "channel", "write-through"])
def opened(request: pytest.FixtureRequest, daemon_with: Callable[..., Daemon]) -> Iterator[Callable[..., memcache_shm.Cache]]:
    """A function that gives a cache object with these options, of one table of 1 MiB that is empty at first; through each door."""
    door: str = request.param
    with ExitStack() as stack:
        if door == "attached":
            request.getfixturevalue("state_dir")
            yield lambda **options: stack.enter_context(memcache_shm.open("test", memory="1m", max_item="64k", **options))
            return
        daemon = daemon_with("-m", "1", "-I", "64k", workers=2)
        daemon.flush()

        def give(**options: Any) -> Any:
            if door == "write-through":
                return stack.enter_context(memcache_shm.attach(daemon.name, readonly=True, writes=daemon.unix_path, **options))
            return stack.enter_context(memcache_shm.connect(daemon.addresses[door], **options))

        yield give


@pytest.fixture(params=["attached", "tcp", "unix", "channel"])
def source(request: pytest.FixtureRequest, daemon_with: Callable[..., Daemon]) -> Iterator[tuple[str, memcache_shm.Cache]]:
    """A source as users write it, and the table behind it, empty."""
    daemon = daemon_with("-m", "16", workers=2)
    with memcache_shm.attach(daemon.name) as cache:
        cache.flush_all()
        yield (daemon.addresses | {"attached": daemon.name})[request.param], cache
