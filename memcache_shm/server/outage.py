"""A trouble that lasts is told when it begins, when its reason becomes another one, and when it is over."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)


class Outage:
    """One kind of trouble. What is told again while it lasts is not logged again."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._reason = ""

    def goes_on(self, text: str, reason: str = "") -> None:
        """Log ``text`` unless the trouble is known by the same reason, which is the text where none is given."""
        if self._since_s is None:
            self._since_s = time.monotonic()
        elif self._reason == (reason or text):
            return
        self._reason = reason or text
        log.warning("%s", text)

    def is_over(self, text: str) -> None:
        """Log ``text`` and how long it took, if there was a trouble."""
        if self._since_s is not None:
            log.warning("%s after %.1f s", text, time.monotonic() - self._since_s)
            self._since_s = None
