"""Sizes as people write them: ``64m``, ``512k``, ``1g`` or a plain number."""

from __future__ import annotations

import re

from memcache_shm.errors import IllegalInputError

KIB = 1024
MIB = KIB**2
DEFAULT_MEMORY_BYTES = 64 * MIB
_FACTORS = {"": 1, "k": KIB, "m": KIB**2, "g": KIB**3}
_SIZE = re.compile(r"\s*(\d+)\s*([kmg]?)(?:i?b)?\s*", re.IGNORECASE)


def parse_size(size: int | str, name: str, plain_unit: int = 1) -> int:
    """Bytes meant by `size`; a number without a letter counts `plain_unit` bytes (``-m`` of memcached counts MiB).

    `name` is the argument that the message of IllegalInputError names.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        size = str(size)
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None:
        raise IllegalInputError(f"{name}: {size!r} is no size; write a number, or one with k, m or g, such as 64m")
    number, letter = match.groups()
    return int(number) * (_FACTORS[letter.lower()] if letter else plain_unit)


def format_size(size_bytes: int) -> str:
    """`size_bytes` for people, exact where a whole unit fits: ``64 MiB``, ``1.4 KiB``, ``256 bytes``."""
    for unit, factor in (("GiB", KIB**3), ("MiB", KIB**2), ("KiB", KIB)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.4g} {unit}"
    return f"{size_bytes} bytes"


def default_max_item(memory_bytes: int) -> int:
    """The largest value, in bytes, where only the memory was given: memcached's 1 MiB, less in a table that is small for that."""
    return min(MIB, memory_bytes // 4)
