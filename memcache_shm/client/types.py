"""Types of the client's arguments."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

Key: TypeAlias = str | bytes


class Serde(Protocol):
    """A serializer as pymemcache has it; `pymemcache.serde` has some ready to use."""

    def serialize(self, key: Any, value: Any, /) -> tuple[Any, int]:
        """What to store for `value`, and its flags (32 bits)."""

    def deserialize(self, key: Any, value: Any, flags: int, /) -> Any:
        """The value that was stored as `value` with `flags`."""
