"""One mutation of scripts/mutate.py, and what is done to pieces of text."""

from __future__ import annotations

from dataclasses import dataclass


def place(name: str) -> str:
    """Where a file or a module is: in the storage layer, unless its name begins with another one."""
    return f"memcache_shm/{name}" if "/" in name else f"memcache_shm/storage/{name}"


@dataclass(frozen=True)
class Mutation:
    """`words`: the operations that ought to notice it, stepped before all others; `reading`: those that are tried with a reader beside.
    `tests`: the files of tests that are asked instead, where no table is concerned."""

    name: str
    file: str  # see `place`
    old: str
    new: str
    modules: tuple[str, ...]  # to be built
    words: tuple[str, ...] = ()
    reading: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    listened: bool = False  # the operations are stepped while somebody listens to the feed

    def mutate(self, text: str) -> str:
        """The text of the file with the mutation; ValueError unless the place is there exactly once."""
        if text.count(self.old) != 1:
            raise ValueError(f"mutation {self.name!r}: its text is {text.count(self.old)} times in {self.file}")
        return text.replace(self.old, self.new)


def turned(text: str, lines_behind: int) -> str:
    """The last lines of a piece first."""
    lines = text.splitlines(keepends=True)
    return "".join(lines[-lines_behind:] + lines[:-lines_behind])


def without(text: str, line: str) -> str:
    assert text.count(line) == 1
    return text.replace(line, "")
