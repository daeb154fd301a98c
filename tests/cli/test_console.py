"""`console` as a script uses it: commands in, lines and an exit status out."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.client import Client
from support.servers import Daemon, Memcached
from support.waiting import until

import memcache_shm
from memcache_shm.cli.main import main
from memcache_shm.errors import IllegalInputError
from memcache_shm.ops.quoting import shown_value, shown_word, take_rest, take_word, width

WORDS = [sys.executable, "-m", "memcache_shm", "console"]


def session(target: str, *lines: str | bytes, end: bytes = b"\n", env: dict[str, str] | None = None) -> tuple[int, list[str], list[str]]:
    """Exit status, lines of standard output and of standard error."""
    data = b"".join((line.encode() if isinstance(line, str) else line) + end for line in lines)
    words = [*WORDS, target] if target else WORDS
    done = subprocess.run(
        words, input=data, capture_output=True, timeout=30, check=False, env=os.environ | {"PYTHONIOENCODING": "utf-8"} | (env or {})
    )
    return done.returncode, done.stdout.decode().splitlines(), done.stderr.decode().splitlines()


@pytest.fixture(params=["attached", "tcp", "unix", "channel", "memcached"])
def target(request: pytest.FixtureRequest, daemon_with: Callable[..., Daemon], memcached_with: Callable[..., Memcached]) -> str:
    """How an empty table is named on the command line."""
    if request.param == "memcached":
        server = memcached_with()
        server.flush()
        return f"{server.host}:{server.port}"
    daemon = daemon_with("-m", "64")
    daemon.flush()
    return (daemon.addresses | {"attached": daemon.name})[request.param]


def test_commands(target: str) -> None:
    status, out, err = session(target, "ADD a 1", "FIND a", "ADD word", "find word", "", "  Delete a", "HELP find", "EXIT", "FIND a")
    assert out[:5] == ["OK", "1", "OK", "word", "OK"]
    assert out[5] == "FIND <key>: show the value of a key"
    assert (status, err) == (0, [])


def test_a_value_is_replaced(target: str) -> None:
    assert session(target, "ADD a 1", "ADD a 2", "FIND a", "FLUSH", "ADD b 3", "FIND b") == (0, ["OK", "OK", "2", "OK", "OK", "3"], [])


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_failures_are_counted(target: str, end: bytes) -> None:
    lines = [
        "FIND none",
        "DELETE none",
        "GET a",
        "ADD",
        "FIND a b",
        "DELETE",
        "FLUSH now",
        "SHOW a b",
        'FIND "a',
        "HELP me",
        "WATCH a 0",
        "ADD a 1",
    ]
    status, out, err = session(target, *lines, end=end)
    assert (status, out) == (1, ["OK"])
    assert [line.partition("error: ")[2] for line in err] == [
        "line 1: no key none",
        "line 2: no key none",
        "line 3: unknown command GET; there are ADD, DELETE, FIND, SHOW, FLUSH, WATCH, HELP, EXIT",
        "line 4: which key? ADD <key> [value]",
        "line 5: one key at a time, with blanks in quotes: FIND <key>",
        "line 6: which key? DELETE <key>",
        "line 7: FLUSH takes no argument",
        "line 8: one prefix at a time, with blanks in quotes: SHOW [prefix]",
        'line 9: a quote has no end; write \\" for one that belongs to the text',
        "line 10: no help for that; there are ADD, DELETE, FIND, SHOW, FLUSH, WATCH, HELP, EXIT",
        "line 11: a count is a number from 1 on: WATCH [prefix [count]]",
    ]


def test_show(target: str) -> None:
    lines = ["ADD b:2 two words", "ADD b:1 1", "ADD a 0", 'ADD "b: 3" ""']
    assert session(target, *lines)[0] == 0
    everything = ["a 0", '"b: 3" ""', "b:1 1", "b:2 two words"]
    until(lambda: session(target, "SHOW") == (0, everything, []), "all keys to be listed")
    assert session(target, "SHOW b:", "SHOW b:*", "SHOW *", "SHOW none", 'SHOW "b:*"') == (0, [*everything[1:] * 2, *everything], [])


def test_what_is_shown_can_be_typed(target: str) -> None:
    """Keys and values of any bytes, through a pipe and back."""
    pairs = {
        b"plain": b"text",
        "ключ".encode(): "значение 漢字".encode(),
        b"two words": b" blanks around ",
        b"escape": b"\x1b[31mred\x1b[0m",
        b"bytes": bytes(range(256)),
        b"\x00\x7f\xff": b"",
        b'"': b'"',
        b"back\\slash": b"C:\\new",
        b"mark": "\u202eright to left, \u200b invisible".encode(),
        b"lines": b"one\r\ntwo\n",
        b"tab\t": b"\t",
    }
    lines = [f"ADD {shown_word(key, 'utf-8')} {shown_value(value, 'utf-8')}" for key, value in pairs.items()]
    assert session(target, *lines) == (0, ["OK"] * len(pairs), [])
    found = [f"FIND {shown_word(key, 'ascii')}" for key in pairs]
    assert session(target, *found) == (0, [shown_value(value, "utf-8") for value in pairs.values()], [])
    until(lambda: len(session(target, "SHOW")[1]) == len(pairs), "all keys to be listed")
    _, shown, _ = session(target, "SHOW")
    assert [tuple(map(take, take_word(line.encode()))) for line in shown] == sorted(pairs.items())
    assert all(char.isprintable() for line in shown for char in line)
    ascii_only = session(target, "SHOW", env={"PYTHONIOENCODING": "ascii"})[1]
    assert [tuple(map(take, take_word(line.encode()))) for line in ascii_only] == sorted(pairs.items())
    assert "".join(ascii_only).isascii()


def take(text: bytes) -> bytes:
    """A key is unquoted already, a value is still as shown."""
    return take_rest(text) if text.startswith(b'"') and text.endswith(b'"') and len(text) > 1 else text


def test_bytes_that_are_no_text(target: str) -> None:
    assert session(target, b"ADD \xff\xfe \x80\x1b", b"FIND \xff\xfe", 'FIND "\\xff\\xfe"') == (0, ["OK", *['"\\x80\\x1b"'] * 2], [])


def test_a_large_value_is_whole_in_a_pipe(target: str) -> None:
    value = "x" * 500_000
    assert session(target, f"ADD big {value}", "FIND big", "SHOW big")[1] == ["OK", value, f"big {value}"]


def test_many_keys(daemon_with: Callable[..., Daemon]) -> None:
    """Above a limit SHOW does not sort, and nothing is left out."""
    daemon = daemon_with("-m", "64")
    daemon.flush()
    with Client(daemon) as client:
        client.send(b"".join(b"set k%d 0 0 1 noreply\r\n1\r\n" % number for number in range(12_000)))
        assert client.ask(b"mn") == b"MN"
    for target in (daemon.name, daemon.unix_path):
        status, out, _ = session(target, "SHOW")
        assert (status, len(out)) == (0, 12_000)
        assert set(out) == {f"k{number} 1" for number in range(12_000)}
    daemon.flush()


def test_a_key_that_the_protocol_cannot_name(daemon_with: Callable[..., Daemon]) -> None:
    """An attached program may have set it: it is shown, and so is all else."""
    daemon = daemon_with("-m", "64")
    daemon.flush()
    long = "a b" * 80
    assert session(daemon.name, f'ADD "{long}" v', "ADD zzz 1", "ADD 0 2", f'ADD "{long[:186]}" w')[1] == ["OK"] * 4
    odd = [f'"{long[:186]}" w', f'"{long}"']
    until(lambda: len(session(daemon.unix_path, "SHOW")[1]) == 4, "all keys to be listed")
    status, out, err = session(daemon.unix_path, "SHOW", "SHOW z")
    assert (status, out) == (1, ["0 2", *odd, "zzz 1", "zzz 1"])
    assert [line.partition("error: ")[2] for line in err] == [
        "line 1: 1 shown without the value: the protocol cannot name a long key with blanks or control characters"
    ]
    assert session(daemon.name, "SHOW") == (0, ["0 2", odd[0], odd[1] + " v", "zzz 1"], [])


def test_the_readers_end(daemon_with: Callable[..., Daemon]) -> None:
    """As with `| head`: no trace of Python, and no waiting for the input's end."""
    daemon = daemon_with("-m", "64")
    daemon.flush()
    with Client(daemon) as client:
        for number in range(50):
            client.set(b"k%d" % number, b"x" * 10_000)
    command = f"echo SHOW | {' '.join(WORDS)} {daemon.name} | head -c 1; echo ${{PIPESTATUS[1]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("k1\n", "")


# Watching


def test_watch_ends_after_so_many(daemon_with: Callable[..., Daemon]) -> None:
    daemon = daemon_with("-m", "64")
    for target in (daemon.name, f"{daemon.host}:{daemon.port}"):
        over = threading.Event()

        def change(over: threading.Event = over) -> None:
            with Client(daemon) as client:
                while not over.wait(0.01):
                    assert client.set(b"other", b"1") == b"STORED"
                    assert client.set(b"user:1", b"\x1b") == b"STORED"
                    assert client.ask(b"delete user:1") == b"DELETED"

        changing = threading.Thread(target=change)
        changing.start()
        try:
            status, out, err = session(target, "WATCH user: 5", "WATCH * 1")
        finally:
            over.set()
            changing.join()
        assert (status, err, len(out)) == (0, [], 6), err
        assert {tuple(line.split()[1:]) for line in out[:5]} <= {("set", "user:1", '"\\x1b"'), ("delete", "user:1")}


def test_watch_without_a_feed(daemon_with: Callable[..., Daemon], memcached_with: Callable[..., Memcached]) -> None:
    daemon, memcached = daemon_with("-m", "8", "--feed", "0"), memcached_with()
    for target in (daemon.name, daemon.unix_path, f"{memcached.host}:{memcached.port}"):
        status, out, err = session(target, "WATCH")
        assert (status, out, len(err)) == (1, [], 1), err


# Where the table is


def test_the_only_table(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = session("")
    assert status == 1
    assert "there is no table on this host; start a daemon, or name a server" in err[0]
    with memcache_shm.open("one", elements=4, element_size=10):
        assert session("", "ADD a 1") == (0, ["OK"], [])
        memcache_shm.open("two", elements=4, element_size=10).close()
        status, _, err = session("")
        assert status == 2
        assert "which table? There are one, two" in err[0]
        memcache_shm.open("memcache_shm-11211", elements=4, element_size=10)["b"] = b"2"
        assert session("", "SHOW") == (0, ["b 2"], [])
        assert session("two", "SHOW") == (0, [], [])


def test_no_such_target(state_dir: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    for target, told in {
        "none": "no table 'none'",
        address: f"{address}: Connection refused",
        f"{tmp_path}/s": f"{tmp_path}/s: No such file or directory",
    }.items():
        status, out, err = session(target, "SHOW")
        assert (status, out, len(err)) == (1, [], 1)
        assert told in err[0]


@pytest.mark.parametrize(("closed", "told"), [("<&-", "input"), (">&-", "output")])
def test_without_a_standard_stream(state_dir: Path, closed: str, told: str) -> None:
    with memcache_shm.open("app", elements=4, element_size=10):
        words = ["sh", "-c", f'"$@" {closed}', "sh", *WORDS, "app"]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr == f"memcache-shm: error: standard {told} is closed; a console needs both\n"


def test_a_port_out_of_range(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["console", "x:99999"]) == 2
    assert "'x:99999': a port must be from 0 to 65535, not 99999" in capsys.readouterr().err


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["a", "b"], ["--timeout", "0", "a"], ["--timeout", "nan", "a"], ["--timeout", "inf", "a"], ["host:port"], ["a b"]):
        assert main(["console", *words]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(SystemExit) as ended:
        main(["console", "--help"])
    assert ended.value.code == 0
    assert "ADD <key> [value]" in capsys.readouterr().out


def test_a_table_that_is_removed_and_comes_back(state_dir: Path) -> None:
    cache = memcache_shm.open("app", elements=4, element_size=10)
    with subprocess.Popen(
        [*WORDS, "app"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as console:
        assert console.stdin is not None
        assert console.stdout is not None
        assert console.stderr is not None
        print("ADD a 1", file=console.stdin)
        assert console.stdout.readline() == "OK\n"
        memcache_shm.unlink("app")
        print("FIND a", file=console.stdin)
        assert "line 2: table 'app' was removed" in console.stderr.readline()
        cache = memcache_shm.open("app", elements=4, element_size=10)
        cache["a"] = b"2"
        print("FIND a", file=console.stdin)
        assert console.stdout.readline() == "2\n"
        console.stdin.close()
        assert console.wait(20) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_table_that_may_only_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """By another user: what would change it says why it does not."""
    as_nobody = (
        "import locale, os, sys; from memcache_shm.cli import console; os.setgid(65534); os.setuid(65534); sys.exit(console.main(['app']))"
    )
    with tempfile.TemporaryDirectory(prefix="ms") as name:
        Path(name).chmod(0o755)
        monkeypatch.setenv("MEMCACHE_SHM_DIR", f"{name}/tables")
        with memcache_shm.open("app", elements=4, element_size=10, mode=0o644) as cache:
            cache["a"] = b"1"
        try:
            data = b"FIND a\nSHOW\nADD b 1\nDELETE a\nFLUSH\n"
            done = subprocess.run([sys.executable, "-c", as_nobody], input=data, capture_output=True, timeout=30, check=False)
            assert (done.returncode, done.stdout) == (1, b"1\na 1\n"), done.stderr
            assert [line.partition("error: ")[2] for line in done.stderr.decode().splitlines()] == [
                f"line {number}: table 'app' is attached with readonly=True" for number in (3, 4, 5)
            ]
        finally:
            memcache_shm.unlink("app")


# Quoting


@pytest.mark.parametrize(
    ("line", "word", "rest"),
    [
        (b"a", b"a", b""),
        (b"  a\t b c ", b"a", b"b c"),
        (b'"a b" c', b"a b", b"c"),
        (b'""', b"", b""),
        (b'"\\"\\\\\\n\\r\\t\\x41\\xFf"  ', b'"\\\n\r\tA\xff', b""),
        (b'a"b\\x41 "c"', b'a"b\\x41', b'"c"'),
        (b"", b"", b""),
    ],
)
def test_words(line: bytes, word: bytes, rest: bytes) -> None:
    assert take_word(line) == (word, rest)


@pytest.mark.parametrize("line", [b'"', b'"a', b'"a\\"', b'"a"b', b'"\\q"', b'"\\x4"', b'"\\xgg"'])
def test_words_that_are_none(line: bytes) -> None:
    with pytest.raises(IllegalInputError):
        take_word(line)


def test_values_in_quotes_end_there() -> None:
    assert take_rest(b' "a b" ') == b"a b"
    assert take_rest(b'say "a b"') == b'say "a b"'
    with pytest.raises(IllegalInputError):
        take_rest(b'"a" b')


@pytest.mark.parametrize("columns", [20, 21, 40, 79])
@pytest.mark.parametrize(
    "value", [b"x" * 200, "漢字".encode() * 50, b"\x1b" * 100, b"a b" * 60, "é".encode() * 90, b"\xff" * 99, "e\u0301".encode() * 100]
)
def test_a_cut_value_fits(value: bytes, columns: int) -> None:
    shown = shown_value(value, "utf-8", columns)
    assert shown.endswith(f" ... ({len(value)} bytes)")
    assert columns - 4 < width(shown) <= columns
    whole = shown_value(value, "utf-8")
    assert whole.startswith(shown.partition(" ...")[0])
    assert shown_value(value, "utf-8", width(whole)) == whole
