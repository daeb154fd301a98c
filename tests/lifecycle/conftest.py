"""Every test here ends with an empty host: no segment, no semaphore set, no process of its own. Also here: a leader and its follower."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.client import Client
from support.following import await_copies, follower_of
from support.isolation import ipc_ids
from support.saving import LATER
from support.servers import Daemon


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


@pytest.fixture
def leader(state_dir: Path) -> Iterator[Daemon]:
    with Daemon("--name", "lead", "-m", "16", workers=2) as daemon:
        yield daemon


@pytest.fixture
def copy(leader: Daemon) -> Iterator[Daemon]:
    """A follower that is in step."""
    with Client(leader) as client:
        client.set(b"key", b"1")
    with follower_of(leader) as daemon:
        await_copies(daemon, 1)
        yield daemon


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file that `saver` saves to, in a directory of its own."""
    (tmp_path / "saves").mkdir()
    return tmp_path / "saves" / "table"


@pytest.fixture
def saver(state_dir: Path, path: Path) -> Callable[..., Daemon]:
    """A function that starts a daemon which saves to the file."""

    def start(*options: str, every: str = LATER, workers: int = 1, wait: bool = True, within: tuple[str, ...] = ()) -> Daemon:
        usual = ("--name", "app", "-m", "16", "-I", "4m", "--save", str(path), "--save-every", every)
        return Daemon(*usual, *options, workers=workers, wait=wait, within=within)

    return start
