"""Lines in the log that somebody else causes: as many as help, not as many as he likes."""

from __future__ import annotations

import logging
import time

_AT_ONCE = 100
_A_LINE_S = 0.1


class Remarks:
    """A hundred lines at once, then ten a second; those left out are counted in the next one."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._left = float(_AT_ONCE)
        self._at_s = time.monotonic()
        self._left_out = 0

    def say(self, text: str) -> None:
        """A warning, unless there were too many."""
        now = time.monotonic()
        self._left = min(self._left + (now - self._at_s) / _A_LINE_S, _AT_ONCE)
        self._at_s = now
        if self._left < 1:
            self._left_out += 1
            return
        self._left -= 1
        more = f" ({self._left_out} such lines left out before)" if self._left_out else ""
        self._left_out = 0
        self._log.warning("%s%s", text, more)
