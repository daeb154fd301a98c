"""Where a daemon's UNIX socket is: its table's state file says it, and `ls`."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from support.servers import Daemon
from support.tables import state

import memcache_shm
from memcache_shm.cli.main import main
from memcache_shm.storage import statefile

SHAPE = "16", "100", "--name", "socketed"


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main(["ls", "--json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    return table  # type: ignore[no-any-return]


def test_while_the_daemon_serves(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An absolute path, whatever was asked for; emptied when the daemon ends and the table stays."""
    with Daemon(*SHAPE, "-s", "here.sock", "--keep") as daemon:
        path = os.path.join(os.path.realpath(daemon.directory.name), "here.sock")
        assert os.path.realpath(str(state(state_dir, "socketed")["socket"])) == path
        assert os.path.realpath(str(listed(capsys)["socket"])) == path
        assert main(["ls"]) == 0
        head, row = capsys.readouterr().out.splitlines()
        assert head.split()[-1] == "SOCKET"
        assert row.split()[-1].endswith("/here.sock")
        assert daemon.stop() == 0
    assert state(state_dir, "socketed")["socket"] == ""
    assert listed(capsys)["socket"] == ""
    memcache_shm.unlink("socketed")


def test_of_a_killed_daemon(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody is sent to a socket that nobody serves; the next daemon says where its own is."""
    with Daemon(*SHAPE) as daemon:
        daemon.stop(signal.SIGKILL)
    table = listed(capsys)
    assert (table["state"], table["socket"]) == ("left behind", "")
    with Daemon(*SHAPE) as daemon:
        assert listed(capsys)["socket"] == daemon.unix_path


def test_a_state_file_of_before(state_dir: Path) -> None:
    """One that has no such field is read."""
    memcache_shm.open("app", elements=1, element_size=1).close()
    content = state(state_dir, "app")
    del content["socket"]
    (state_dir / "app.json").write_text(json.dumps(content))
    found = statefile.read_state(str(state_dir), "app")
    assert found is not None
    assert found.socket == ""
    memcache_shm.attach("app").close()
    memcache_shm.unlink("app")
