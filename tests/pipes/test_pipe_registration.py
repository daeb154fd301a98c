"""Registering for a session over named pipes: places and waiting, bad messages, pipes that are none, and tricks with paths."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.pipes import (
    PipeDaemon,
    Pipes,
    PipeUser,
    connect_message,
    open_pipes,
    padded,
    read_exactly,
    subscribe_message,
    users,
    write_to,
)
from support.supervision import await_line, said
from support.waiting import until

import memcache_shm

PLACES = 8
NOBODY = 65534
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


def escaped(path: bytes | str) -> str:
    return os.fsdecode(path).replace(".", r"\.")


def test_the_registration_pipe(piped: PipeDaemon) -> None:
    found = os.lstat(piped.fifo)
    assert stat.S_ISFIFO(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600


def test_twenty_clients_for_eight_places(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """Further ones wait, in their order, and get a place each time that another one leaves, however that does."""
    cache.set("key", b"1")
    waiting: list[PipeUser] = []
    with users(piped, PLACES) as served:
        try:
            for _ in range(20 - PLACES):
                waiting.append(PipeUser(piped.fifo))
            for number, user in enumerate(served):
                assert user.subscribe(b"key") == 1
                assert all(other.is_quiet() for other in waiting[number:])
                if number % 2:
                    user.close()
                else:
                    assert user.disconnect() == 0
                waiting[number].connected()
            for number, user in enumerate(waiting[PLACES:], PLACES):
                assert user.is_quiet()
                waiting[number - PLACES].close()
                user.connected()
                assert user.subscribe(b"key") == 1
        finally:
            for user in waiting:
                user.close()


def test_fewer_places() -> None:
    with PipeDaemon("8", "8", "--fifo-sessions", "1") as daemon, PipeUser(daemon.fifo) as first, PipeUser(daemon.fifo) as second:
        first.connected()
        assert second.is_quiet()
        assert first.disconnect() == 0
        second.connected()


def test_waiting_clients_that_died(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """They cost nothing but a line, whether their pipes are there or not: who comes behind them is served at once."""
    with users(piped, PLACES) as served, contextlib.ExitStack() as stack:
        gone = [PipeUser(piped.fifo) for _ in range(4)]
        for user in gone:
            user.close()
        left_behind = [stack.enter_context(Pipes()) for _ in range(4)]
        for pipes in left_behind:
            write_to(piped.fifo, connect_message(pipes.paths))
        with PipeUser(piped.fifo) as alive:
            served[0].close()
            began_s = time.monotonic()
            alive.connected()
            assert time.monotonic() - began_s < 4.0
            served[1].close()
            with piped.user() as other:
                assert other.subscribe(b"none") == 0
        await_line(piped, f"pipe session of {gone[0].pipes.paths[0].decode()}: .*No such file or directory; refused")
        await_line(piped, f"pipe session of {left_behind[0].paths[0].decode()}: it did not open its side of a pipe within 5 s; refused")


def test_more_dead_ones_than_are_opened_at_a_time(piped: PipeDaemon) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            write_to(piped.fifo, connect_message(stack.enter_context(Pipes()).paths))
        with PipeUser(piped.fifo) as user:
            user.connected()  # when the first ones are given up


ORDERS: dict[str, tuple[int, ...]] = {"as named": (0, 1, 2), "responses first": (1, 0, 2), "notifications first": (2, 1, 0)}


@pytest.mark.parametrize("order", ORDERS)
def test_clients_that_open_their_sides_one_by_one_and_wait(piped: PipeDaemon, cache: memcache_shm.Cache, order: str) -> None:
    """As programs do that open blocking: each open returns when the server has opened its side."""
    with Pipes() as pipes:
        write_to(piped.fifo, connect_message(pipes.paths))
        opened = {}
        for which in ORDERS[order]:
            opened[which] = os.open(pipes.paths[which], os.O_WRONLY if which == 0 else os.O_RDONLY)
        assert os.read(opened[1], 2) == b"\1\0"
        for descriptor in opened.values():
            os.close(descriptor)


def test_a_client_that_opens_its_notifications_after_the_answer(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    cache.set("key", b"1")
    with Pipes() as pipes:
        write_to(piped.fifo, connect_message(pipes.paths))
        requests = os.open(pipes.paths[0], os.O_WRONLY)
        responses = os.open(pipes.paths[1], os.O_RDONLY)
        assert os.read(responses, 2) == b"\1\0"
        os.write(requests, subscribe_message(b"key"))
        assert os.read(responses, 2) == b"\3\1"
        cache.set("key", b"2")
        notifications = os.open(pipes.paths[2], os.O_RDONLY)
        assert read_exactly(notifications, 82, 10.0) == padded(b"key", 41) + padded(b"2", 41)
        for descriptor in (requests, responses, notifications):
            os.close(descriptor)


@pytest.mark.parametrize("missing", [1, 2])
def test_clients_that_never_open_a_side(piped: PipeDaemon, missing: int) -> None:
    with Pipes() as pipes:
        write_to(piped.fifo, connect_message(pipes.paths))
        opened = [os.open(pipes.paths[0], os.O_WRONLY)]
        opened += [os.open(pipes.paths[which], os.O_RDONLY | os.O_NONBLOCK) for which in (1, 2) if which != missing]
        await_line(piped, f"pipe session of {pipes.paths[0].decode()}: it did not open its side of a pipe within 5 s; (ended|refused)")
        for descriptor in opened:
            os.close(descriptor)


# Bad pipes

Spoil = Callable[[list[bytes], Path], list[bytes]]


def no_pipe(paths: list[bytes], directory: Path) -> list[bytes]:
    os.unlink(paths[0])
    Path(os.fsdecode(paths[0])).write_text("text")
    return paths


def missing(paths: list[bytes], directory: Path) -> list[bytes]:
    os.unlink(paths[2])
    return paths


def no_directory(paths: list[bytes], directory: Path) -> list[bytes]:
    return [b"/etc/passwd/q", *paths[1:]]


def a_directory(paths: list[bytes], directory: Path) -> list[bytes]:
    return [b"/tmp", *paths[1:]]


def a_device(paths: list[bytes], directory: Path) -> list[bytes]:
    return [*paths[:2], b"/dev/zero"]


def no_text(paths: list[bytes], directory: Path) -> list[bytes]:
    return [*paths[:2], b"/tmp/none\xff\xc2\x9b"]


def same(paths: list[bytes], directory: Path) -> list[bytes]:
    return [paths[2], paths[1], paths[2]]


def link_to_pipe(paths: list[bytes], directory: Path) -> list[bytes]:
    os.symlink(paths[0], directory / "l")
    return [os.fsencode(directory / "l"), *paths[1:]]


def link_of_another(paths: list[bytes], directory: Path) -> list[bytes]:
    os.symlink(".", directory / "d")
    os.chown(directory / "d", NOBODY, NOBODY, follow_symlinks=False)
    return [os.fsencode(directory / "d/q"), *paths[1:]]


def pipe_of_another(paths: list[bytes], directory: Path) -> list[bytes]:
    os.chown(paths[0], NOBODY, NOBODY)
    return paths


BAD_PIPES: dict[str, tuple[Spoil, str]] = {
    "a regular file": (no_pipe, "/q: is no named pipe"),
    "none": (missing, "/n: No such file or directory"),
    "beneath a file": (no_directory, "/etc/passwd/q: Not a directory"),
    "a directory": (a_directory, "/tmp: is no named pipe"),
    "a device": (a_device, "/dev/zero: is no named pipe"),
    "a path that is no text": (no_text, r"/tmp/none\\xff\\xc2\\x9b: No such file or directory"),
    "the same twice": (same, "two of its pipes are the same"),
    "a link in its place": (link_to_pipe, "/l: is a symbolic link"),
}
OF_ANOTHER: dict[str, tuple[Spoil, str]] = {
    "a link of another user": (link_of_another, rf"/d/q: d is a symbolic link of another user \(uid {NOBODY}\)"),
    "a pipe of another user": (pipe_of_another, "its pipes are not all of one owner"),
}


@pytest.mark.parametrize("what", [*BAD_PIPES, *(pytest.param(what, marks=AS_ROOT) for what in OF_ANOTHER)])
def test_bad_pipes_are_refused(piped: PipeDaemon, what: str) -> None:
    spoil, problem = (BAD_PIPES | OF_ANOTHER)[what]
    with Pipes() as pipes:
        paths = spoil(list(pipes.paths), Path(pipes.directory))
        responses = os.open(pipes.paths[1], os.O_RDONLY | os.O_NONBLOCK)
        write_to(piped.fifo, connect_message(paths))
        assert read_exactly(responses, 2, 10.0) == b"\1\1"
        assert read_exactly(responses, 1, 10.0) == b""
        os.close(responses)
        await_line(piped, f"pipe session of .*{problem}; refused")


def test_a_link_of_ones_own_on_the_way_is_fine(piped: PipeDaemon) -> None:
    with Pipes() as pipes:
        os.symlink(".", f"{pipes.directory}/d")
        opened = [os.open(pipes.paths[0], os.O_RDWR), *(os.open(path, os.O_RDONLY | os.O_NONBLOCK) for path in pipes.paths[1:])]
        write_to(piped.fifo, connect_message([path.replace(b"/q", b"/d/./d/q") for path in pipes.paths]))
        assert read_exactly(opened[1], 2, 10.0) == b"\1\0"
        for descriptor in opened:
            os.close(descriptor)


def test_pipes_that_are_in_use(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """Neither another session's pipes nor the registration pipe itself are taken, and nothing is written to them."""
    cache.set("key", b"1")
    with piped.user() as user, Pipes() as pipes:
        name = escaped(pipes.paths[0])
        for paths in ([pipes.paths[0], user.pipes.paths[1], pipes.paths[2]], [pipes.paths[0], piped.fifo.encode(), pipes.paths[2]]):
            before = len(said(piped, name))
            write_to(piped.fifo, connect_message(paths))
            await_line(piped, f"pipe session of {name}: one of its pipes is in use already; refused", before + 1)
        user.register()
        await_line(piped, f"pipe session of {escaped(user.pipes.paths[0])}: one of its pipes is in use already; refused")
        assert user.is_quiet()
        assert user.subscribe(b"key") == 1
    with piped.user() as other:
        assert other.disconnect() == 0


# Bad messages

BAD_MESSAGES = {
    "unknown code": (b"\7" + 120 * b"\0", r"unknown code 7 \(121 bytes dropped\)"),
    "text": (b"hello\n", r"unknown code 104 \(6 bytes dropped\)"),
    "unterminated": (b"\1" + 40 * b"p" + 80 * b"\0", r"a path without a NUL within its 40 bytes \(121 bytes dropped\)"),
    "empty": (b"\1" + 120 * b"\0", r"an empty path \(121 bytes dropped\)"),
    "short": (b"\1/tmp/q", r"a message (of 7 bytes, which has 121|cut short, .* \(7 bytes dropped\))"),
}


@pytest.mark.parametrize("what", BAD_MESSAGES)
def test_a_good_client_behind_a_bad_message(piped: PipeDaemon, what: str) -> None:
    data, problem = BAD_MESSAGES[what]
    with PipeUser(piped.fifo, registers=False) as user:
        write_to(piped.fifo, data + connect_message(user.pipes.paths))
        user.connected()
    await_line(piped, f"registration pipe: {problem}")


def test_a_message_that_stays_short(piped: PipeDaemon) -> None:
    write_to(piped.fifo, b"\1/tmp/short")
    await_line(piped, "registration pipe: a message of 11 bytes, which has 121")
    with piped.user() as user:
        assert user.disconnect() == 0


def test_a_message_in_pieces(piped: PipeDaemon) -> None:
    with PipeUser(piped.fifo, registers=False) as user:
        for byte in connect_message(user.pipes.paths):
            write_to(piped.fifo, bytes([byte]))
        user.connected()


def test_messages_behind_each_other_in_one_write(piped: PipeDaemon) -> None:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(PipeUser(piped.fifo, registers=False)) for _ in range(5)]
        write_to(piped.fifo, b"".join(connect_message(user.pipes.paths) for user in made))
        for user in made:
            user.connected()


def test_a_flood_of_garbage(piped: PipeDaemon, cache: memcache_shm.Cache) -> None:
    """Those who have a session are served meanwhile, who comes behind it as well, and the log has its limits."""
    chance = random.Random(3)
    cache.set("key", b"0")
    lines = len(piped.lines)
    with piped.user() as user, PipeUser(piped.fifo, registers=False) as behind:
        assert user.subscribe(b"key") == 1
        for number in range(300):
            write_to(piped.fifo, chance.randbytes(4000))
            if number % 30 == 0:
                cache.set("key", b"%d" % number)
                user.notes_until(b"key", b"%d" % number)
        behind.register()
        behind.connected()
    assert len(piped.lines) - lines < 300


def test_nothing_is_left_open(piped: PipeDaemon) -> None:
    """After all that: no descriptor, and no place, is lost."""
    until(lambda: open_pipes(piped.pipe_server) == 0, "the last clients to be forgotten", 10.0)
    with users(piped, PLACES) as served:
        assert open_pipes(piped.pipe_server) >= 3 * len(served)
    until(lambda: open_pipes(piped.pipe_server) == 0, "the last clients to be forgotten", 10.0)


@pytest.fixture(autouse=True)
def _quiet(piped: PipeDaemon) -> Iterator[None]:
    """Each test begins with all places free."""
    until(lambda: open_pipes(piped.pipe_server) == 0, "earlier clients to be forgotten", 20.0)
    yield
