"""What the words of a command line come to, and which are refused, in one line that names the argument."""

from __future__ import annotations

import os
import shlex

import pytest

from memcache_shm.cli.main import main
from memcache_shm.cli.messages import UsageError
from memcache_shm.cli.options import Options, parse
from memcache_shm.server.listeners import Endpoint
from memcache_shm.storage.geometry import Geometry
from memcache_shm.storage.units import format_size, parse_size

MIB = 2**20


def options(line: str) -> Options:
    return parse(shlex.split(line), "")


def test_defaults() -> None:
    assert options("") == Options(
        endpoints=(Endpoint("127.0.0.1", 11211),),
        unix_path=None,
        unix_mask=0o700,
        geometry=Geometry.by_memory(64 * MIB, MIB),
        evict=True,
        max_connections=1024,
        workers=len(os.sched_getaffinity(0)),
        verbosity=0,
        name=None,
        keep=False,
        mode=0o600,
        stuck_s=10,
    )


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("-c 7", "max_connections", 7),
        ("-t 3", "workers", 3),
        ("-v", "verbosity", 1),
        ("-vv", "verbosity", 2),
        ("-vvM", "evict", False),
        ("-a 770", "unix_mask", 0o770),
        ("-a 0666", "unix_mask", 0o666),
        ("--mode 640", "mode", 0o640),
        ("--mode=0o640", "mode", 0o640),
        ("--name app", "name", "app"),
        ("--keep", "keep", True),
        ("--stuck-s 0", "stuck_s", 0),
        ("--stuck-s=2", "stuck_s", 2),
        ("1024 256", "geometry", Geometry.by_elements(1024, 256)),
        ("-v 1024 256 -t 1", "geometry", Geometry.by_elements(1024, 256)),
        ("-m 10", "geometry", Geometry.by_memory(10 * MIB, MIB)),
        ("-m10", "geometry", Geometry.by_memory(10 * MIB, MIB)),
        ("'-m 10'", "geometry", Geometry.by_memory(10 * MIB, MIB)),
        ("--memory-limit=10", "geometry", Geometry.by_memory(10 * MIB, MIB)),
        ("-m 512k", "geometry", Geometry.by_memory(MIB // 2, MIB // 8)),
        ("-m 1g -I 8m", "geometry", Geometry.by_memory(1024 * MIB, 8 * MIB)),
        ("-I 4096", "geometry", Geometry.by_memory(64 * MIB, 4096)),
        ("-p 0", "endpoints", (Endpoint("127.0.0.1", 0),)),
        ("-p11212", "endpoints", (Endpoint("127.0.0.1", 11212),)),
        ("'-p 11212'", "endpoints", (Endpoint("127.0.0.1", 11212),)),
        ("-l 10.0.0.1,localhost:5 -l '[::1]:6,[::2]' -l ::3 -p 7", "endpoints",
         (Endpoint("10.0.0.1", 7), Endpoint("localhost", 5), Endpoint("::1", 6), Endpoint("::2", 7), Endpoint("::3", 7))),
        ("-l '*'", "endpoints", (Endpoint("*", 11211),)),
        ("-s /run/x", "endpoints", ()),
        ("-s /run/x -p 5", "endpoints", (Endpoint("127.0.0.1", 5),)),
        ("-s /run/x -l ::1", "endpoints", (Endpoint("::1", 11211),)),
        ("-s /run/x", "unix_path", "/run/x"),
    ],
)  # fmt: skip
def test_meaning(line: str, name: str, value: object) -> None:
    assert getattr(options(line), name) == value


@pytest.mark.parametrize(
    ("line", "argument"),
    [
        ("-c 0", "-c"),
        ("-c -1", "-c"),
        ("-c many", "-c"),
        ("-t 0", "-t"),
        ("-p 65536", "-p"),
        ("-p -1", "-p"),
        ("-p", "-p"),
        ("-m 0", "memory"),
        ("-m 1q", "-m"),
        ("-m 1k", "memory"),
        ("-I 1000", "-I"),
        ("-I 1025m", "-I"),
        ("-m 1 -I 1m", "-I"),
        ("-a 8", "-a"),
        ("-a 7777", "-a"),
        ("--mode rw", "--mode"),
        ("--stuck-s 1", "--stuck-s"),
        ("--stuck-s -1", "--stuck-s"),
        ("--stuck-s never", "--stuck-s"),
        ("--name a/b", "--name"),
        ("-l ''", "-l"),
        ("-l 1.2.3.4:x", "-l"),
        ("-l 1.2.3.4:65536", "-l"),
        ("-l '[::1'", "-l"),
        ("1024", "NUM_ELEMENTS ELEMENT_SIZE"),
        ("1 2 3", "NUM_ELEMENTS ELEMENT_SIZE"),
        ("serve", "serve"),
        ("0 10", "NUM_ELEMENTS"),
        ("10 0", "ELEMENT_SIZE"),
        ("-5 10", "NUM_ELEMENTS"),
        ("10 10 -m 5", "-m"),
        ("--no-such", "--no-such"),
        ("-Q", "-Q"),
    ],
)
def test_refusal(line: str, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError):
        options(line)
    assert main(shlex.split(line)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("memcache-shm: error: ")
    assert said.err.count("\n") == 1
    assert argument in said.err


@pytest.mark.parametrize("word", ["-h", "--help", "-V", "--version"])
def test_help_and_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([word])
    assert end.value.code == 0
    assert "memcache-shm" in capsys.readouterr().out


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    from memcache_shm.cli.main import VERBS

    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for verb, (_, line) in VERBS.items():
        assert f"  {verb}" in said
        assert line in said
        with pytest.raises(SystemExit):
            main([verb, "--help"])


@pytest.mark.parametrize(("size", "size_bytes"), [("0", 0), ("64m", 64 * MIB), (" 1K ", 1024), ("2GiB", 2**31), ("3kb", 3072), (17, 17)])
def test_sizes(size: str | int, size_bytes: int) -> None:
    assert parse_size(size, "memory") == size_bytes


@pytest.mark.parametrize("size", ["", "m", "-1", "1.5m", "1 m m", "\u0661x", None, True, 1.0])
def test_what_is_no_size(size: object) -> None:
    with pytest.raises(ValueError, match="memory"):
        parse_size(size, "memory")  # type: ignore[arg-type]


def test_sizes_for_people() -> None:
    assert [format_size(n) for n in (0, 1023, 1024, 1536, 64 * MIB, 3 * 2**30)] == [
        "0 bytes", "1023 bytes", "1 KiB", "1.5 KiB", "64 MiB", "3 GiB",
    ]  # fmt: skip
