"""The process that serves sessions beside a table that no daemon looks after, as a job runner has it; opening pipes by the clock."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pytest
from support.pipes import DELETED, Pipes, PipeUser, open_files, stopped, subscribe_message, write_to
from support.waiting import until

import memcache_shm
from memcache_shm.ops.descriptor_loop import DescriptorLoop
from memcache_shm.ops.fifo import hold_fifo, make_fifo, remove_fifo
from memcache_shm.ops.pipe_host import serve_pipes
from memcache_shm.ops.pipe_messages import Registration
from memcache_shm.ops.pipe_opening import OPEN_LIMIT_S, Opening
from memcache_shm.ops.pipe_session import Session
from memcache_shm.ops.registration_pipe import RegistrationPipe
from memcache_shm.ops.remarks import Remarks
from memcache_shm.storage import registry

NAME = "piped"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[memcache_shm.Cache]:
    monkeypatch.setenv("MEMCACHE_SHM_DIR", str(tmp_path / "tables"))
    with memcache_shm.open(NAME, memory="4m") as cache:
        yield cache
    registry.remove(NAME)


class Served:
    """A child that serves the table, and its registration pipe."""

    def __init__(self, reclaims: bool) -> None:
        self.place = Pipes()
        self.fifo = f"{self.place.directory}/f"
        make_fifo(self.fifo)
        held = hold_fifo(self.fifo)  # so that nobody who registers comes too early
        self.pid = os.fork()
        if self.pid == 0:
            _serve(self.fifo, reclaims)
        _await_open(self.pid, self.fifo)
        os.close(held)

    def end(self) -> int:
        """By SIGTERM; its exit status. Again and again: amid a finalizer the exception of a handler is lost."""
        ended = (0, 0)
        while not ended[0]:
            os.kill(self.pid, signal.SIGTERM)
            with contextlib.suppress(AssertionError):
                ended = until(self._ended, "it to end", timeout_s=2.0)
        status = os.waitstatus_to_exitcode(ended[1])
        remove_fifo(self.fifo)
        self.place.remove()
        return status

    def _ended(self) -> tuple[int, int] | None:
        ended = os.waitpid(self.pid, os.WNOHANG)
        return ended if ended[0] else None


def _await_open(pid: int, path: str) -> None:
    """Once the child has opened it for itself, beside what it inherited."""
    until(lambda: open_files(pid).count(path) == 2, "the child to serve")


def _serve(fifo: str, reclaims: bool) -> NoReturn:
    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit

    status = 1
    try:
        signal.signal(signal.SIGTERM, leave)
        status = serve_pipes(NAME, fifo, 8, reclaims)
    except SystemExit:
        status = 0
    finally:
        os._exit(status)


@pytest.fixture(params=[False, True], ids=["swept by nobody", "reclaims"])
def served(request: pytest.FixtureRequest, table: memcache_shm.Cache) -> Iterator[Served]:
    served = Served(request.param)
    yield served
    assert served.end() == 0


def test_a_session(served: Served, table: memcache_shm.Cache) -> None:
    table.set("key", b"1")
    with PipeUser(served.fifo) as user:
        assert user.connected().subscribe(b"key") == 1
        table.set("key", b"2")
        assert user.note() == (b"key", b"2")
        os.kill(served.pid, signal.SIGUSR1)
        assert user.ends()


def test_expiry_that_nobody_else_notices(served: Served, table: memcache_shm.Cache) -> None:
    table.set("key", b"1", expire=1)
    table.set("touched", b"1")
    with PipeUser(served.fifo) as user:
        assert user.connected().subscribe(b"key") == 1
        assert user.subscribe(b"touched") == 1
        table.touch("touched", 1)
        assert {user.note(), user.note()} == {(b"key", DELETED), (b"touched", DELETED)}


def test_what_is_dead_is_swept_while_somebody_is_subscribed(table: memcache_shm.Cache) -> None:
    served = Served(True)
    try:
        table.set("key", b"1")
        table.set("dead", b"x", expire=1)
        with PipeUser(served.fifo) as user:
            assert user.connected().subscribe(b"key") == 1
            until(lambda: table.stats()[b"curr_items"] == 1, "the sweep")
    finally:
        assert served.end() == 0


def test_a_key_that_is_subscribed_again_before_its_change_was_told(served: Served, table: memcache_shm.Cache) -> None:
    """The change is told all the same, once."""
    table.set("key", b"0")
    with PipeUser(served.fifo) as user:
        assert user.connected().subscribe(b"key") == 1
        for number in range(1, 30):
            with stopped(served.pid):
                table.set("key", b"%d" % number)
                user.send(subscribe_message(b"key"))
            assert user.answer() == b"\3\1"
            assert user.note() == (b"key", b"%d" % number)


def test_another_table_of_the_name(served: Served, table: memcache_shm.Cache) -> None:
    """What is in it is not what was subscribed, even if it looks the same, versions included."""
    table.set("key", b"1")
    with PipeUser(served.fifo) as user:
        assert user.connected().subscribe(b"key") == 1
        with stopped(served.pid):
            registry.remove(NAME)
            with memcache_shm.open(NAME, memory="4m") as anew:
                anew.set("key", b"1")
        assert user.note() == (b"key", DELETED)
        assert user.unsubscribe(b"key") == 1
        assert user.subscribe(b"key") == 1
        with memcache_shm.attach(NAME) as anew:
            anew.set("key", b"2")
        assert user.note() == (b"key", b"2")


def test_a_table_that_is_away_for_a_while(served: Served, table: memcache_shm.Cache) -> None:
    """Who asks meanwhile is answered when there is another one."""
    table.set("key", b"1")
    with PipeUser(served.fifo) as user, PipeUser(served.fifo) as other:
        assert user.connected().subscribe(b"key") == 1
        registry.remove(NAME)
        other.connected().send(subscribe_message(b"new"))
        assert user.unsubscribe(b"none") == 1  # it is not waited for
        with memcache_shm.open(NAME, memory="4m") as anew:
            assert user.note() == (b"key", DELETED)
            assert other.answer() == b"\3\0"
            anew.set("new", b"1")
            assert other.subscribe(b"new") == 1


def test_a_table_without_a_feed_cannot_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("MEMCACHE_SHM_DIR", str(tmp_path / "tables"))
    make_fifo(str(tmp_path / "f"))
    with memcache_shm.open(NAME, memory="4m", feed=0):
        assert serve_pipes(NAME, str(tmp_path / "f"), 8, True) == 1
        assert "no sessions over named pipes: the feed of table 'piped' is off" in caplog.text
    registry.remove(NAME)


# The registration pipe, removed and replaced


def test_a_pipe_that_was_removed_before_the_start_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As somebody may do while its server is down."""
    path = tmp_path / "f"
    pipe = RegistrationPipe(str(path))
    assert messages(caplog) == [f"the registration pipe {path} was removed; it is made anew"]
    assert path.is_fifo()
    assert not pipe.look()
    path.unlink()
    assert pipe.look()
    assert pipe.identity == (path.stat().st_dev, path.stat().st_ino)
    write_to(str(path), b"text")
    assert os.read(pipe.descriptor, 10) == b"text"
    pipe.close()
    assert path.is_fifo()


def test_a_pipe_that_cannot_be_made_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "d" / "f"
    pipe = RegistrationPipe(str(path))
    for _ in range(3):
        assert not pipe.look()
    assert (pipe.descriptor, len(messages(caplog))) == (-1, 1)
    assert "No such file or directory" in messages(caplog)[0]
    path.parent.mkdir()
    path.write_text("somebody's")
    for _ in range(3):
        assert not pipe.look()
    assert messages(caplog)[1:] == [
        f"no more clients can register: {path} is no named pipe any more; somebody replaced it: restart its server"
    ]
    path.unlink()
    assert pipe.look()
    assert messages(caplog)[2] == f"the registration pipe {path} was removed; it is made anew"
    assert messages(caplog)[3].startswith("clients can register again after ")
    path.unlink()
    path.write_text("somebody's")
    for _ in range(3):
        assert not pipe.look()
    assert messages(caplog)[4:] == [f"somebody has replaced {path}: no more clients can register; restart"]
    assert path.read_text() == "somebody's"
    pipe.close()


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


# Opening, with a clock of the test's own


def opening(pipes: Pipes) -> Opening:
    return Opening(Registration(*pipes.paths), lambda identity: False, 0.0)


def test_the_limit_counts_again_from_the_place_on() -> None:
    """Who waits long for a place may open its notifications after that."""
    with Pipes() as pipes:
        responses = os.open(pipes.paths[1], os.O_RDONLY | os.O_NONBLOCK)
        made = opening(pipes)
        made.attempt(0.0)
        assert made.is_ready
        made.begin(100.0)
        made.attempt(100.0 + OPEN_LIMIT_S - 0.1)
        assert (made.problem, made.is_complete) == (None, False)
        made.attempt(100.0 + OPEN_LIMIT_S)
        assert made.problem == "it did not open its side of a pipe within 5 s"
        made.close()
        os.close(responses)


class Nobody:
    """Subscriptions of a table without items."""

    def subscribe(self, who: Session, key: bytes) -> bool:
        return False

    def unsubscribe(self, who: Session, key: bytes) -> bool:
        return False

    def leave(self, who: Session) -> None:
        """There is nothing to leave."""


def test_a_session_begins_the_limit_anew() -> None:
    loop = DescriptorLoop()
    with Pipes() as pipes:
        responses = os.open(pipes.paths[1], os.O_RDONLY | os.O_NONBLOCK)
        made = opening(pipes)
        made.attempt(0.0)
        session = Session(made, Nobody(), loop, 100.0)
        assert os.read(responses, 2) == b"\1\0"
        session.look(100.0 + OPEN_LIMIT_S - 0.1)
        assert not session.over
        session.look(100.0 + OPEN_LIMIT_S)
        assert (session.over, session.reason) == (True, "it did not open its side of a pipe within 5 s")
        assert os.read(responses, 2) == b""
        os.close(responses)
    loop.close()


def test_tries_become_rarer() -> None:
    with Pipes() as pipes:
        made = opening(pipes)
        now_s = 0.0
        pauses: list[float] = []
        while made.problem is None:
            made.attempt(now_s)
            pauses.append(round(made.due_s - now_s, 6))
            now_s = made.due_s
        assert pauses == sorted(pauses)
        assert pauses[0] <= 0.001
        assert pauses[-1] == 0.05
        assert made.is_hopeless
        made.close()


def test_no_descriptor_is_lost(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    spoilers: list[Callable[[Pipes], object]] = [
        lambda pipes: None,
        lambda pipes: os.unlink(pipes.paths[0]),
        lambda pipes: os.unlink(pipes.paths[2]),
        lambda pipes: Path(os.fsdecode(pipes.paths[1])).rename(tmp_path / "away"),
    ]
    for spoil in spoilers:
        with Pipes() as pipes:
            spoil(pipes)
            made = opening(pipes)
            made.attempt(0.0)
            made.attempt(OPEN_LIMIT_S)
            made.refuse()
            assert descriptors() == before


def test_remarks_have_a_limit_and_count_what_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    remarks = Remarks(logging.getLogger("test"))
    for number in range(150):
        remarks.say(f"line {number}")
    told = len(caplog.records)
    assert 100 <= told < 110
    until(lambda: remarks.say("more") or len(caplog.records) > told, "a line again")
    assert " such lines left out before)" in caplog.records[-1].getMessage()
