"""Writing to a standard stream without its buffer: what cannot be written is gone, and not there to fail once more at the end."""

from __future__ import annotations

import os
from typing import TextIO


def write(stream: TextIO, data: bytes) -> None:
    """All of `data`, by the descriptor of the stream, whose buffer is empty. OSError: maybe only a part."""
    descriptor = stream.fileno()
    while data:
        data = data[os.write(descriptor, data) :]


def write_text(stream: TextIO, text: str) -> None:
    """The same in the stream's encoding; what that does not have is written by its number."""
    write(stream, text.encode(stream.encoding, "backslashreplace"))
