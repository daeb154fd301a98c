"""Other people's clients and test programs, run as they ship, against the daemon."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pymemcache.test
import pytest
from support.servers import Daemon, Memcached, Server

PYMEMCACHE = Path(pymemcache.test.__file__).parent / "test_integration.py"


@pytest.mark.parametrize("workers", [1, 3])
def test_pymemcache(workers: int, daemon_with: Callable[..., Daemon], tmp_path: Path) -> None:
    """Its integration tests pass, all but the one that it skips itself (TLS, their issue 39), once for each of its 3 clients."""
    daemon = daemon_with("-m", "64", workers=workers)
    words = [sys.executable, "-m", "pytest", "-q", "-rs", "-c", "/dev/null", "-p", "no:cacheprovider", "-p", "no:warnings"]
    where = ["--rootdir", str(tmp_path), str(PYMEMCACHE), "--server", daemon.host, "--port", str(daemon.port)]
    done = subprocess.run([*words, *where], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^100 passed, 3 skipped", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^SKIPPED \[3\] .*/pymemcache/issues/39$", done.stdout, re.MULTILINE), done.stdout


def test_memccapable(daemon_with: Callable[..., Daemon], memcached_with: Callable[..., Memcached]) -> None:
    """libmemcached's test of servers, its ASCII part: what passes at Debian's memcached passes here."""
    ours = _memccapable(daemon_with("-m", "64"))
    theirs = _memccapable(memcached_with("-m", "64"))
    assert len(theirs) > 20
    assert ours == theirs


def _memccapable(server: Server) -> dict[str, str]:
    words = ["memccapable", "-a", "-h", server.host, "-p", str(server.port)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    return dict(re.findall(r"^(\S.*\S)\s+\[(\w+)\]$", done.stdout, re.MULTILINE))
