"""A program on a pseudo-terminal, typed at as a person would."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from support.waiting import until

PATIENCE_S = 20.0


class Terminal:
    """`words` run on a terminal of this size, which is theirs: Ctrl-C reaches them. What they write is kept in `text`."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str] | None = None, rows: int = 24, columns: int = 80) -> None:
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._seen = 0  # characters of `text` that `expect` has passed
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        usual = {"TERM": "xterm", "LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8"}
        left_out = ("LINES", "COLUMNS", "NO_COLOR", "INPUTRC")
        self.process = subprocess.Popen(
            words,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={name: value for name, value in os.environ.items() if name not in left_out} | usual | dict(env or {}),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def type(self, text: str) -> None:
        """Keys; Enter is \\r. For Ctrl-C see `interrupt`."""
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C, when the program waits. Python notes a signal that comes right before a wait, and acts on it only when that wait is over:
        readline's at the next key, which is none of the test's."""
        until(self._is_asleep, f"the program to wait; behind {self.text[-200:]!r}", PATIENCE_S)
        self.type("\x03")

    def _is_asleep(self) -> bool:
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] == "S"

    def expect(self, pattern: str) -> str:
        """Wait until the output goes on with what the pattern finds; everything up to its end that was not expected before."""
        end = time.monotonic() + PATIENCE_S
        while (match := re.compile(pattern).search(self.text, self._seen)) is None:
            if not self._read(end - time.monotonic()):
                raise AssertionError(
                    f"waited in vain for {pattern!r}; behind {self.text[: self._seen][-200:]!r} came {self.text[self._seen :]!r}"
                )
        passed = self.text[self._seen : match.end()]
        self._seen = match.end()
        return passed

    def ends(self) -> int:
        """Wait for its end; the exit status."""
        end = time.monotonic() + PATIENCE_S
        while self._read(end - time.monotonic()):
            continue
        return self.process.wait(PATIENCE_S)

    def _read(self, limit_s: float) -> bool:
        """Take what the program has written; False at its end, or when nothing comes in time."""
        if not select.select([self._master], [], [], max(0.0, limit_s))[0]:
            return False
        try:
            piece = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other side open any more
            return False
        self.text += self._decoder.decode(piece)
        return bool(piece)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
