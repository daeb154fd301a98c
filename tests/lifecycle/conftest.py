"""Every test here ends with an empty host: no segment, no semaphore set, no process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.isolation import ipc_ids


@pytest.fixture(autouse=True)
def _nothing_is_left(no_leaks: None) -> None:
    """Checked after each test."""


@pytest.fixture
def made_here() -> Callable[[], dict[str, set[int]]]:
    """A function that lists the segments and semaphore sets that came since the test began; daemons shared by tests have others."""
    before = ipc_ids()
    return lambda: {kind: ids - before[kind] for kind, ids in ipc_ids().items()}


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's tables are registered."""
    directory = tmp_path / "tables"
    monkeypatch.setenv("MEMCACHE_SHM_DIR", str(directory))
    return directory
