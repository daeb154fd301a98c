"""Listening sockets: addresses, stale socket files, errors that name the address."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from memcache_shm.server.listeners import Address, Endpoint, Listener, bind_tcp, bind_unix


def close_all(listeners: list[Listener]) -> None:
    for listener in listeners:
        listener.remove()


def test_one_free_port_for_all_hosts() -> None:
    listeners = bind_tcp([Endpoint("127.0.0.1", 0), Endpoint("127.0.0.2", 0)])
    try:
        ports = {listener.address.port for listener in listeners}
        assert len(ports) == 1 and 0 not in ports
    finally:
        close_all(listeners)


def test_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError) as caught:
            bind_tcp([Endpoint("127.0.0.1", 0), Endpoint("127.0.0.1", port)])
    assert caught.value.errno == errno.EADDRINUSE
    assert caught.value.filename == f"127.0.0.1:{port}"


def test_unknown_host_is_named() -> None:
    with pytest.raises(OSError) as caught:
        bind_tcp([Endpoint("no.such.host.invalid", 0)])
    assert caught.value.filename == "no.such.host.invalid"


def test_addresses_as_printed() -> None:
    assert str(Address("127.0.0.1", 1)) == "127.0.0.1:1"
    assert str(Address("::1", 1)) == "[::1]:1"
    assert str(Address("", 0, "/tmp/s")) == "/tmp/s"


def test_socket_file_has_the_mask_and_goes_at_the_end(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = bind_unix(path, 0o750)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o750
    listener.remove()
    assert not os.path.exists(path)


def test_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    bind_unix(path).close()  # as after a kill: nobody listens, the file is there
    listener = bind_unix(path)
    listener.remove()


def test_live_socket_file_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = bind_unix(path)
    with pytest.raises(OSError) as caught:
        bind_unix(path)
    assert caught.value.errno == errno.EADDRINUSE
    listener.remove()


def test_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        bind_unix(str(path))
    assert path.read_text() == "precious"


def test_anothers_socket_file_is_not_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = bind_unix(path)
    os.unlink(path)
    other = bind_unix(path)
    listener.remove()
    assert os.path.exists(path)
    other.remove()
