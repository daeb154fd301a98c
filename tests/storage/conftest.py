"""Tables of a test: a state directory of its own, and tables without a name that go with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memcache_shm.storage import registry, statefile
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.table import Table


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this test's named tables are; they are removed at its end."""
    directory = tmp_path / "tables"
    monkeypatch.setenv("MEMCACHE_SHM_DIR", str(directory))
    yield directory
    for name in statefile.names_in(str(directory)):
        registry.remove(name)


@pytest.fixture
def make_table() -> Iterator[Callable[..., Table]]:
    """A function that makes a table without a name."""
    made: list[Table] = []

    def make(geometry: Geometry, **options: object) -> Table:
        made.append(Table.create(geometry, **options))
        return made[-1]

    yield make
    for table in made:
        if not table.closed:
            table.destroy()
            table.close()
