"""What the words of a command line come to, and which are refused, in one line that names the argument."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path

import pytest

from memcache_shm.cli.extended import Extended
from memcache_shm.cli.main import VERBS, main
from memcache_shm.cli.messages import UsageError
from memcache_shm.cli.options import Options, parse
from memcache_shm.server.listeners import Endpoint
from memcache_shm.server.tls import TlsOptions
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
        backlog=1024,
        tls=None,
        geometry=Geometry.by_memory(64 * MIB, MIB),
        evict=True,
        name=None,
        keep=False,
        mode=0o600,
        max_connections=1024,
        channels=256,
        workers=len(os.sched_getaffinity(0)),
        requests_per_event=500,
        lock_memory=False,
        stuck_s=10,
        daemon=False,
        pid_path=None,
        user=None,
        core_dumps=False,
        verbosity=0,
        allow_shutdown=False,
        allow_flush=True,
        allow_dump=True,
        allow_watch=True,
        use_cas=True,
        delimiter=None,
        auth_file=None,
        extended=Extended(),
        save_path=None,
        save_every_s=60,
        backup_dir=None,
        leader=None,
        follow_writable=False,
        fifo_path=None,
        fifo_sessions=8,
    )


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("-c 7", "max_connections", 7),
        ("--channels 0", "channels", 0),
        ("--channels=65536", "channels", 65536),
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
        ("-l '10.0.0.1;10.0.0.2'", "endpoints", (Endpoint("10.0.0.1", 11211), Endpoint("10.0.0.2", 11211))),
        ("-l '*'", "endpoints", (Endpoint("*", 11211),)),
        ("-s /run/x", "endpoints", ()),
        ("-s /run/x -p 5", "endpoints", (Endpoint("127.0.0.1", 5),)),
        ("-s /run/x -l ::1", "endpoints", (Endpoint("::1", 11211),)),
        ("-s /run/x", "unix_path", "/run/x"),
        ("-s x -d", "unix_path", os.path.abspath("x")),
        ("-s x", "unix_path", "x"),
        ("-dP x", "pid_path", os.path.abspath("x")),
        ("-du nobody", "user", "nobody"),
        ("'-u memcache'", "user", "memcache"),
        ("-p -1", "endpoints", (Endpoint("127.0.0.1", 0),)),
        ("-l notls:127.0.0.1:5", "endpoints", (Endpoint("127.0.0.1", 5),)),
        ("-Z -o ssl_chain_cert=c -l notls:127.0.0.1:5,127.0.0.2", "endpoints",
         (Endpoint("127.0.0.1", 5), Endpoint("127.0.0.2", 11211, tls=True))),
        ("-Zo ssl_chain_cert=c", "tls", TlsOptions("c")),
        ("-Zdo ssl_chain_cert=c", "tls", TlsOptions(os.path.abspath("c"))),
        ("-Z -o ssl_chain_cert=c,ssl_key=k,ssl_verify_mode=2 -o ssl_min_version=3,ssl_session_cache,ssl_ca_cert=a,ssl_ciphers=HIGH",
         "tls", TlsOptions("c", "k", "a", 2, "tlsv1.3", "HIGH")),
        ("-Z -o ssl_chain_cert=c,ssl_verify_mode=once,ssl_min_version=tlsv1.1", "tls",
         TlsOptions("c", verify_mode=3, min_version="tlsv1.1")),
        ("-o ssl_chain_cert=c", "tls", None),
        ("-b 7", "backlog", 7),
        ("-R 7", "requests_per_event", 7),
        ("-D ,", "delimiter", ","),
        ("-D-", "delimiter", "-"),
        ("-k", "lock_memory", True),
        ("-vvv", "verbosity", 3),
        ("-AFXWC", "use_cas", False),
        ("-o modern", "extended", Extended()),
        ("-o ''", "extended", Extended()),
        ("-o modern,maxconns_fast,idle_timeout=60,track_sizes", "extended", Extended(idle_timeout_s=60, track_sizes=True)),
        ("-o no_maxconns_fast -o debugtime", "extended", Extended(maxconns_fast=False, allow_debugtime=True)),
        ("-o no_maxconns_fast,maxconns_fast", "extended", Extended()),
        ("--follow cache-1:5", "leader", ("cache-1", 5)),
        ("--follow '[::1]:5'", "leader", ("::1", 5)),
        ("--follow=localhost", "leader", ("localhost", 11211)),
        ("--follow ./s", "leader", "./s"),
        ("-d --follow ./s", "leader", os.path.abspath("s")),
        ("--follow cache-1:5 --follow-writable", "follow_writable", True),
        ("--fifo ./f", "fifo_path", "./f"),
        ("-d --fifo ./f", "fifo_path", os.path.abspath("f")),
        ("--fifo f --fifo-sessions 100", "fifo_sessions", 100),
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
        ("--channels", "--channels"),
        ("--channels -1", "--channels"),
        ("--channels 65537", "--channels"),
        ("--channels some", "--channels"),
        ("-t 0", "-t"),
        ("-p 65536", "-p"),
        ("-p -2", "-p"),
        ("-p", "-p"),
        ("-m 0", "memory"),
        ("-m 1q", "-m"),
        ("-m 1k", "memory"),
        ("-I 1000", "-I"),
        ("-I 1025m", "-I"),
        ("-m 1 -I 1m", "-I"),
        ("-m 64 -I 40m", "-I"),
        ("-a 8", "-a"),
        ("-b 0", "-b"),
        ("-R 0", "-R"),
        ("-D ''", "-D"),
        ("-D ab", "-D"),
        ("-D \u00e4", "-D"),
        ("-f 1", "-f"),
        ("-f x", "-f"),
        ("-n 0", "-n"),
        ("-N x", "-N"),
        ("-U 11211", "-U"),
        ("-B binary", "-B"),
        ("-B xml", "-B"),
        ("-S", "-S"),
        ("-e /x", "-e"),
        ("-Z", "-o ssl_chain_cert"),
        ("-Z -o ssl_chain_cert", "ssl_chain_cert"),
        ("-o nonsense", "-o nonsense"),
        ("-o", "-o"),
        ("-o idle_timeout", "idle_timeout"),
        ("-o idle_timeout=x", "idle_timeout"),
        ("-o idle_timeout=-1", "idle_timeout"),
        ("-o hashpower=3", "hashpower"),
        ("-o hash_algorithm=md5", "hash_algorithm"),
        ("-o ssl_verify_mode=4", "ssl_verify_mode"),
        ("-o ssl_min_version=sslv3", "ssl_min_version"),
        ("-o ssl_keyformat=DER", "ssl_keyformat"),
        ("-o hot_max_factor=x", "hot_max_factor"),
        ("-o ext_path=/x:1G", "ext_path"),
        ("-o modern,proxy_config=/x", "proxy_config"),
        ("-a 7777", "-a"),
        ("--mode rw", "--mode"),
        ("--stuck-s 1", "--stuck-s"),
        ("--stuck-s -1", "--stuck-s"),
        ("--stuck-s never", "--stuck-s"),
        ("--name a/b", "--name"),
        ("-l ''", "-l"),
        ("-l " + ",".join(["127.0.0.1"] * 101), "-l"),
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
        ("--follow", "--follow"),
        ("--follow ''", "--follow"),
        ("--follow cache-1", "--follow"),
        ("--follow cache-1:x", "--follow"),
        ("--follow cache-1:65536", "--follow"),
        ("--follow :5", "--follow"),
        ("--follow-writable", "--follow-writable"),
        ("--fifo", "--fifo"),
        ("--fifo f --feed 0", "--feed 0"),
        ("--fifo-sessions 8", "--fifo-sessions"),
        ("--fifo f --fifo-sessions 0", "--fifo-sessions"),
        ("--fifo f --fifo-sessions 101", "--fifo-sessions"),
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


@pytest.mark.parametrize("word", ["-i", "--license"])
def test_licence(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([word])
    assert end.value.code == 0
    assert capsys.readouterr().out == (Path(__file__).parents[2] / "LICENSE").read_text()


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_what_the_kernel_refuses_is_said_without_its_number(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(words: object) -> int:
        raise OSError(errno.ENOMEM, "cannot make a segment of 9 bytes")

    monkeypatch.setitem(VERBS, "ls", (refuse, ""))
    assert main(["ls"]) == 1
    assert capsys.readouterr().err == "memcache-shm: error: cannot make a segment of 9 bytes\n"
