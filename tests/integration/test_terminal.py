"""People with telnet and nc, in both dialects, and the commands that the README shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.servers import Daemon

from memcache_shm.cli.main import VERBS

README = Path(__file__).parents[2] / "README.md"

CLASSIC = ("set k 7 0 5", "hello", "get k absent", "incr k 1", "delete k", "delete k", "bogus", "quit")
CLASSIC_REPLIES = (
    "STORED",
    "VALUE k 7 5",
    "hello",
    "END",
    "CLIENT_ERROR cannot increment or decrement non-numeric value",
    "DELETED",
    "NOT_FOUND",
    "ERROR",
)
SIMPLE = ("SET name 5", "Alice", "GET name", "GET absent", "SET name 0", "PUT name", "DELETE name", "DELETE name", "QUIT")
SIMPLE_REPLIES = ("OK", "OK 5", "Alice", "ERR NOT_FOUND", "ERR INVALID_SIZE", "ERR INVALID_COMMAND", "OK 1", "OK 0")
SESSIONS = pytest.mark.parametrize(("typed", "replies"), [(CLASSIC, CLASSIC_REPLIES), (SIMPLE, SIMPLE_REPLIES)], ids=["classic", "simple"])


@SESSIONS
def test_telnet(typed: tuple[str, ...], replies: tuple[str, ...], daemon: Daemon) -> None:
    """The lines are typed at once; standard input stays open until the server has closed, as a terminal does."""
    words = ["telnet", daemon.host, str(daemon.port)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as telnet:
        assert telnet.stdin is not None
        assert telnet.stdout is not None
        assert telnet.stderr is not None
        greeting = [telnet.stdout.readline() for _ in range(3)]
        assert greeting[2].startswith("Escape character")
        telnet.stdin.write("".join(line + "\n" for line in typed))
        telnet.stdin.flush()
        assert telnet.stdout.read().splitlines() == list(replies)
        assert telnet.stderr.read().strip() == "Connection closed by foreign host."


@SESSIONS
@pytest.mark.parametrize("door", ["tcp", "unix"])
@pytest.mark.parametrize("ending", ["CRLF", "LF"])
def test_nc(typed: tuple[str, ...], replies: tuple[str, ...], door: str, ending: str, daemon: Daemon) -> None:
    where = ["-U", daemon.unix_path] if door == "unix" else [daemon.host, str(daemon.port)]
    end = "\r\n" if ending == "CRLF" else "\n"
    if ending == "LF" and typed is CLASSIC:
        typed = (typed[0], typed[1] + "\r", *typed[2:])  # the data's own terminator is CRLF whatever ends the lines
    done = subprocess.run(
        ["nc", "-N", *where], input="".join(line + end for line in typed).encode(), capture_output=True, timeout=20, check=False
    )
    assert done.returncode == 0
    assert done.stdout.decode() == "".join(line + "\r\n" for line in replies)


@SESSIONS
def test_nc_without_quit(typed: tuple[str, ...], replies: tuple[str, ...], daemon: Daemon) -> None:
    """The end of the input ends the session, once everything is answered."""
    words = ["nc", "-N", daemon.host, str(daemon.port)]
    done = subprocess.run(
        words, input="".join(f"{line}\r\n" for line in typed[:-1]), capture_output=True, text=True, timeout=20, check=False
    )
    assert done.stdout.splitlines() == list(replies)


def _blocks(language: str) -> list[str]:
    """The fenced blocks of the README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def test_console_blocks_of_the_readme(daemon: Daemon) -> None:
    """Every `$ ...` line prints what stands below it."""
    blocks = _blocks("console")
    assert blocks
    for block in blocks:
        for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            done = subprocess.run(
                ["bash", "-c", command.replace("11211", str(daemon.port))], capture_output=True, text=True, timeout=20, check=False
            )
            assert done.stdout.splitlines() == expected.splitlines(), command


def test_python_blocks_of_the_readme(tmp_path: Path) -> None:
    blocks = _blocks("python")
    assert blocks
    for block in blocks:
        words = [sys.executable, "-c", block]
        env = os.environ | {"MEMCACHE_SHM_DIR": str(tmp_path / "tables")}
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, done.stderr


def test_daemons_of_the_readme() -> None:
    """Its command lines for the daemon start one; the port is a free one here."""
    commands = re.findall(r"`(?:memcache-shm|python -m memcache_shm) ((?:-\w \S+ ?)+|\d+ \d+)`", README.read_text())
    assert len(commands) >= 2
    for command in commands:
        words = command.split()
        if "-p" in words:
            del words[words.index("-p") : words.index("-p") + 2]
        with Daemon(*words) as daemon:
            daemon.flush()


def test_verbs_of_the_readme(tmp_path: Path) -> None:
    """The table of verbs is the table of verbs that there are."""
    told = set(re.findall(r"^\| `memcache-shm ([\w-]+)", README.read_text(), re.MULTILINE))
    assert told == set(VERBS)
    with Daemon("--name", "readme", "64", "100") as daemon:
        for words in (["ls"], ["ls", "--json"], ["ping", f"{daemon.host}:{daemon.port}"], ["ping", daemon.unix_path], ["ping", "readme"]):
            done = subprocess.run([sys.executable, "-m", "memcache_shm", *words], capture_output=True, text=True, timeout=20, check=False)
            assert done.returncode == 0, (words, done.stderr)
