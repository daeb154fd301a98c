"""What goes wrong in a run of jobs, said in lines by any thread, and whether anything failed."""

from __future__ import annotations

from collections.abc import Callable


class Report:
    """`say` prints one line; any thread may call it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.failed = False  # something was not done; set by any thread, never taken back
        self._say = say

    def remark(self, line: str) -> None:
        """Say it; the exit status does not change."""
        self._say(line)

    def failure(self, line: str) -> None:
        """Something was not done: the exit status tells."""
        self.failed = True
        self._say(line)
