"""What is known of the saves of a table (``--save``), in memory that the process which saves shares with the workers."""

from __future__ import annotations

import mmap

#: As `stats shm` names them; of the last save that succeeded where they are not counts.
NAMES = (
    "shm_save_last",  # when it began, unix time in seconds; 0: there was none
    "shm_save_items",
    "shm_save_bytes",
    "shm_save_ms",  # how long it took
    "shm_save_held_us",  # ... and how long writers waited for it
    "shm_saves",  # how many succeeded since the daemon's start, and
    "shm_save_failures",  # ... how many failed
)
_WORD_BYTES = 8
_SIGN, _OWED, _PAID = range(len(NAMES), len(NAMES) + 3)


class SaveFigures:
    """Made before the fork; written by the one process that saves at the moment. A word is stored at once, never half of one seen."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, (_PAID + 1) * _WORD_BYTES)).cast("Q")

    @property
    def sign(self) -> int:
        """What the table looked like when the file had all of it, for whoever saves; 0: that was never so."""
        return self._words[_SIGN]

    @sign.setter
    def sign(self, sign: int) -> None:
        self._words[_SIGN] = sign

    @property
    def owed(self) -> int:
        """Not 0: the table may lack what the file has, so the next save keeps what the file was; to be told to `note_kept` then."""
        return self._words[_OWED] if self._words[_OWED] != self._words[_PAID] else 0

    def note_incomplete(self) -> None:
        """Not all of the file was loaded; by the process that fills tables."""
        self._words[_OWED] += 1

    def note_kept(self, owed: int) -> None:
        """It was kept, or there was none; by the process that saves."""
        self._words[_PAID] = owed

    def figures(self) -> dict[str, int]:
        """All of them by name."""
        return dict(zip(NAMES, self._words, strict=False))

    def note_save(self, unix_s: float, items: int, size_bytes: int, took_s: float, held_ns: int) -> None:
        """One succeeded."""
        told = (int(unix_s), items, size_bytes, round(took_s * 1000), held_ns // 1000, self._words[NAMES.index("shm_saves")] + 1)
        for place, number in enumerate(told):
            self._words[place] = number

    def note_failure(self) -> None:
        """One failed."""
        self._words[NAMES.index("shm_save_failures")] += 1
