"""`memcache-shm mirror`, as a shell, a pipe and a terminal see it."""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.scripted import Scripted
from support.servers import Daemon
from support.tables import verb
from support.terminal import Terminal
from support.waiting import until

import memcache_shm
from memcache_shm import Change
from memcache_shm.cli.mirror import Following
from memcache_shm.client.mirror import Mirror
from memcache_shm.ops.telling import change_line, change_object

AT_S = 1_700_000_000.25
FAR_S = 1000


@pytest.fixture(params=["attached", "tcp", "unix"])
def source(request: pytest.FixtureRequest, daemon_with: Callable[..., Daemon]) -> Iterator[tuple[str, memcache_shm.Cache]]:
    """A source as it is written on the command line, and its table, empty."""
    daemon = daemon_with("-m", "64")
    with memcache_shm.attach(daemon.name) as cache:
        cache.flush_all()
        yield {"attached": daemon.name, "tcp": f"{daemon.host}:{daemon.port}", "unix": daemon.unix_path}[request.param], cache


@contextmanager
def mirror(*words: str) -> Iterator[subprocess.Popen[str]]:
    """The verb with its output in pipes; killed at the end if it goes on."""
    with subprocess.Popen(
        [sys.executable, "-m", "memcache_shm", "mirror", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def objects(*words: str) -> list[dict[str, Any]]:
    result = verb("mirror", "--json", *words)
    assert (result.returncode, result.stderr) == (0, "")
    return [json.loads(text) for text in result.stdout.splitlines()]


def test_changes_come_line_by_line(source: tuple[str, memcache_shm.Cache]) -> None:
    """Each at once, although the output is a pipe; what was there is not printed."""
    address, cache = source
    cache.set("there", b"x")
    with mirror(address) as process:
        cache.set("first", b"no matter")
        # Until it listens nothing is printed: go on until the first line comes.
        timer = Repeated(lambda: cache.set("first", b"begin"))
        try:
            assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} set    first  begin\n", line(process))
        finally:
            timer.end()
        cache.set("key", b"two words", expire=FAR_S, flags=5)
        assert next(text for text in iter(lambda: line(process), "") if " first " not in text).endswith(
            time.strftime("set    key  two words  flags 5  until %H:%M:%S\n", time.localtime(exptime(address, "key")))
        )
        cache.touch("key", 0)
        assert line(process).endswith(" touch  key  flags 5  for good\n")
        cache.delete("key")
        assert line(process).endswith(" delete key\n")
        cache.set("key", b"\x1b[31m\n")
        assert line(process).endswith(' set    key  "\\x1b[31m\\n"\n')
        cache.flush_all()
        assert line(process).endswith(" flush  everything\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert line(process) == ""


class Repeated:
    """A call again and again, by a thread, until `end`."""

    def __init__(self, call: Callable[[], object]) -> None:
        import threading

        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(call,))
        self._thread.start()

    def _run(self, call: Callable[[], object]) -> None:
        while not self._over.wait(0.02):
            call()

    def end(self) -> None:
        self._over.set()
        self._thread.join()


def exptime(address: str, key: str) -> int:
    with Mirror(address) as copy:
        return copy.item(key).exptime


def test_all_and_count(source: tuple[str, memcache_shm.Cache]) -> None:
    address, cache = source
    for number in range(10):
        cache.set(f"key{number}", b"%d" % number)
    result = verb("mirror", "--all", "--count", "10", address)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(text.split(" ", 1)[1] for text in result.stdout.splitlines()) == [f"set    key{n}  {n}" for n in range(10)]
    assert len(verb("mirror", "--all", "--count", "3", address).stdout.splitlines()) == 3


def test_json(source: tuple[str, memcache_shm.Cache]) -> None:
    address, cache = source
    cache.set("key", "ключ".encode(), flags=3, expire=FAR_S)
    cache.set(b"\xff\xfe", b"\xff\0")
    before_s = time.time()
    found = {item.get("key", item.get("key_base64")): item for item in objects("--all", "--count", "2", address)}
    item = found["key"]
    assert (item["kind"], item["value"], item["flags"]) == ("set", "ключ", 3)
    assert before_s + FAR_S - 5 < item["exptime"] < before_s + FAR_S + 20
    assert before_s <= item["time"] <= time.time()
    assert b"%d" % item["cas"] == cache.gets("key")[1]
    odd = found[base64.b64encode(b"\xff\xfe").decode()]
    assert base64.b64decode(odd["value_base64"]) == b"\xff\0"
    assert "value" not in odd


def test_errors_are_one_line() -> None:
    cases = {
        ("nothing",): (1, r"no table 'nothing' in .+; 'memcache-shm ls' shows what there is"),
        ("127.0.0.1:1",): (1, r"127\.0\.0\.1:1: Connection refused"),
        ("/nowhere/at/all",): (1, r"/nowhere/at/all: No such file or directory; a daemon makes it with -s PATH"),
        ("[a:b",): (2, r"'\[a:b' is no address; .*"),
        (): (2, r".*required: NAME\|HOST:PORT\|SOCKET .*"),
        ("app", "--count", "0"): (2, r"--count: must be from 1 .*"),
    }
    for words, (status, text) in cases.items():
        result = verb("mirror", *words)
        assert result.returncode == status, (words, result.stderr)
        assert re.fullmatch(f"memcache-shm: error: {text}\n", result.stderr), result.stderr
        assert result.stdout == ""


def test_feed_off(daemon_with: Callable[..., Daemon]) -> None:
    daemon = daemon_with("-m", "64", "--feed", "0")
    for address in (daemon.name, daemon.unix_path):
        result = verb("mirror", address)
        assert result.returncode == 1
        assert re.fullmatch(r"memcache-shm: error: .*the feed .*off.*--feed SIZE\n", result.stderr), result.stderr


def test_help_teaches() -> None:
    result = verb("mirror", "--help")
    assert result.returncode == 0
    for word in ("--all", "--count N", "--json", "NAME|HOST:PORT|SOCKET", "evict", "lost", "--feed", "examples:"):
        assert word in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert re.search(r"^ +mirror +print what changes", verb("--help").stdout, re.MULTILINE)


def test_a_reader_that_has_enough(source: tuple[str, memcache_shm.Cache]) -> None:
    address, cache = source
    for number in range(5000):
        cache.set(f"key{number}", b"x")
    command = f"{sys.executable} -m memcache_shm mirror --all {address} | head -2"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr == ""


def test_more_than_is_queued_for_a_slow_reader(source: tuple[str, memcache_shm.Cache]) -> None:
    """The first items fill the queue before anybody reads; all come."""
    address, cache = source
    for number in range(25_000):
        cache.set(f"key{number}", b"x")
    result = verb("mirror", "--all", "--count", "25000", address)
    assert result.returncode == 0
    assert len({text.split()[2] for text in result.stdout.splitlines()}) == 25_000


class Endless:
    """A source of large values, as many as are taken."""

    VALUE = b"x" * (1 << 20)

    def __init__(self) -> None:
        self.taken = 0

    def read(self, limit_s: float, /) -> list[Change]:
        self.taken += 1
        return [Change("set", b"key%d" % self.taken, self.VALUE)]

    def __enter__(self) -> Endless:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def test_large_values_wait_for_a_slow_reader_where_they_are() -> None:
    """The mirror takes no more from its source than 16 MiB before what is printed, and what it has in its hands."""
    stream = Endless()
    changes = iter(Following(lambda: stream, True))
    for number in range(1, 60):
        until(lambda number=number: stream.taken >= number + 10, "the mirror to go on")  # type: ignore[misc]
        assert next(changes)[1].key == b"key%d" % number
        assert stream.taken <= number + 18
    changes.close()  # type: ignore[attr-defined]  # a generator


def test_without_an_output() -> None:
    command = f"{sys.executable} -m memcache_shm mirror nothing >&-"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 1
    assert re.fullmatch(r"memcache-shm: error: standard output is closed, .*\n", result.stderr)


@pytest.mark.parametrize("exptime", [2**40, 2**62, 2**64, 10**30, 10**400, -(10**30)])
def test_expiries_that_are_no_time(exptime: int) -> None:
    """A server may say what it likes."""
    talk = b"OK\r\nNOTIFY set key 0 %d 1 1\r\nx\r\nSYNCED 1\r\n" % exptime
    for words in (("--json",), ()):
        with Scripted([(b"sync\r\n", talk), (b"-", Scripted.SILENCE)]) as server:
            result = verb("mirror", "--all", "--count", "1", *words, server.address)
        assert (result.returncode, result.stderr) == (0, "")
        assert str(exptime) in result.stdout or exptime == 2**40  # which is a time, in the year 36812


def test_the_source_restarts(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("s") / "s")
    with Daemon("64", "100", "-s", path) as daemon, memcache_shm.attach(daemon.name) as cache:
        cache.set("old", b"x")
        process_words = ("--json", "--all", path)
        with mirror(*process_words) as process:
            assert json.loads(line(process))["key"] == "old"
            daemon.stop()
            assert process.stderr is not None
            assert re.fullmatch(rf"memcache-shm: mirror: {path}: connection lost.*; trying again\n", process.stderr.readline())
            with Daemon("64", "100", "-s", path) as other, memcache_shm.attach(other.name) as anew:
                anew.set("new", b"x")
                heard = [json.loads(line(process)) for _ in range(2)]
                assert sorted((change["kind"], change["key"]) for change in heard) == [("delete", "old"), ("set", "new")]


# On a terminal


def shown(*words: str, columns: int = 60, **env: str) -> Terminal:
    return Terminal([sys.executable, "-m", "memcache_shm", "mirror", *words], env, 24, columns)


def test_on_a_terminal(source: tuple[str, memcache_shm.Cache]) -> None:
    """Coloured, cut to its width, and Ctrl-C ends it quietly."""
    address, cache = source
    cache.set("key", b"v" * 1000, flags=7)
    with shown("--all", address) as terminal:
        terminal.expect(r"\x1b\[32mset   \x1b\[0m key  v+ \.\.\. \(1000 bytes\)\x1b\[2m  flags 7\x1b\[0m\r\n")
        terminal.expect("1 item; changes follow, Ctrl-C ends\r\n")
        cache.delete("key")
        terminal.expect(r"\x1b\[31mdelete\x1b\[0m key\r\n")
        terminal.interrupt()
        assert terminal.ends() == 0
        plain = re.sub(r"\x1b\[[\d;]*m", "", terminal.text)
        assert max(len(text.rstrip("\r")) for text in plain.split("\n")) <= 60
        assert "Traceback" not in plain


def test_no_colour(source: tuple[str, memcache_shm.Cache]) -> None:
    address, cache = source
    cache.set("key", b"value")
    with shown("--all", "--count", "1", address, NO_COLOR="1") as terminal:
        terminal.expect(r"set    key  value\r\n")
        assert terminal.ends() == 0
        assert "\x1b" not in terminal.text


# Lines and objects


LINES = {
    Change("set", b"a b", b"", 0, 0, 1): '"a b"  ""',
    Change("set", b"key", "ключ".encode(), 0, 0, 1): "key  ключ",
    Change("expire", b"key", cas=4): "key",
    Change("flush", None): "everything",
    Change("lost", None, first=3, last=17): "what came between 3 and 17 was not told",
}


@pytest.mark.parametrize(("change", "text"), LINES.items(), ids=[change.kind for change in LINES])
def test_lines(change: Change, text: str) -> None:
    moment, kind, rest = change_line(change, AT_S, "utf-8").split(" ", 2)
    assert moment == time.strftime("%H:%M:%S.250", time.localtime(AT_S))
    assert kind == change.kind
    assert rest.strip() == text


def test_far_expiry_has_its_date() -> None:
    change = Change("touch", b"key", None, 0, int(AT_S) + 100_000, 1)
    assert change_line(change, AT_S, "utf-8").endswith(time.strftime("until %Y-%m-%d %H:%M:%S", time.localtime(change.exptime)))


@pytest.mark.parametrize("columns", range(30, 120, 7))
def test_lines_fit(columns: int) -> None:
    change = Change("set", b"key", "ж漢".encode() * 500, 1, int(AT_S) + 5, 1)
    text = change_line(change, AT_S, "utf-8", columns)
    assert "bytes)" in text
    wide = sum(2 if char == "漢" else 1 for char in text)
    assert wide <= max(columns, 70)
    assert len(change_line(change, AT_S, "utf-8")) > 1000


def test_objects() -> None:
    assert change_object(Change("lost", None, first=3, last=17), 1.5) == {"time": 1.5, "kind": "lost", "first": 3, "last": 17}
    assert change_object(Change("flush", None), 1.5) == {"time": 1.5, "kind": "flush"}
    assert change_object(Change("evict", b"key", cas=9), 1.5) == {"time": 1.5, "kind": "evict", "key": "key", "cas": 9}
    touched = {"time": 1.5, "kind": "touch", "key": "key", "flags": 1, "exptime": 2, "cas": 3}
    assert change_object(Change("touch", b"key", None, 1, 2, 3), 1.5) == touched
