"""The console as a person at a terminal meets it."""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.client import Client
from support.servers import Daemon
from support.terminal import Terminal

PROMPT = r"> (?:\x1b\[\?2004h)?"


@pytest.fixture
def daemon(daemon_with: Callable[..., Daemon]) -> Daemon:
    daemon = daemon_with("-m", "64")
    daemon.flush()
    return daemon


@pytest.fixture(params=["attached", "tcp"])
def target(request: pytest.FixtureRequest, daemon: Daemon) -> str:
    return daemon.name if request.param == "attached" else f"{daemon.host}:{daemon.port}"


@contextmanager
def console(target: str, state: Path, rows: int = 24, columns: int = 80, **env: str) -> Iterator[Terminal]:
    words = [sys.executable, "-m", "memcache_shm", "console", target]
    with Terminal(words, {"XDG_STATE_HOME": str(state), **env}, rows, columns) as terminal:
        terminal.expect(PROMPT)
        yield terminal


def test_a_session(target: str, tmp_path: Path) -> None:
    with console(target, tmp_path) as terminal:
        assert re.search(rf"{re.escape(target)}: 0 items\. HELP tells the commands", terminal.text)
        terminal.type("ADD user:1 Alice Cooper\r")
        terminal.expect(r"OK\r\n.*" + PROMPT)
        terminal.type("find user:1\r")
        terminal.expect(r"\nAlice Cooper\r\n.*" + PROMPT)
        terminal.type("FIND none\r")
        terminal.expect(r"error:\x1b\[0m no key none\r\n")
        terminal.expect(PROMPT)
        terminal.type("half a line")
        terminal.expect("half a line")
        terminal.interrupt()
        terminal.expect(PROMPT)
        terminal.type('ADD esc "\\x1b[31m"\rFIND esc\r')
        assert "\x1b[31m" not in terminal.expect(r'\n"\\x1b\[31m"\r\n').partition("FIND esc")[2]
        terminal.expect(PROMPT)
        terminal.type("\x04")
        assert terminal.ends() == 0


def test_completion(target: str, tmp_path: Path) -> None:
    with console(target, tmp_path) as terminal:
        terminal.type('ADD user:1 Alice\rADD user:2 Bob\rADD "two words" 3\rADD ключ 4\r')
        for _ in range(4):
            terminal.expect(r"OK\r\n")
            terminal.expect(PROMPT)
        terminal.type("FI\tus\t\t\t")
        shown = terminal.expect(r"user:1 +user:2")
        assert "FIND user:" in shown
        terminal.type("2\r")
        terminal.expect(r"\nBob\r\n")
        terminal.expect(PROMPT)
        terminal.type('find "tw\t\r')
        terminal.expect(r"\n3\r\n")
        terminal.expect(PROMPT)
        terminal.type("del\tкл\t\r")
        terminal.expect(r"delete ключ")
        terminal.expect(r"OK\r\n")
        terminal.expect(PROMPT)
        terminal.type("help sh\t\r")
        terminal.expect(r"SHOW \[prefix\]: list keys and values")
        terminal.type("EXIT\r")
        assert terminal.ends() == 0


def test_history_stays(daemon: Daemon, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with console(daemon.name, state) as terminal:
        terminal.type("ADD secret 1\r")
        terminal.expect(r"OK\r\n")
        terminal.process.kill()
        terminal.ends()
    file = state / "memcache-shm" / "console_history"
    assert file.read_text() == "ADD secret 1\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with console(daemon.name, state) as terminal:
        terminal.type("FIND secret\r")
        terminal.expect(r"\n1\r\n")
        terminal.expect(PROMPT)
        terminal.type("\x1b[A\x1b[A\r")
        terminal.expect(r"ADD secret 1")
        terminal.expect(r"OK\r\n")
        terminal.expect(PROMPT)
        terminal.type("\x04")
        assert terminal.ends() == 0
    assert file.read_text() == "ADD secret 1\nFIND secret\nADD secret 1\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_place_for_a_history(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "memcache-shm").write_text("in the way")
    with console(daemon.name, tmp_path) as terminal:
        terminal.type("ADD a 1\r")
        terminal.expect(r"OK\r\n")
        terminal.expect(PROMPT)
        terminal.type("\x04")
        assert terminal.ends() == 0


def test_a_locale_without_the_letters(daemon: Daemon, tmp_path: Path) -> None:
    """What the history cannot hold works all the same."""
    with console(daemon.name, tmp_path, LC_ALL="C") as terminal:
        terminal.type("ADD caf\u00e9 1\rFIND caf\u00e9\r")
        terminal.expect(r"OK\r\n")
        terminal.expect(r"\n1\r\n")
        terminal.expect(PROMPT)
        terminal.type("\x04")
        assert terminal.ends() == 0


def fill(daemon: Daemon, count: int) -> None:
    with Client(daemon) as client:
        client.send(b"".join(b"set key:%03d 0 0 3 noreply\r\n%03d\r\n" % (number, number % 1000) for number in range(count)))
        assert client.ask(b"mn") == b"MN"


MORE = r"-- (\d+) of (\d+); space: next page, q: end --"


def test_pages(daemon: Daemon, target: str, tmp_path: Path) -> None:
    fill(daemon, 25)
    with console(target, tmp_path, rows=11) as terminal:
        terminal.type("SHOW\r")
        page = terminal.expect(MORE)
        assert re.findall(r"key:(\d+)\S* (\d+)", page) == [(f"{number:03}", f"{number:03}") for number in range(10)]
        assert "-- 10 of 25" in page
        terminal.type(" ")
        assert "key:019" in terminal.expect(MORE)
        terminal.type("\r")
        page = terminal.expect(r"25 items\r\n")
        assert "key:024" in page
        terminal.expect(PROMPT)
        for leave in (lambda: terminal.type("q"), terminal.interrupt, lambda: terminal.type("\x1b")):
            terminal.type("SHOW key:0*\r")
            terminal.expect(MORE)
            leave()
            assert "key" not in terminal.expect(r"10 items of 25\r\n")
            terminal.expect(PROMPT)
        terminal.type("SHOW key:02\r")
        terminal.expect(r"5 items\r\n")
        terminal.expect(PROMPT)
        terminal.type("EXIT\r")
        assert terminal.ends() == 0


def test_pages_of_very_many(daemon: Daemon, tmp_path: Path) -> None:
    fill(daemon, 11_000)
    with console(daemon.name, tmp_path) as terminal:
        terminal.type("SHOW\r")
        terminal.expect(r"-- 23 shown; space: next page, q: end --")
        terminal.type("q")
        terminal.expect(r"23 items; there are more\r\n")
        terminal.expect(PROMPT)
        terminal.type("SHOW key:10\r")  # key:100 to key:109, key:1000 to key:1099, key:10000 to key:10999
        for _ in range(1110 // 23):
            terminal.expect(r"-- \d+ of 1110; .*--")
            terminal.type(" ")
        terminal.expect(r"1110 items\r\n")
        terminal.expect(PROMPT)
        terminal.type("\x04")
        assert terminal.ends() == 0


def test_lines_fit_the_terminal(daemon: Daemon, tmp_path: Path) -> None:
    """A long value is cut, its size told; a long key takes its lines of the page."""
    with Client(daemon) as client:
        client.set(b"long", b"x" * 1000)
        client.set("широкий".encode(), "漢字".encode() * 100)
        client.set(b"k" * 200, b"1")
    with console(daemon.name, tmp_path, rows=5, columns=50, NO_COLOR="1") as terminal:
        terminal.type("SHOW\r")
        page = terminal.expect(r"-- 1 of 3; .*--")
        assert f"\n{'k' * 200} 1\r\n" in page.replace(" \r", "")
        terminal.type(" ")
        rest = terminal.expect(r"3 items\r\n")
        assert f"long {'x' * 28} ... (1000 bytes)\r\n" in rest
        assert f"широкий {'漢字' * 6}漢 ... (600 bytes)\r\n" in rest
        terminal.expect(PROMPT)
        terminal.type("FIND long\r")
        terminal.expect(rf"\n{'x' * (500 - 17)} \.\.\. \(1000 bytes\)\r\n")
        assert "\x1b[3" not in terminal.text
        terminal.type("EXIT\r")
        assert terminal.ends() == 0


def test_watching(daemon: Daemon, target: str, tmp_path: Path) -> None:
    """What others change is shown as it happens, until Ctrl-C; then the console goes on."""
    with console(target, tmp_path, NO_COLOR="1") as terminal, Client(daemon) as client:
        terminal.type("WATCH user:\r")
        terminal.expect(r"\nwatching; Ctrl-C ends it\r\n")
        client.set(b"user:1", b"Alice\x07")
        terminal.expect(r'set +user:1  "Alice\\x07"\r\n')
        client.set(b"other", b"1")
        client.ask(b"touch user:1 100")
        assert "other" not in terminal.expect(r"touch +user:1.*until \d\d:")
        client.ask(b"delete user:1")
        terminal.expect(r"delete +user:1\r\n")
        terminal.interrupt()
        terminal.expect(PROMPT)
        terminal.type("WATCH * 2\r")
        terminal.expect(r"\nwatching; Ctrl-C ends it\r\n")
        client.ask(b"flush_all")
        terminal.expect(r"flush +everything\r\n")
        client.set(b"a", b"1")
        terminal.expect(r"set +a  1\r\n")
        terminal.expect(PROMPT)
        terminal.type("FIND a\r")
        terminal.expect(r"\n1\r\n")
        terminal.expect(PROMPT)
        terminal.type("\x04")
        assert terminal.ends() == 0


def test_the_server_comes_back(tmp_path: Path) -> None:
    with Daemon("16", "16") as daemon:
        where = f"{daemon.host}:{daemon.port}"
        context = console(where, tmp_path)
        terminal = context.__enter__()
    try:
        terminal.type("ADD a 1\r")
        terminal.expect(rf"error:\S* {where}: Connection refused\r\n")
        terminal.expect(PROMPT)
        with Daemon("-l", where, "16", "16"):
            terminal.type("ADD a 1\r")
            terminal.expect(r"\nOK\r\n")
            terminal.expect(PROMPT)
            terminal.type("\x04")
            assert terminal.ends() == 0
    finally:
        context.__exit__(None, None, None)
