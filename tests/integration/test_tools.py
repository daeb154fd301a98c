"""The command-line tools of libmemcached and of Debian's memcached, as they ship: what they print and their exit status are the same
with the daemon as with Debian's memcached."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.client import Client
from support.servers import Daemon, Memcached, Server

MEMCACHED_TOOL = "/usr/share/memcached/scripts/memcached-tool"
LIBMEMCACHED = [
    ["memccp", "--set", "--expire=1000", "--flag=3", "{file}"],
    ["memccat", "file"],
    ["memccat", "--flags", "file"],
    ["memcexist", "file"],
    ["memcexist", "absent"],
    ["memctouch", "--expire=500", "file"],
    ["memctouch", "--expire=500", "absent"],
    ["memcdump"],
    ["memccp", "--add", "{file}"],
    ["memccp", "--replace", "{file}"],
    ["memccat", "file"],
    ["memcrm", "file"],
    ["memcrm", "file"],
    ["memccat", "file"],
    ["memcping"],
    ["memccp", "--set", "{file}"],
    ["memcflush"],  # a dump behind it would differ: memcached's cachedump lists what was flushed
    ["memccat", "file"],
]


class Tools:
    """Runs tools against one server, in a directory with a file for them."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server = server
        self.file = directory / "file"
        self.file.write_bytes(b"some\r\nbytes\x00\xff\n")

    def libmemcached(self, words: list[str]) -> tuple[int, bytes]:
        """Exit status and what it wrote of one of libmemcached's tools."""
        servers = f"--servers={self.server.host}:{self.server.port}"
        rest = [word.format(file=self.file) for word in words[1:]]
        return self._run([words[0], servers, *rest])

    def memcached_tool(self, mode: str) -> str:
        """The output of Debian's memcached-tool."""
        status, output = self._run([MEMCACHED_TOOL, f"{self.server.host}:{self.server.port}", mode])
        assert status == 0, output
        return output.decode()

    @staticmethod
    def _run(words: list[str]) -> tuple[int, bytes]:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False)
        return done.returncode, done.stdout


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Tools, Tools]]:
    """Tools of our daemon, two workers, and of memcached without its thread for LRU lists; both new."""
    with Daemon(workers=2) as ours, Memcached("-o", "no_lru_maintainer") as theirs:
        yield Tools(ours, tmp_path), Tools(theirs, tmp_path)


def test_libmemcached(both: tuple[Tools, Tools]) -> None:
    ours, theirs = both
    for words in LIBMEMCACHED:
        assert ours.libmemcached(words) == theirs.libmemcached(words), words


def test_memcstat(both: tuple[Tools, Tools]) -> None:
    """It asks the binding's parser of libmemcached for every line."""
    ours, theirs = both
    for group in ([], ["--args=settings"], ["--args=slabs"]):
        names = [set(_names(tools.libmemcached(["memcstat", *group])[1])) for tools in both]
        assert names[1] and _missing(names[1] - names[0]) == set(), group
    assert ours.libmemcached(["memcstat", "--server-version"])[1].endswith(b" 1.6.45\n")
    assert theirs.libmemcached(["memcstat", "--server-version"])[1].endswith(b" 1.6.18\n")


def _missing(names: set[str]) -> set[str]:
    """Of names that 1.6.18 has and the daemon has not, those that are missed: not what later versions have no more, and not what belongs
    to the external storage or to the crawler of the LRU lists."""
    return {name for name in names if not name.startswith(("ext_", "lru_crawler_"))} - {"slab_reassign_evictions_nomem"}


def _names(output: bytes) -> list[str]:
    return re.findall(r"^\t ?([^:\s]+):", re.sub(r"^\t (?:items:)?\d+:", "\t ", output.decode(), flags=re.MULTILINE), re.MULTILINE)


def test_memcached_tool(both: tuple[Tools, Tools]) -> None:
    """Its dump can be played back; the other modes name what they name for memcached."""
    for tools in both:
        with Client(tools.server) as client:
            assert client.ask(b"set a:1 5 0 2\r\nxx") == client.set(b"b", b"y") == b"STORED"
    ours, theirs = both
    dumps = [sorted(re.findall(r"add (\S+) (\d+) \d+ (\d+)\r?\n", tools.memcached_tool("dump"))) for tools in both]
    assert dumps == [[("a:1", "5", "2"), ("b", "0", "1")]] * 2
    keys = [sorted(re.findall(r"key=(\S+) exp=(\S+) .*fetch=(\S+)", tools.memcached_tool("keys"))) for tools in both]
    assert keys[0] == keys[1] and len(keys[0]) == 2
    for mode in ("stats", "settings"):
        theirs_names, ours_names = (
            set(re.findall(r"^\s*(\w+)\s+\S", tools.memcached_tool(mode), re.MULTILINE)) for tools in (theirs, ours)
        )
        assert theirs_names and _missing(theirs_names - ours_names) == set(), mode
    assert ours.memcached_tool("sizes").split()[-2:] == ["sizes_status", "disabled"]
    assert re.search(r"^ +1 +\S+ +\d+s +\d+ +2 +no +0 +0 +0$", ours.memcached_tool("display"), re.MULTILINE), ours.memcached_tool("display")
