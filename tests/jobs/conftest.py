"""A state directory of its own for every test, with nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memcache_shm.storage import registry, statefile


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this test's tables are; they are removed at its end."""
    directory = tmp_path / "tables"
    monkeypatch.setenv("MEMCACHE_SHM_DIR", str(directory))
    yield directory
    for name in statefile.names_in(str(directory)):
        registry.remove(name)
