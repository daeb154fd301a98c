"""Killing a process at a chosen system call: between two of them nothing changes that another process could see but plain memory."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

_TRACEME, _SYSCALL, _SETOPTIONS = 0, 24, 0x4200  # <linux/ptrace.h>
_EXITKILL = 0x100000
_NO_OPTIONS = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def killed_after(operation: Callable[[], object], calls: int) -> bool:
    """Fork, run `operation`, SIGKILL after so many system calls; False when it was through before. Its exceptions fail the test."""
    pid = os.fork()
    if pid == 0:
        _be_traced(operation)
    os.waitpid(pid, os.WUNTRACED)
    _ptrace(_SETOPTIONS, pid, _EXITKILL)
    for _ in range(2 * calls):  # a stop at each entry and at each exit
        _ptrace(_SYSCALL, pid, 0)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            assert status == 0, f"the operation ended with status {status:#x}"
            return False
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def _be_traced(operation: Callable[[], object]) -> None:
    status = 1
    try:
        _ptrace(_TRACEME, 0, _NO_OPTIONS)
        os.kill(os.getpid(), signal.SIGSTOP)
        operation()
        status = 0
    finally:
        os._exit(status)


def _ptrace(request: int, pid: int, data: int) -> None:
    if _libc.ptrace(request, pid, None, data) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace: {os.strerror(code)}")
