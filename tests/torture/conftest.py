"""Where the stepping tests exist: on x86-64, whose debug registers and trap flag they use."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

collect_ignore = [] if platform.machine() == "x86_64" else ["test_stepping.py", "test_reading.py", "test_channel_stepping.py"]


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's tables are registered."""
    directory = tmp_path / "tables"
    monkeypatch.setenv("MEMCACHE_SHM_DIR", str(directory))
    return directory
