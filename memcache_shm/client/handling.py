"""pymemcache's options, checked in one place; and how a cache object over a stream treats keys and values by them: as `Reading` does for an
attached one, with the same rules."""

from __future__ import annotations

from typing import Any

from memcache_shm.client import inputs
from memcache_shm.client.texts import key_word
from memcache_shm.client.types import Key, Serde


class Handling:
    """The options, and what they do. Raises as `inputs.check_handling`; methods: IllegalInputError, TypeError for what is no key at all."""

    def __init__(
        self,
        serde: Serde | None = None,
        key_prefix: str | bytes = b"",
        default_noreply: bool = False,
        allow_unicode_keys: bool = False,
        encoding: str = "ascii",
        ignore_exc: bool = False,
    ) -> None:
        inputs.check_handling(serde, key_prefix, encoding)
        self.serde = serde
        self.key_prefix = key_prefix.encode("ascii") if isinstance(key_prefix, str) else key_prefix
        self.default_noreply = default_noreply
        self.allow_unicode_keys = allow_unicode_keys
        self.encoding = encoding
        self.ignore_exc = ignore_exc

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that make another one like this."""
        return dict(vars(self))

    def word(self, key: Key) -> bytes:
        """The key as the protocol writes it, prefix included."""
        return key_word(key, self.key_prefix, self.allow_unicode_keys)

    def stored(self, key: Key, value: Any, flags: int | None) -> tuple[bytes, int]:
        """The bytes and the flags to store for `value`; `flags` go before those of the serde."""
        bits = 0
        if self.serde is not None:
            value, bits = self.serde.serialize(key, value)
            inputs.check_flags(bits)
        if flags is not None:
            bits = inputs.check_flags(flags)
        return (value if value.__class__ is bytes else inputs.encode_value(value, self.encoding)), bits

    def loaded(self, key: Key, value: bytes, flags: int) -> Any:
        """What was stored as `value` with `flags`."""
        return value if self.serde is None else self.serde.deserialize(key, value, flags)

    def is_quiet(self, noreply: bool | None) -> bool:
        """What an argument `noreply` means."""
        return self.default_noreply if noreply is None else bool(noreply)
