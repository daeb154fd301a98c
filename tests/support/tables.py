"""What the state directory and the kernel say of a table, the kernel asked through sysv_ipc, which shares no code with ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sysv_ipc

from support.isolation import ipc_ids


def state(directory: Path, name: str) -> dict[str, Any]:
    """The state file of a table."""
    content: dict[str, Any] = json.loads((directory / f"{name}.json").read_text())
    return content


def names(directory: Path) -> list[str]:
    return sorted(path.stem for path in directory.glob("*.json"))


def is_there(directory: Path, name: str) -> bool:
    """Whether the kernel has segment and semaphore set of the state file: as it lists them, and by attaching."""
    ids = state(directory, name)
    listed = ipc_ids()
    sysv_ipc.attach(ids["shmid"], flags=sysv_ipc.SHM_RDONLY).detach()
    return ids["shmid"] in listed["shm"] and ids["semid"] in listed["sem"]


def is_gone(shmid: int, semid: int) -> bool:
    """Whether the kernel has neither: not listed, and nothing there to attach or to remove."""
    listed = ipc_ids()
    assert shmid not in listed["shm"]
    assert semid not in listed["sem"]
    with pytest.raises((sysv_ipc.ExistentialError, ValueError)):  # EIDRM, EINVAL
        sysv_ipc.attach(shmid)
    with pytest.raises(sysv_ipc.ExistentialError):
        sysv_ipc.remove_shared_memory(shmid)
    with pytest.raises(sysv_ipc.ExistentialError):
        sysv_ipc.remove_semaphore(semid)
    return True


def verb(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line, with `text` as its standard input if given, and wait for its end."""
    command = [sys.executable, "-m", "memcache_shm", *words]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
