"""Tables of a test: a state directory of its own, and tables without a name that go with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.table import Table


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
