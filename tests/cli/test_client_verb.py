"""`memcache-shm client`, as a shell and a pipe see it."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.client import Client
from support.scripted import VERSION, Scripted
from support.servers import Daemon
from support.tables import verb
from support.terminal import Terminal
from support.waiting import until

import memcache_shm
from memcache_shm.cli.main import main
from memcache_shm.client.listing import list_tables
from memcache_shm.client.wire import Connection, ConnectionLost
from memcache_shm.errors import RemoteError
from memcache_shm.ops import pipelining
from memcache_shm.ops.operations import Operation, Result, of_line
from memcache_shm.ops.pipelining import WINDOW_BYTES, batches_of, carry_out

Said = Callable[[], tuple[str, str]]
USUAL = ("insert", "1", "2", "insert", "2", "4", "read", "1", "delete", "2", "read", "2", "delete", "2", "read", "1")
TOLD = """\
insert 1: stored
insert 2: stored
read 1: 2
delete 2: deleted
read 2: not found
delete 2: not found
read 1: 2
"""


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Standard output and standard error since the last call."""

    def read() -> tuple[str, str]:
        out, error = capsys.readouterr()
        return out, error

    return read


@pytest.mark.parametrize("identity", ["name", "port", "unix", "channel"])
def test_operations_in_their_order(daemon: Daemon, identity: str, said: Said) -> None:
    written = daemon.addresses | {"name": daemon.name, "port": str(daemon.port)}
    assert main(["client", written[identity], *USUAL]) == 0
    assert said() == (TOLD, "")
    with memcache_shm.attach(daemon.name) as cache:
        assert cache.get("1") == b"2"


def test_keys_and_values_of_any_kind(daemon: Daemon, said: Said) -> None:
    """Nothing of them reaches the terminal that could move its cursor; a negative number is no option."""
    assert main(["client", daemon.name, "insert", "a b", "x\x1b[2J\ny", "read", "a b", "insert", "empty", "", "read", "empty"]) == 0
    assert said()[0].splitlines()[1::2] == ['read "a b": "x\\x1b[2J\\ny"', 'read empty: ""']
    assert main(["client", daemon.name, "insert", "-1", "-2", "read", "-1", "insert", "-", "insert", "read", "-", "read", "\udcff"]) == 0
    assert said()[0].splitlines()[1::2] == ["read -1: -2", "read -: insert"]
    assert main(["client", daemon.name, "read", "\udcff"]) == 0
    assert said()[0] == 'read "\\xff": not found\n'


def test_json(daemon: Daemon, said: Said) -> None:
    with memcache_shm.attach(daemon.name) as cache:
        cache.set("odd", b"\xff\0")
    assert main(["client", "--json", daemon.name, "insert", "k", "ключ", "read", "k", "read", "odd", "read", "x", "delete", "k"]) == 0
    assert [json.loads(line) for line in said()[0].splitlines()] == [
        {"operation": "insert", "key": "k", "result": "stored"},
        {"operation": "read", "key": "k", "result": "found", "value": "ключ"},
        {"operation": "read", "key": "odd", "result": "found", "value_base64": base64.b64encode(b"\xff\0").decode()},
        {"operation": "read", "key": "x", "result": "not found"},
        {"operation": "delete", "key": "k", "result": "deleted"},
    ]


def test_one_that_fails_and_those_behind_it(daemon_with: Callable[..., Daemon], said: Said) -> None:
    daemon = daemon_with("2", "100", "-M")
    daemon.flush()
    inserts = [word for key in "abc" for word in ("insert", key, "1")]
    assert main(["client", daemon.name, *inserts, "insert", "a", "x" * 101, "read", "b"]) == 1
    out, error = said()
    assert error == ""
    assert out.splitlines() == [
        "insert a: stored",
        "insert b: stored",
        "insert c: failed: out of memory storing object",
        "insert a: failed: object too large for cache",
        "read b: 1",
    ]
    assert main(["client", "--json", daemon.name, "insert", "d", "1", "insert", "e", "1"]) == 1  # a set that is too large removed a
    assert [json.loads(line).get("reason") for line in said()[0].splitlines()] == [None, "out of memory storing object"]


def test_standard_input(daemon: Daemon) -> None:
    """In its place among the others, quoted as in the console."""
    lines = 'insert "two words" a value of blanks\n\ninsert q "\\x41\\"b"\r\nread "two words"\nread q\ndelete nothing'
    result = verb("client", daemon.name, "insert", "1", "2", "-", "read", "1", text=lines)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "insert 1: stored",
        'insert "two words": stored',
        "insert q: stored",
        'read "two words": a value of blanks',
        'read q: A"b',
        "delete nothing: not found",
        "read 1: 2",
    ]


def test_many_operations_of_a_pipe(daemon: Daemon) -> None:
    """Far more than any buffer takes, replies and requests; each line is the one that is due."""
    count = 40_000
    lines = "".join(f"insert key{number} value{number}\nread key{number}\n" for number in range(count))
    result = verb("client", str(daemon.port), "-", text=lines)
    assert (result.returncode, result.stderr) == (0, "")
    due = [line for number in range(count) for line in (f"insert key{number}: stored", f"read key{number}: value{number}")]
    assert result.stdout.splitlines() == due


def test_lines_that_are_none(daemon: Daemon) -> None:
    """Each is told with its number, and the others are carried out."""
    result = verb("client", daemon.name, "-", text='insert a\nfoo\nread "a\n\ninsert a 1\nread a b\nread ' + "k" * 251 + "\n")
    assert result.returncode == 1
    assert result.stdout == "insert a: stored\n"
    told = result.stderr.splitlines()
    assert [re.findall(r"error: line (\d): ", line)[0] for line in told] == ["1", "2", "3", "6", "7"]
    assert told[0].endswith("write 'insert KEY VALUE'")
    assert told[1].endswith("unknown operation foo; there are insert, read, delete")


def client(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "memcache_shm", "client", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def test_a_daemon_that_is_killed_amid(state_dir: object) -> None:
    """A line is carried out as it comes; what is known is printed, then one line says why there is no more."""
    with Daemon("16", "100") as daemon, client(daemon.unix_path, "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("insert a 1\n")
        assert process.stdout.readline() == "insert a: stored\n"
        daemon.stop(signal.SIGKILL)
        process.stdin.write("read a\n")
        assert process.stdout.read() == ""
        assert re.fullmatch(r"memcache-shm: error: .*connection lost.*\n", process.stderr.read())
        assert process.wait(10) == 1


def test_no_daemon(state_dir: object, said: Said) -> None:
    """What there is, and what helps, in one line."""
    memcache_shm.open("alone", elements=1, element_size=1).close()
    cases = {
        ("nothing", "read", "1"): (1, "no table 'nothing' in .+; 'memcache-shm ls' shows what there is"),
        ("11299", "read", "1"): (1, "no table 'memcache_shm-11299' in .+; 'memcache-shm ls' .*"),
        ("alone", "read", "1"): (1, "no daemon serves table 'alone'; start one with '-s PATH --name alone'"),
        ("/nowhere/at/all", "read", "1"): (1, "channel:/nowhere/at/all: No such file or directory.*"),
        ("alone",): (2, "which operations.*"),
        ("alone", "insert", "1"): (2, "insert: VALUE is missing; write 'insert KEY VALUE'"),
        ("alone", "find", "1"): (2, "unknown operation find; there are insert, read, delete"),
        ("alone", "read", "1", "--json"): (2, "--json is no operation; options go before ID"),
        ("alone", "read", ""): (2, "Key is empty"),
        ("a,b", "read", "1"): (2, "ID: 'a,b' cannot name a table.*"),
        ("127.0.0.1:11211", "read", "1"): (2, "ID: '127.0.0.1:11211' is no table of this host, .*write .*the PORT alone.*"),
        ("channel:app", "read", "1"): (2, "'channel:app' is no address; write channel: and the path of .*"),
    }
    for words, (status, text) in cases.items():
        assert main(["client", *words]) == status, words
        out, error = said()
        assert out == ""
        assert re.fullmatch(f"memcache-shm: error: {text}\n", error), error


def test_a_daemon_without_a_socket(state_dir: object, said: Said) -> None:
    command = [sys.executable, "-m", "memcache_shm", "-p", "0", "16", "100", "--name", "tcp-only"]
    with Daemon(command=command):
        assert main(["client", "tcp-only", "read", "1"]) == 1
        assert said() == ("", "memcache-shm: error: the daemon of table 'tcp-only' has no UNIX socket; start it with -s PATH\n")


def test_on_a_terminal(daemon: Daemon) -> None:
    """Coloured where it failed or was not found; a long value is cut to a line."""
    with Client(daemon) as other:
        other.set(b"long", b"v" * 1000)
    words = [sys.executable, "-m", "memcache_shm", "client", daemon.name, "read", "none", "read", "long"]
    with Terminal(words, columns=60) as terminal:
        terminal.expect(r"read none: \x1b\[33mnot found\x1b\[0m\r\n")
        terminal.expect(r"read long: v+ \.\.\. \(1000 bytes\)\r\n")
        assert terminal.ends() == 0
        assert max(len(line.rstrip("\r")) for line in terminal.text.split("\n")[1:]) <= 60


def test_help_teaches(said: Said) -> None:
    with pytest.raises(SystemExit):
        main(["client", "--help"])
    text = said()[0]
    for word in ("insert KEY VALUE", "read KEY", "delete KEY", "ID", "--json", "exit status", "examples:"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 100


def test_examples_of_the_help(state_dir: Path, tmp_path: Path, said: Said, no_leaks: None) -> None:
    """As they stand there, on a port and a socket of their own."""
    with pytest.raises(SystemExit):
        main(["client", "--help"])
    lines = said()[0].partition("examples:\n")[2].splitlines()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    outputs = []
    try:
        for line in lines:
            command = line.partition(" | jq")[0].replace("11211", port).replace("/tmp/cache.sock", f"{tmp_path}/s")
            command = command.replace("memcache-shm", f"{shlex.quote(sys.executable)} -m memcache_shm")
            outputs.append(subprocess.check_output(command, shell=True, text=True, timeout=30))
    finally:
        for table in list_tables():
            assert table.pid
            os.kill(table.pid, signal.SIGTERM)
        until(lambda: not list_tables(), "the end of the daemon")
    assert outputs[1:3] == [
        "insert 1: stored\ninsert 2: stored\nread 1: 2\ndelete 2: deleted\n",
        '{"operation": "read", "key": "1", "result": "found", "value": "2"}\n',
    ]
    assert outputs[3].splitlines()[-2:] == ["insert key100000: stored", "read key7: 7"]


# Windows


class Recorded(Connection):
    """Counts what is sent while replies to it are due."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sent: list[int] = []
        super().__init__(address, 5.0)

    def send(self, data: bytes) -> None:
        self.sent.append(len(data))
        super().send(data)


def test_windows(daemon: Daemon) -> None:
    """So small that the server takes each without a look at its replies; one that is larger goes alone."""
    operations = [Operation("insert", b"%d" % number, b"x" * 1000) for number in range(200)]
    operations.insert(100, Operation("insert", b"big", b"x" * 100_000))
    with Recorded((daemon.host, daemon.port)) as connection:
        del connection.sent[:]
        results = carry_out(connection, iter(operations))
        assert next(results).outcome == "stored"
        assert len(connection.sent) == 1, "the second window waits for the first one's replies"
        assert sum(result.outcome == "stored" for result in results) == 200
        large = [size for size in connection.sent if size > WINDOW_BYTES]
        assert len(large) == 1
        assert large[0] < 100_100
        assert 7 <= len(connection.sent) <= 10


def test_what_is_known_when_the_connection_is_lost() -> None:
    operations = [Operation("read", b"a"), Operation("delete", b"b"), Operation("read", b"c")]
    requests = b"".join(operation.request() for operation in operations)
    with Scripted([VERSION, (requests, b"VA 1\r\n1\r\nNF\r\n")]) as server:
        host, port = server.address.split(":")
        with Connection((host, int(port)), 5.0) as connection:
            results = carry_out(connection, operations)
            assert [next(results).outcome, next(results).outcome] == ["found", "not found"]
            with pytest.raises(ConnectionLost):
                next(results)


@pytest.mark.parametrize("reply", [b"HI\r\n", b"VA 1 x\r\n", b"STORED\r\n"])
def test_a_reply_that_is_none(reply: bytes) -> None:
    operation = Operation("delete", b"a")
    with Scripted([VERSION, (operation.request(), reply)]) as server:
        host, port = server.address.split(":")
        with Connection((host, int(port)), 5.0) as connection, pytest.raises(RemoteError, match="unexpected reply"):
            list(carry_out(connection, [operation]))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


def test_a_line_without_end(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left out, however many pieces it comes in, and the next one is carried out."""
    monkeypatch.setattr(pipelining, "LINE_MAX_BYTES", 3000)
    monkeypatch.setattr(pipelining, "_PIECE_BYTES", 1000)
    os.write(pipe[1], b"read a\ninsert b " + b"x" * 5000 + b"\nread c\n" + b"read " + b"y" * 3000)
    os.close(pipe[1])
    told: list[str] = []
    batches = list(batches_of(pipe[0], told.append))
    assert [operation.key for batch in batches for operation in batch] == [b"a", b"c"]
    assert [line.partition(";")[0] for line in told] == ["line 2: more than 0 MiB", "line 4: more than 0 MiB"]


# Lines and objects


RESULTS: dict[Result, Any] = {
    Result("insert", b"1", "stored"): "insert 1: stored",
    Result("read", b"a b", "found", b" x"): 'read "a b": " x"',
    Result("insert", b"k", "failed", reason="no\x1b room"): "insert k: failed: no\\x1b room",
}


@pytest.mark.parametrize(("result", "text"), RESULTS.items())
def test_lines(result: Result, text: str) -> None:
    assert result.line("utf-8") == text


def test_a_line_of_quoted_words() -> None:
    assert of_line(b'  "insert"  "a b"  "" ') == Operation("insert", b"a b", b"")
    assert of_line(b" \t ") is None
