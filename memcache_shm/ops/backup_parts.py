"""What backups are made of, whatever the form of the file: what is said of one, and pieces of packed items in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from memcache_shm.version import __version__

VERSION = 1  # of the form; a reader takes its own and older ones
PIECE_BYTES = 1 << 20  # of a piece of items, but for one that is larger alone
ONE_INSTANT = "one instant"
INSTANT_A_SHARD = "one instant a shard"
_WORDS_MOST = 250  # characters of each thing that is said: longer than any table's name or address
_TIME_MOST_S = 1 << 36  # the year 4147, which time.localtime takes
WALKED = "walked"  # item by item: what changed meanwhile is in it as it was before or after


class Piece(NamedTuple):
    """Some items, packed one after the other."""

    data: bytes | memoryview
    items: int


@dataclass(frozen=True)
class Facts:
    """What a backup says of itself at its beginning."""

    source: str = ""  # as users name it
    consistency: str = ""  # ONE_INSTANT, ... ; empty in a file made by hand
    created_s: float = 0.0  # unix time; 0 in a file made by hand
    program: str = field(default_factory=lambda: f"memcache_shm {__version__}")

    @classmethod
    def now(cls, source: str, consistency: str) -> Facts:
        return cls(source, consistency, round(time.time(), 3))

    def to_dict(self) -> dict[str, Any]:
        return {"created": self.created_s, "source": self.source, "consistency": self.consistency, "program": self.program}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Facts:
        """The reverse; what is missing or of another type is as in a file made by hand, and what no program of ours says is cut."""
        created_s: Any = found.get("created")
        source, consistency, program = (found.get(name, "") for name in ("source", "consistency", "program"))
        return cls(
            source[:_WORDS_MOST] if isinstance(source, str) else "",
            consistency[:_WORDS_MOST] if isinstance(consistency, str) else "",
            float(created_s) if type(created_s) in (int, float) and 0 <= created_s < _TIME_MOST_S else 0.0,
            program[:_WORDS_MOST] if isinstance(program, str) else "",
        )


@dataclass
class Totals:
    """What it says at its end."""

    items: int = 0
    size_bytes: int = 0  # of keys and values, and 28 bytes an item: their packed form
    highest_cas: int = 0

    def add(self, piece: Piece) -> None:
        """Count it."""
        self.items += piece.items
        self.size_bytes += len(piece.data)

    def to_dict(self) -> dict[str, int]:
        return {"items": self.items, "bytes": self.size_bytes, "highest_cas": self.highest_cas}


class Writer(Protocol):
    """Writes a backup in one of the forms; raises what its output raises."""

    def begin(self, facts: Facts) -> None: ...

    def add(self, piece: Piece) -> None: ...

    def end(self, highest_cas: int) -> None: ...


class Reader(Protocol):
    """Reads one. `facts` are known from the start, `totals` once all pieces were taken."""

    facts: Facts
    totals: Totals

    def pieces(self) -> Iterator[Piece]:
        """From the beginning, every piece once it was verified. BackupError: what is wrong with the next one."""


class Step(NamedTuple):
    """How far it is."""

    doing: str  # for people: "backing up", ...
    part: float  # of all there is to do in this step, 0 to 1
    items: int
    size_bytes: int


Progress = Callable[[Step], object]


def no_progress(_step: Step) -> None:
    """Nobody looks."""
