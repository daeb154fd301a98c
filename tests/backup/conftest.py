"""Tables to back up and to restore to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.backups import GEOMETRIES, fill
from support.servers import Daemon

import memcache_shm


@pytest.fixture(params=GEOMETRIES, ids=["memory", "elements"])
def shape(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


@pytest.fixture
def source(state_dir: Path, shape: dict[str, Any]) -> Iterator[memcache_shm.Cache]:
    """The table "source", with an item of every kind."""
    with memcache_shm.open("source", **shape) as cache:
        fill(cache)
        yield cache


@pytest.fixture
def target(state_dir: Path) -> Iterator[memcache_shm.Cache]:
    """The table "target", empty."""
    with memcache_shm.open("target", memory="32m", max_item="4m") as cache:
        yield cache


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An empty directory."""
    directory = tmp_path / "here"
    directory.mkdir()
    return directory


@pytest.fixture
def ours(daemon_with: Callable[..., Daemon]) -> Iterator[Daemon]:
    """Our daemon, empty."""
    daemon = daemon_with("-m", "64", "-n", "48")
    daemon.flush()
    yield daemon
    daemon.flush()
