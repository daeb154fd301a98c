"""As a service manager starts it: into the background, as another user, with a pid file, by memcached's own wrapper script."""

from __future__ import annotations

import os
import pwd
import re
import resource
import shlex
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.client import Client
from support.isolation import is_running
from support.servers import START_LINE, Daemon, Memcached
from support.supervision import await_line, shm_stats
from support.waiting import until

ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
USER = pwd.getpwnam("nobody")
WRAPPER = Path("/usr/share/memcached/scripts/systemd-memcached-wrapper")
CONFIGURATION = Path("/etc/memcached.conf")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that every user may write to and reach; tables are in it, too."""
    with tempfile.TemporaryDirectory(prefix="ms") as directory:
        os.chmod(directory, 0o777)
        monkeypatch.setenv("MEMCACHE_SHM_DIR", f"{directory}/tables")
        yield Path(directory)


class Background:
    """A daemon that was started with -d, and what its starter said; ended by its pid."""

    def __init__(self, place: Path, *words: str, cwd: Path | None = None) -> None:
        self.pid_file = place / "pid"
        command = [sys.executable, "-m", "memcache_shm", "-d", "-P", str(self.pid_file), "-t", "1", "-p", "0", *words]
        # Both streams are read to their end: that comes only when no process of the daemon holds them.
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=cwd)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        match = START_LINE.search(done.stderr)
        assert match, done.stderr
        self.addresses = match["addresses"].split()
        self.name = match["name"]
        self.pid = int(match["pid"])

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if is_running(self.pid):
            os.kill(self.pid, signal.SIGTERM)
        until(lambda: not is_running(self.pid), "the daemon to end", 20.0)

    def ask(self, request: bytes) -> bytes:
        """Through the first TCP address, at once: it listens already."""
        host, _, port = self.addresses[0].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(request + b"quit\r\n")
            return b"".join(iter(lambda: client.recv(65536), b""))


def refused(*words: str) -> tuple[int, str]:
    """Exit status and the one line of a start that fails."""
    command = [sys.executable, "-m", "memcache_shm", "-t", "1", "-p", "0", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr


def ids_of(pid: int) -> dict[str, list[int]]:
    """Real, effective, saved and file system ids, and groups, of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return {name: [int(number) for number in numbers.split()] for name, numbers in re.findall(r"^(Uid|Gid|Groups):(.*)$", text, re.M)}


# -d and -P


def test_it_serves_when_the_starter_returns(place: Path) -> None:
    with Background(place) as daemon:
        assert daemon.ask(b"set key 0 0 1\r\nx\r\nget key\r\n") == b"STORED\r\nVALUE key 0 1\r\nx\r\nEND\r\n"
        assert daemon.pid_file.read_text() == f"{daemon.pid}\n"
        assert b"STAT pid %d\r\n" % daemon.pid in daemon.ask(b"stats\r\n")
        assert os.getsid(daemon.pid) == daemon.pid
        assert os.readlink(f"/proc/{daemon.pid}/cwd") == "/"
        assert {os.readlink(f"/proc/{daemon.pid}/fd/{stream}") for stream in range(3)} == {os.devnull}
    assert not daemon.pid_file.exists()
    assert os.listdir(place / "tables") == []


def test_relative_paths_are_those_of_the_starter(place: Path) -> None:
    with Background(place, "-s", "s", cwd=place):
        assert stat.S_ISSOCK((place / "s").stat().st_mode)
    assert sorted(os.listdir(place)) == ["tables"]


def test_failures_of_the_daemon_are_the_starters(place: Path) -> None:
    with Background(place) as daemon:
        for words, status, said in (
            (("--name", daemon.name), 1, f"pid {daemon.pid}"),
            (("-l", daemon.addresses[0]), 1, "Address already in use"),
            (("-l", "no.such.host.invalid"), 1, "no.such.host.invalid"),
            (("-c", "0"), 2, "-c"),
        ):
            assert refused("-d", *words)[0] == status
            assert said in refused("-d", *words)[1]
        assert daemon.ask(b"mn\r\n") == b"MN\r\n"


def test_pid_file_that_cannot_be_written(place: Path) -> None:
    for words in ((), ("-d",)):
        status, said = refused(*words, "-P", f"{place}/none/pid")
        assert status == 1
        assert f"-P: cannot write {place}/none/pid: No such file or directory" in said
        status, said = refused(*words, "-P", f"{place}/tables")
        assert status == 1
        assert f"-P: cannot write {place}/tables: exists and is no regular file; choose another" in said
    assert os.listdir(place / "tables") == []


def test_pid_file_without_d(place: Path) -> None:
    path = place / "pid"
    with Daemon("-P", str(path)) as daemon:
        assert path.read_text() == f"{daemon.pid}\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert not path.exists()


def test_anothers_pid_file_stays(place: Path) -> None:
    path = place / "pid"
    path.write_text("an older one's\n")
    with Daemon("-P", str(path)) as daemon:
        assert path.read_text() == f"{daemon.pid}\n"
        path.write_text("1\n")
    assert path.read_text() == "1\n"


# -u


@pytest.fixture
def groups() -> Iterator[None]:
    """Root with other groups besides its own, as at a login."""
    before = os.getgroups()
    os.setgroups([0, 4, 24])
    yield
    os.setgroups(before)


@only_root
def test_root_becomes_the_user(place: Path, groups: None) -> None:
    with Background(place, "-u", USER.pw_name, "-s", f"{place}/s", "-k", "-r") as daemon:
        expected = {"Uid": [USER.pw_uid] * 4, "Gid": [USER.pw_gid] * 4, "Groups": []}
        assert ids_of(daemon.pid) == expected
        worker = int(re.findall(rb"worker_0_pid (\d+)", daemon.ask(b"stats shm\r\n"))[0])
        assert ids_of(worker) == expected
        assert os.readlink(f"/proc/{daemon.pid}/cwd") == os.getcwd()  # -r: where cores go, as in memcached
        for path in (daemon.pid_file, place / "s", place / "tables" / f"{daemon.name}.json"):
            assert path.stat().st_uid == USER.pw_uid
        assert daemon.ask(b"mn\r\n") == b"MN\r\n"
    assert sorted(os.listdir(place)) == ["tables"]
    assert os.listdir(place / "tables") == []


@only_root
def test_pid_file_where_only_root_may_write(place: Path) -> None:
    (place / "run").mkdir(0o755)
    path = place / "run" / "pid"
    with Daemon("-u", USER.pw_name, "-P", str(path), "-s", f"{place}/s") as daemon:
        assert path.read_text() == f"{daemon.pid}\n"
        assert ids_of(daemon.pid)["Uid"] == [USER.pw_uid] * 4
    assert path.exists()


@only_root
def test_ports_below_1024_are_bound_by_root(place: Path) -> None:
    port = next(port for port in range(1000, 1023) if _is_free(port))
    with Daemon("-p", str(port), "-u", USER.pw_name, "-s", f"{place}/s") as daemon, Client(daemon) as client:
        assert client.ask(b"mn") == b"MN"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_unknown_user(place: Path) -> None:
    if ROOT:
        assert refused("-u", "no-such-user") == (
            2,
            "memcache-shm: error: -u: no user is called 'no-such-user' on this host ('memcache-shm' without -u serves as root)\n",
        )
    else:  # as memcached: only root is asked
        with Daemon("-u", "no-such-user"):
            pass


# What starters look for


@pytest.mark.parametrize("more", [(), ("-l", "::1")])
def test_port_file_as_memcached_writes_it(place: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]) -> None:
    with Memcached(*more) as memcached:
        written = Path(memcached.directory.name, "port").read_text()
    monkeypatch.setenv("MEMCACHED_PORT_FILENAME", f"{place}/port")
    with Background(place, "-p", "-1", "-l", "127.0.0.1", "-s", f"{place}/s", *more) as daemon:
        ours = (place / "port").read_text()
        assert re.findall(r": (\d+)", ours) == [address.rpartition(":")[2] for address in daemon.addresses[:-1]]
    assert re.sub(r"\d+$", "N", ours, flags=re.M) == re.sub(r"\d+$", "N", written, flags=re.M)


def test_debians_wrapper_and_configuration(place: Path) -> None:
    """The script that runs what is in /etc/memcached.conf, with our command in place of memcached's; a free port, and files of the test."""
    wrapper = WRAPPER.read_text().replace("/usr/bin/memcached", f"{sys.executable} -m memcache_shm -s {place}/s")
    wrapper = wrapper if ROOT else wrapper.replace("$> != 0", "0")
    (place / "wrapper").write_text(wrapper)
    (place / "conf").write_text(re.sub(r"^-P .*", f"-P {place}/pid", CONFIGURATION.read_text().replace("-p 11211", "-p 0"), flags=re.M))
    assert "-P" in (place / "conf").read_text()
    with Daemon(command=["perl", f"{place}/wrapper", f"{place}/conf"]) as daemon, Client(daemon) as client:
        assert (place / "pid").read_text() == f"{daemon.pid}\n"
        user = "memcache" if ROOT else pwd.getpwuid(os.geteuid()).pw_name
        assert ids_of(daemon.pid)["Uid"] == [pwd.getpwnam(user).pw_uid] * 4
        assert client.ask(b"mn") == b"MN"


# Limits and signals


def test_descriptors_suffice_for_c(place: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    command = f"ulimit -Sn 256; exec {shlex.quote(sys.executable)} -m memcache_shm -p 0 -t 1 -c 1000"
    assert hard == resource.RLIM_INFINITY or hard >= 1128
    with Daemon(command=["bash", "-c", command]) as daemon:
        for pid in (daemon.pid, *daemon.workers):
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert int(re.findall(r"Max open files +(\d+)", limits)[0]) >= 1128


@pytest.mark.parametrize(
    ("channels", "told"), [(22, ""), (23, "only 300 descriptors allowed, 301 wanted for 150 connections and 23 channels; ")]
)
def test_too_few_descriptors_are_told(place: Path, channels: int, told: str) -> None:
    """The daemon takes as many as it may have, says what that is not enough for, and serves."""
    powerless = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"] if ROOT else []  # root raises any limit
    within = [*powerless, "prlimit", "--nofile=256:300"]
    with Daemon("-c", "150", "--channels", str(channels), within=within) as daemon, Client(daemon, "channel") as client:
        assert client.ask(b"mn") == b"MN"
        expected = [f"memcache-shm: {told}raise ulimit -n, or lower -c or --channels"] if told else []
        assert [line for line in daemon.lines if "descriptors" in line] == expected
        for pid in (daemon.pid, *daemon.workers):
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (300, 300)


def test_memory_is_locked_or_that_is_told() -> None:
    """A process without the right to lock so much serves all the same."""
    with Daemon("-k") as daemon, Client(daemon) as client:
        assert client.ask(b"mn") == b"MN"
        told = any("-k: memory is not locked" in line for line in daemon.lines)
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        assert (int(re.findall(r"VmLck:\s+(\d+)", status)[0]) == 0) == told


def test_above_c_clients_are_told(place: Path) -> None:
    with Daemon("-c", "1") as daemon, Client(daemon) as client:
        assert client.ask(b"mn") == b"MN"
        with Client(daemon) as other:
            assert other.line() == b"ERROR Too many open connections"


def test_above_c_clients_wait_when_that_is_asked_for(place: Path) -> None:
    with Daemon("-c", "1", "-o", "no_maxconns_fast") as daemon, Client(daemon) as client:
        assert client.ask(b"mn") == b"MN"
        with Client(daemon) as other:
            other.send(b"mn\r\n")
            until(lambda: client.stats()["listen_disabled_num"] == "1", "accepting to pause")
            assert client.ask(b"mn") == b"MN"
            client.close()
            assert other.line() == b"MN"
            stats = other.stats()
            assert (stats["rejected_connections"], stats["listen_disabled_num"]) == ("0", "1")
            assert int(stats["time_in_listen_disabled_us"]) > 0


def test_sighup_and_sigusr1_end_nobody(place: Path) -> None:
    with Daemon(workers=2) as daemon, Client(daemon) as client:
        workers = set(daemon.workers)
        daemon.process.send_signal(signal.SIGHUP)
        await_line(daemon, "SIGHUP: no file to read again")
        for process in [*workers, daemon.pid]:
            os.kill(process, signal.SIGUSR1)
        for worker in workers:  # a terminal that hangs up tells all of them
            os.kill(worker, signal.SIGHUP)
        daemon.process.send_signal(signal.SIGHUP)
        await_line(daemon, "SIGHUP: no file to read again", 2)
        assert client.ask(b"mn") == b"MN"
        assert shm_stats(client)["shm_workers_killed"] == "0"
        assert set(daemon.workers) == workers


def test_settings_have_memcacheds_names_and_our_values(place: Path) -> None:
    with Memcached() as memcached, Client(memcached) as client:
        names = settings(client).keys()
    line = f"-c 99 -b 77 -R 9 -D , -AFXWC -a 750 -s {place}/s -m 8 -I 512k -o idle_timeout=60,track_sizes,no_maxconns_fast"
    with Daemon(*shlex.split(line), workers=2) as daemon, Client(daemon) as client:
        told = settings(client)
    assert {name for name in names if not name.startswith("ext_")} <= told.keys()
    expected = {
        "maxbytes": str(8 * 2**20), "maxconns": "99", "tcp_backlog": "77", "reqs_per_event": "9", "stat_key_prefix": ",",
        "detail_enabled": "yes", "shutdown_command": "yes", "flush_enabled": "no", "dump_enabled": "no", "cas_enabled": "no",
        "umask": "750", "domain_socket": f"{place}/s", "item_size_max": str(512 * 1024), "idle_timeout": "60", "track_sizes": "yes",
        "maxconns_fast": "no", "num_threads": "2", "ssl_enabled": "no", "auth_enabled_ascii": "no", "tcpport": str(daemon.port),
    }  # fmt: skip
    assert {name: told[name] for name in expected} == expected


def settings(client: Client) -> dict[str, str]:
    client.send(b"stats settings\r\n")
    return dict(line.decode().split(" ", 2)[1:] for line in iter(client.line, b"END"))
