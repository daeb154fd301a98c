"""`ls`, `rm` and `ping`, as a shell sees them."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.servers import Daemon

import memcache_shm
from memcache_shm.cli.main import main
from memcache_shm.cli.messages import paint


def test_ls_of_nothing(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_ls(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = memcache_shm.open("app", elements=10, element_size=100)
    memcache_shm.open("big", memory="1m", max_item="1k")
    cache.set_many({"a": b"1", "b": b"2", "c": b"3"})
    assert main(["ls"]) == 0
    head, app, big = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "STATE", "PID", "ITEMS", "FILL", "CREATED", "GEOMETRY"]
    assert app.split()[:5] == ["app", "open", "-", "3", "30%"]
    assert app.endswith(cache.attached_table.geometry.describe())
    assert big.split()[:4] == ["big", "open", "-", "0"]
    assert main(["ls", "--json"]) == 0
    first, _ = json.loads(capsys.readouterr().out)
    assert (first["name"], first["state"], first["items"], first["fill"], first["pid"]) == ("app", "open", 3, 0.3, None)
    assert first["directory"] == str(state_dir)


def test_rm(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two", "three"):
        memcache_shm.open(name, elements=1, element_size=1)
    assert main(["rm", "one"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["rm", "two", "missing", "three"]) == 1
    assert "'missing'" in capsys.readouterr().err
    assert os.listdir(state_dir) == []
    assert main(["rm"]) == 2
    assert main(["rm", "a/b"]) == 2


@pytest.fixture
def answering() -> Iterator[Callable[[socket.socket, bytes], None]]:
    """Listeners that answer one request with what the test wants."""
    threads: list[threading.Thread] = []

    def serve(listener: socket.socket, reply: bytes) -> None:
        listener.listen()
        listener.settimeout(10)

        def answer() -> None:
            with listener, listener.accept()[0] as connection:
                assert connection.recv(100) == b"version\r\n"
                for byte in reply:
                    connection.sendall(bytes([byte]))

        threads.append(threading.Thread(target=answer))
        threads[-1].start()

    yield serve
    for thread in threads:
        thread.join()


def test_ping(
    state_dir: Path, tmp_path: Path, answering: Callable[[socket.socket, bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    tcp = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{tcp.getsockname()[1]}"
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "socket"))
    answering(tcp, b"VERSION 1.6.18\r\n")
    answering(unix, b"VERSION 9\r\n")
    memcache_shm.open("app", elements=1, element_size=1)["key"] = b"1"
    assert main(["ping", address, f"{tmp_path}/socket", "app"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{address}: VERSION 1.6.18 in ")
    assert lines[1].startswith(f"{tmp_path}/socket: VERSION 9 in ")
    assert lines[2].startswith("app: table with 1 items in ")


def test_ping_of_a_channel(daemon_with: Callable[..., Daemon], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = daemon_with("-m", "64")
    assert main(["ping", f"channel:{daemon.unix_path}", f"channel:{tmp_path}/none"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"channel:{daemon.unix_path}: VERSION 1.6.")
    assert err.endswith(f"channel:{tmp_path}/none: No such file or directory; a daemon makes it with -s PATH\n")


@pytest.mark.parametrize("reply", [b"ERROR\r\n", b"VERSION", b"", b"x" * 2000])
def test_ping_of_something_else(
    reply: bytes, answering: Callable[[socket.socket, bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    tcp = socket.create_server(("127.0.0.1", 0))
    answering(tcp, reply[:1024])
    assert main(["ping", f"127.0.0.1:{tcp.getsockname()[1]}"]) == 1
    assert "no memcached answers there" in capsys.readouterr().err


def test_ping_of_nobody(state_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{silent.getsockname()[1]}"
    assert main(["ping", "--timeout", "0.05", address]) == 1
    assert "timed out" in capsys.readouterr().err
    silent.close()
    assert main(["ping", address, str(tmp_path / "none"), "none"]) == 1
    refused, missing, unknown = capsys.readouterr().err.splitlines()
    assert "Connection refused" in refused
    assert "No such file" in missing
    assert "no table 'none'" in unknown


class Terminal:
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_colour_only_where_wanted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert paint("x", "31", terminal) == "\x1b[31mx\x1b[0m"  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "31", terminal) == "x"  # type: ignore[arg-type]
    monkeypatch.delenv("NO_COLOR")
    with (tmp_path / "file").open("w") as file:
        assert paint("x", "31", file) == "x"
