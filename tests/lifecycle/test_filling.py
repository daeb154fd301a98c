"""A table that a start fills from a file: nobody finds it before it is full, and what ends that."""

from __future__ import annotations

import errno
import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.backups import fill
from support.isolation import ipc_ids
from support.tables import names, verb

import memcache_shm
from memcache_shm.cli.saving import Saving, StoppedError
from memcache_shm.client.local import LocalTable
from memcache_shm.errors import BackupError, TableNotFoundError
from memcache_shm.storage import registry
from memcache_shm.storage.claiming import Claim
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.table import Table

MIB = 1 << 20
APP = functools.partial(memcache_shm.attach, "app")
GEOMETRY = Geometry.by_memory(16 * MIB, 4 * MIB)


@pytest.fixture
def cache(state_dir: Path) -> Iterator[memcache_shm.Cache]:
    with memcache_shm.open("app", memory="16m", max_item="4m") as cache:
        yield cache
    memcache_shm.unlink("app")


def fill_and_die(table: Table, name: str, directory: str) -> None:
    LocalTable(table, name, directory).set(b"key", b"value")
    print("filling", flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)


def test_nobody_finds_a_table_that_is_being_filled(state_dir: Path) -> None:
    """Nor one whose maker was killed amid that: the next one begins with an empty table, and nothing is left of the first."""
    before = ipc_ids()
    program = "from lifecycle.test_filling import *; registry.claim('app', GEOMETRY, fill=fill_and_die)"
    env = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}"}
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as maker:
        assert maker.stdout is not None
        assert maker.stdin is not None
        assert maker.stdout.readline() == b"filling\n"
        with pytest.raises(TableNotFoundError):
            memcache_shm.attach("app")
        assert names(state_dir) == []
        assert "unfinished" in verb("ls").stdout
        maker.stdin.close()
        assert maker.wait() == -signal.SIGKILL
    claim = registry.claim("app", GEOMETRY)
    assert not claim.adopted
    assert len(claim.table) == 0
    assert {kind: len(ids - before[kind]) for kind, ids in ipc_ids().items()} == {"shm": 1, "sem": 1}
    claim.release()


def test_a_fill_that_fails_leaves_nothing(state_dir: Path) -> None:
    def refuse(table: Table, name: str, directory: str) -> None:
        raise BackupError("no")

    before = ipc_ids()
    for _ in range(2):
        with pytest.raises(BackupError):
            registry.claim("app", GEOMETRY, fill=refuse)
        assert ipc_ids() == before
    assert names(state_dir) == []


@pytest.fixture
def claim(cache: memcache_shm.Cache) -> Iterator[Claim]:
    """A daemon's, of the same table."""
    claim = registry.claim("app", GEOMETRY)
    yield claim
    claim.release()


def test_a_signal_ends_a_load(cache: memcache_shm.Cache, claim: Claim, tmp_path: Path) -> None:
    """The daemon holds signals back until it serves."""
    fill(cache)
    saving = Saving(str(tmp_path / "table"), 0, "")
    saving.finish(claim, lambda: False)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # others of this process hold nothing back
        with pytest.raises(StoppedError):
            registry.claim("other", GEOMETRY, fill=saving.fill)
        assert signal.sigwait({signal.SIGTERM}) == signal.SIGTERM
        registry.claim("other", GEOMETRY, fill=saving.fill).release()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


NO_MEMORY: list[BaseException] = [MemoryError(), OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))]


@pytest.mark.parametrize("trouble", NO_MEMORY, ids=repr)
def test_a_load_without_memory_is_no_fault_of_the_file(
    cache: memcache_shm.Cache,
    claim: Claim,
    tmp_path: Path,
    trouble: BaseException,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No start then; later the table begins empty, and its first save keeps the file, whatever the sizes."""

    def fail(*arguments: object) -> None:
        raise trouble

    cache.set("key", b"good")
    saving = Saving(str(tmp_path / "table"), 0, "")
    saving.finish(claim, lambda: False)
    good = (tmp_path / "table").read_bytes()
    monkeypatch.setattr("memcache_shm.ops.backups.load", fail)
    with pytest.raises(BackupError, match=r"^--save: cannot load .*/table: out of memory; nothing is wrong with the file; "):
        registry.claim("other", GEOMETRY, fill=saving.fill)
    saving.tell(claim)
    cache.set("key", b"other")
    saving.fill(claim.table, "app", claim.state.directory)
    assert f"/table: out of memory; table app begins empty, and the next save keeps {tmp_path}/table as " in capsys.readouterr().err
    saving.finish(claim, lambda: False)
    assert (tmp_path / "table.old").read_bytes() == good
    saving.release()


def test_a_further_signal_ends_a_save(cache: memcache_shm.Cache, claim: Claim, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(cache)
    saving = Saving(str(tmp_path / "table"), 0, "")
    asked = iter([False, True])
    saving.finish(claim, lambda: next(asked))
    saving.release()
    assert os.listdir(tmp_path) == ["tables"]
    assert not saving.failed
    assert "told to stop at once; " in capsys.readouterr().err
