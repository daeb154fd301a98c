"""How long to wait for a source that went away."""

from __future__ import annotations

from collections.abc import Iterator

_FIRST_S = 0.05
_MOST_S = 2.0


def pauses() -> Iterator[float]:
    """The seconds to wait before each try to connect again: longer each time, up to two. Without end."""
    pause_s = _FIRST_S
    while True:
        yield pause_s
        pause_s = min(pause_s * 2, _MOST_S)
