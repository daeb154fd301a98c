"""A daemon whose standard streams were closed before its start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.isolation import children
from support.waiting import until


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(path)
            sock.sendall(b"mn\r\n")
            return sock.recv(64) == b"MN\r\n"
        except OSError:
            return False


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_it_serves(tmp_path: Path, state_dir: Path, closed: str) -> None:
    """No socket or file of its takes their place, in no process."""
    with tempfile.TemporaryDirectory(prefix="ms") as place:
        words = [sys.executable, "-m", "memcache_shm", "-v", "-p", "0", "-s", f"{place}/s", "--name", "app", "-m", "16"]
        words += ["--save", str(tmp_path / "table"), "--backup-dir", place]
        with subprocess.Popen(["sh", "-c", f'exec "$@" {closed}', "sh", *words]) as daemon:
            try:
                until(lambda: _answers(f"{place}/s"), "an answer", 20.0)
                for pid in (daemon.pid, *children(daemon.pid)):
                    assert os.readlink(f"/proc/{pid}/fd/2") == "/dev/null"
            finally:
                daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(20.0) == 0
