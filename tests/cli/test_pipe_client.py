"""`memcache-shm pipe-client`, as a shell, a pipe and a terminal see it."""

from __future__ import annotations

import array
import fcntl
import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.pipes import PipeDaemon, open_files, stopped
from support.tables import verb
from support.terminal import Terminal
from support.waiting import until

import memcache_shm

IDENTITY = f"t{os.getpid()}"


@pytest.fixture(scope="module")
def piped() -> Iterator[PipeDaemon]:
    with PipeDaemon("-m", "16") as daemon:
        yield daemon


@pytest.fixture
def cache(piped: PipeDaemon) -> Iterator[memcache_shm.Cache]:
    with memcache_shm.attach(piped.name) as cache:
        cache.flush_all()
        cache.set("key", b"1")
        yield cache


@pytest.fixture(autouse=True)
def _no_pipe_is_left() -> Iterator[None]:
    yield
    assert left() == []


def left() -> list[Path]:
    """Pipes of this process's clients."""
    return sorted(Path("/tmp").glob(f"memcache_shm-{IDENTITY}*"))


@contextmanager
def client(fifo: str, identity: str = IDENTITY) -> Iterator[subprocess.Popen[str]]:
    """The verb with its standard streams in pipes; ended by a signal if it goes on."""
    command = [sys.executable, "-m", "memcache_shm", "pipe-client", identity, fifo]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="surrogateescape", bufsize=1
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def say(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text + "\n")


def run(fifo: str, text: str | bytes, identity: str = IDENTITY) -> subprocess.CompletedProcess[bytes]:
    """A whole session."""
    command = [sys.executable, "-m", "memcache_shm", "pipe-client", identity, fifo]
    data = text.encode() if isinstance(text, str) else text
    return subprocess.run(command, input=data, capture_output=True, timeout=30, check=False)


CONNECTED = "Server returned 0 for operation: connect"
GONE = "Server returned 0 for operation: disconnect"


def test_a_session(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """Each line at once, although the output is a pipe."""
    with client(piped.fifo) as process:
        assert line(process) == CONNECTED
        say(process, "SUBSCRIBE [key]")
        assert line(process) == "Server returned 1 for operation: subscribe"
        cache.set("key", b"two words")
        assert line(process) == "(key,two words)"
        say(process, "SUBSCRIBE [none]")
        assert line(process) == "Server returned 0 for operation: subscribe"
        say(process, "UNSUBSCRIBE [none]")
        assert line(process) == "Server returned 1 for operation: unsubscribe"
        cache.delete("key")
        assert line(process) == "(key,DELETED)"
        assert len(left()) == 3
        say(process, "DISCONNECT")
        assert line(process) == GONE
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_commands_from_a_file(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """Blank lines, comments, CRLF, bad lines, a last line without an end; the end of the input disconnects."""
    bad = "no command; there are SUBSCRIBE [key], UNSUBSCRIBE [key], DELAY ms, DISCONNECT"
    text = "# first\n\n  SUBSCRIBE [key]\r\nSUBSCRIBE key\nsubscribe [key]\nDELAY soon\nDELAY 1\nSUBSCRIBE []\nUNSUBSCRIBE [key]"
    found = run(piped.fifo, text)
    assert found.returncode == 0
    assert found.stdout.decode().splitlines() == [
        CONNECTED,
        "Server returned 1 for operation: subscribe",
        "Server returned 0 for operation: unsubscribe",
        GONE,
    ]
    assert found.stderr.decode().splitlines() == [
        *(f"memcache-shm: error: line {number}: {bad}" for number in (4, 5, 6)),
        "memcache-shm: error: line 8: a key has 1 to 40 bytes, none of them NUL",
    ]


def test_notifications_come_during_a_delay(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    with client(piped.fifo) as process:
        say(process, "SUBSCRIBE [key]\nDELAY 60000\nDISCONNECT")
        assert line(process) == CONNECTED
        assert line(process) == "Server returned 1 for operation: subscribe"
        for number in range(5):
            cache.set("key", b"%d" % number)
            assert line(process) == f"(key,{number})"


def test_a_delay_takes_its_time(piped: PipeDaemon) -> None:
    began_s = time.monotonic()
    assert run(piped.fifo, "DELAY 700\n").returncode == 0
    assert time.monotonic() - began_s >= 0.7


def test_values_as_they_are(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    with client(piped.fifo) as process:
        say(process, "SUBSCRIBE [key]")
        assert (line(process), line(process)) == (CONNECTED, "Server returned 1 for operation: subscribe")
        cache.set("key", b"\xff\x1b[31m" + 60 * b"x")
        assert os.fsencode(line(process)) == b"(key,\xff\x1b[31m" + 34 * b"x" + b")"


def test_what_came_before_the_end_is_printed(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    for number in range(20):
        with client(piped.fifo) as process:
            say(process, "SUBSCRIBE [key]")
            assert (line(process), line(process)) == (CONNECTED, "Server returned 1 for operation: subscribe")
            cache.set("key", b"%d" % number)
            assert line(process) == f"(key,{number})"
            assert process.communicate()[0] == GONE + "\n"
            assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["waiting for a command", "in a delay"])
def test_ended_by_a_signal(piped: PipeDaemon, number: signal.Signals, when: str) -> None:
    """The pipes are removed, and the server hears of a disconnect."""
    before = len(piped.lines)
    with client(piped.fifo) as process:
        say(process, "# nothing" if when == "waiting for a command" else "DELAY 60000")
        assert line(process) == CONNECTED
        process.send_signal(number)
        assert process.wait(10) == -number
        assert left() == []
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert piped.lines[before:] == []


def test_ended_by_a_signal_before_there_is_a_place(piped: PipeDaemon) -> None:
    """And nine clients, one of which waits."""
    processes = []
    try:
        for number in range(9):
            context = client(piped.fifo, f"{IDENTITY}-{number}")
            processes.append((context, context.__enter__()))
            if number < 8:
                assert line(processes[-1][1]) == CONNECTED
        waiting = processes[8][1]
        until(lambda: len(left()) == 27, "the pipes of the ninth")
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(10) == -signal.SIGINT
        assert waiting.stdout is not None
        assert waiting.stdout.read() == ""
        assert len(left()) == 24
    finally:
        for context, _ in processes:
            context.__exit__(None, None, None)


def test_the_server_ends_the_session(piped: PipeDaemon) -> None:
    with client(piped.fifo) as process:
        assert line(process) == CONNECTED
        os.kill(piped.pid, signal.SIGUSR1)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "memcache-shm: the server ended the session\n"


def test_the_daemon_ends() -> None:
    with PipeDaemon("-m", "16", "--fifo-sessions", "1") as daemon, client(daemon.fifo) as served:
        assert line(served) == CONNECTED
        with client(daemon.fifo, f"{IDENTITY}-2") as waiting:
            until(lambda: len(left()) == 6, "the pipes of the one that waits")
            assert daemon.stop() == 0
            assert served.wait(10) == 0
            assert waiting.wait(10) == 1
            assert waiting.stderr is not None
            assert re.fullmatch(
                rf"memcache-shm: (error: {daemon.fifo}: its server ended before it answered; try again when it is back"
                rf"|error: nobody serves {daemon.fifo}; .*|the server ended the session)\n",
                waiting.stderr.read(),
            )


def test_refused(piped: PipeDaemon) -> None:
    """By a server that does not like its pipes: here somebody has put a file in the place of one."""
    with stopped(piped.pipe_server):
        process = client(piped.fifo)
        running = process.__enter__()
        until(lambda: len(left()) == 3, "its pipes")
        path = Path(f"/tmp/memcache_shm-{IDENTITY}.not")
        path.unlink()
        path.write_text("text")
    try:
        assert line(running) == "Server returned 1 for operation: connect"
        assert running.wait(10) == 1
    finally:
        process.__exit__(None, None, None)


def unread(path: str) -> int:
    """Bytes that lie in a pipe."""
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        count = array.array("i", [0])
        fcntl.ioctl(pipe, termios.FIONREAD, count)
        return count[0]
    finally:
        os.close(pipe)


def test_an_operation_without_an_answer(piped: PipeDaemon) -> None:
    with client(piped.fifo) as process:
        assert line(process) == CONNECTED
        server = piped.pipe_server
        with stopped(server):
            say(process, "SUBSCRIBE [key]")
            until(lambda: unread(f"/tmp/memcache_shm-{IDENTITY}.req") > 0, "the request to be sent")
            os.kill(server, signal.SIGKILL)
            assert process.wait(10) == 1
            assert process.stderr is not None
            assert process.stderr.read() == "memcache-shm: the server ended the session\n"


def test_no_server_is_one_line_at_once(piped: PipeDaemon, tmp_path: Path) -> None:
    stale = tmp_path / "stale"
    os.mkfifo(stale)
    file = tmp_path / "file"
    file.write_text("text")
    cases = {
        (str(stale),): (1, f"nobody serves {stale}; start 'memcache-shm --fifo {stale}'"),
        (str(file),): (1, f"{file} is no named pipe; it is the PATH of a daemon's --fifo PATH"),
        (str(tmp_path / "none"),): (1, f"{tmp_path}/none: No such file or directory; it is the PATH of a daemon's --fifo PATH"),
    }
    for words, (status, problem) in cases.items():
        found = verb("pipe-client", IDENTITY, *words)
        assert (found.returncode, found.stdout, found.stderr) == (status, "", f"memcache-shm: error: {problem}\n")
    assert file.read_text() == "text"


def test_wrong_usage(piped: PipeDaemon) -> None:
    for identity in ("", "a/b", "a b", 18 * "x", "é"):
        found = verb("pipe-client", identity, piped.fifo)
        assert found.returncode == 2
        assert re.fullmatch(r"memcache-shm: error: ID: 1 to 17 letters, .*\n", found.stderr), found.stderr
    for words in ((), ("1",), ("1", "2", "3")):
        found = verb("pipe-client", *words)
        assert found.returncode == 2
        assert len(found.stderr.splitlines()) == 1


def test_pipes_that_are_there_already(piped: PipeDaemon) -> None:
    path = Path(f"/tmp/memcache_shm-{IDENTITY}.res")
    path.write_text("somebody's")
    try:
        found = verb("pipe-client", IDENTITY, piped.fifo)
        assert (found.returncode, found.stdout) == (1, "")
        assert found.stderr == (f"memcache-shm: error: {path} is there already and is no named pipe; choose another ID, or remove it\n")
        assert path.read_text() == "somebody's"
        assert left() == [path]
    finally:
        path.unlink()


def test_pipes_that_a_killed_client_left(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """They are replaced at once, whatever the server knows of that death; those of a client that lives are not."""
    for _ in range(3):
        with client(piped.fifo) as process:
            assert line(process) == CONNECTED
            process.kill()
            process.wait()
    assert len(left()) == 3
    with stopped(piped.pipe_server):
        waiting = client(piped.fifo)
        running = waiting.__enter__()
        until(lambda: {str(path) for path in left()} <= set(open_files(running.pid)), "its pipes to be replaced")
        found = verb("pipe-client", IDENTITY, piped.fifo)
        path = f"/tmp/memcache_shm-{IDENTITY}.req"
        assert (found.returncode, found.stdout) == (1, "")
        assert found.stderr == f"memcache-shm: error: {path} is in use by another client; choose another ID, or end that one\n"
    try:
        assert line(running) == CONNECTED
        say(running, "SUBSCRIBE [key]")
        assert line(running) == "Server returned 1 for operation: subscribe"
        found = verb("pipe-client", IDENTITY, piped.fifo)
        assert found.returncode == 1
        cache.set("key", b"2")
        assert line(running) == "(key,2)"
    finally:
        waiting.__exit__(None, None, None)


def test_a_file_in_the_place_of_the_requests_stays(piped: PipeDaemon) -> None:
    path = Path(f"/tmp/memcache_shm-{IDENTITY}.req")
    path.write_text("somebody's")
    try:
        found = verb("pipe-client", IDENTITY, piped.fifo)
        assert (found.returncode, left()) == (1, [path])
        assert path.read_text() == "somebody's"
    finally:
        path.unlink()


def test_output_that_cannot_be_written(piped: PipeDaemon) -> None:
    command = f"{sys.executable} -m memcache_shm pipe-client {IDENTITY} {piped.fifo} >/dev/full"
    found = subprocess.run(["bash", "-c", command], input="", capture_output=True, text=True, timeout=30, check=False)
    assert found.returncode == 1
    assert found.stderr == "memcache-shm: error: standard output: No space left on device; the session is ended\n"


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_bad_commands_that_cannot_be_told(piped: PipeDaemon, where: str) -> None:
    """They end no session."""
    command = f"{sys.executable} -m memcache_shm pipe-client {IDENTITY} {piped.fifo} {where}"
    found = subprocess.run(["bash", "-c", command], input="NONSENSE\nDELAY 0\n", stdout=subprocess.PIPE, text=True, timeout=30, check=False)
    assert (found.returncode, found.stdout.splitlines()) == (0, [CONNECTED, GONE])


def test_closed_streams(piped: PipeDaemon) -> None:
    for redirection in ("<&-", ">&-"):
        command = f"{sys.executable} -m memcache_shm pipe-client {IDENTITY} {piped.fifo} {redirection}"
        found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
        assert found.returncode == 1
        assert re.fullmatch(r"memcache-shm: error: standard (in|out)put is closed; .*\n", found.stderr)


def test_a_reader_that_has_enough(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    command = f"yes 'SUBSCRIBE [key]' | {sys.executable} -m memcache_shm pipe-client {IDENTITY} {piped.fifo} | head -2"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert len(found.stdout.splitlines()) == 2
    assert found.stderr == ""


def test_help_teaches() -> None:
    found = verb("pipe-client", "--help")
    assert found.returncode == 0
    for word in ("ID", "PATH", "SUBSCRIBE [key]", "DELAY ms", "DISCONNECT", "DELETED", "exit status", "examples:", "--fifo"):
        assert word in found.stdout
    assert max(map(len, found.stdout.splitlines())) <= 100
    assert re.search(r"^ +pipe-client +hear of changes", verb("--help").stdout, re.MULTILINE)


def test_on_a_terminal(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """A value cannot make it obey."""
    with Terminal([sys.executable, "-m", "memcache_shm", "pipe-client", IDENTITY, piped.fifo], {}, 24, 80) as terminal:
        terminal.expect(f"{CONNECTED}\r\n")
        terminal.type("SUBSCRIBE [key]\n")
        terminal.expect("Server returned 1 for operation: subscribe\r\n")
        cache.set("key", b"\x1b[31mred\n")
        terminal.expect(r"\(key,\\x1b\[31mred\\n\)\r\n")
        cache.set("key", "\x9b31mr\u00e9d \u202e".encode() + b"\x9b\xff")
        terminal.expect(r"\(key,\\xc2\\x9b31mr\u00e9d \\xe2\\x80\\xae\\x9b\\xff\)\r\n")
        terminal.type("\x04")
        terminal.expect(f"{GONE}\r\n")
        assert terminal.ends() == 0
