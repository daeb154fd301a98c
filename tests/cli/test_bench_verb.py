"""`memcache-shm bench`, as a shell and a viewer of images see it. How fast the doors are is no matter here."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from support.terminal import Terminal
from support.waiting import until

import memcache_shm
from memcache_shm.cli import bench, bench_image
from memcache_shm.cli.main import main
from memcache_shm.client.addresses import written
from memcache_shm.client.listing import list_tables
from memcache_shm.errors import MemcacheError
from memcache_shm.ops.door_bench import DOORS, Figures
from memcache_shm.ops.private_daemon import PrivateDaemon

Said = Callable[[], tuple[str, str]]
FIGURES = Figures(10, 20, 12, 22, 1_000_000, 5, 0.25, 20, 40, 22, 42)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Standard output and standard error since the last call."""

    def read() -> tuple[str, str]:
        out, error = capsys.readouterr()
        return out, error

    return read


def test_tables(state_dir: Path, tmp_path: Path, said: Said, no_leaks: None) -> None:
    """Both, with a line for each door, and a picture; nothing is left."""
    path = tmp_path / "doors.png"
    assert main(["bench", "--seconds", "1", "--value-bytes", "50", "--png", str(path)]) == 0
    out, error = said()
    assert error == ""
    assert out.startswith("values of 50 bytes, 1 worker, ")
    for name in ("attached", "channel", "UNIX socket", "TCP"):
        bare, client = re.findall(rf"^{name} +(.*)$", out, re.MULTILINE)
        figures = [float(figure.replace(",", "")) for figure in bare.split()]
        assert len(figures) == 8
        assert all(figure > 0 for figure in figures)
        assert len(client.split()) == 5
    assert re.findall(r"^UNIX socket.* (\S+)$", out, re.MULTILINE) == ["1.0", "1.0"]
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list_tables() == []


def test_json_of_some_doors(state_dir: Path, said: Said, no_leaks: None) -> None:
    assert main(["bench", "--seconds", "1", "--json", "-t", "2", "--value-bytes", "300000", "--only", "unix", "channel"]) == 0
    found = json.loads(said()[0])
    assert (found["value_bytes"], found["workers"], list(found["doors"])) == (300_000, 2, ["channel", "unix"])
    for figures in found["doors"].values():
        assert 0 < figures["get_us"] <= figures["get_p99_us"]
        assert 0 < figures["client_set_us"] <= figures["client_set_p99_us"]
        assert figures["cpu_pipelined_us"] > 0
    assert found["doors"]["unix"]["get_times_unix"] == 1.0


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where a process may make its temporary files; short, since a socket's path has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ms") as directory:
        yield Path(directory)


@pytest.mark.parametrize(("number", "again"), [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGTERM, False)])
def test_a_signal_amid(state_dir: Path, temporary: Path, no_leaks: None, number: int, again: bool) -> None:
    """It ends by that, quietly, and its daemon is gone before; no more signals, however many, keep it from that."""
    command = [sys.executable, "-m", "memcache_shm", "bench", "--seconds", "60"]
    env = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        until(lambda: any(table.items for table in list_tables()), "its daemon's table to be filled")
        process.send_signal(number)
        while again and process.poll() is None:
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.002)
        assert process.communicate(timeout=15) == ("", "")
    assert process.returncode == -number
    assert (os.listdir(temporary), os.listdir(state_dir)) == ([], [])


@pytest.mark.parametrize("when", ["start", "end"])
def test_a_private_daemon_that_is_interrupted(state_dir: Path, temporary: Path, no_leaks: None, when: str) -> None:
    """A signal that comes while it is started, or stopped, has to wait until nothing of it can be left."""
    script = f"""if True:
        import os, pathlib, signal, subprocess
        from memcache_shm.ops.private_daemon import PrivateDaemon
        def interrupted(*arguments, **options):
            os.kill(os.getpid(), signal.SIGINT)
            return rightly(*arguments, **options)
        name = "__init__" if {when!r} == "start" else "wait"
        rightly = getattr(subprocess.Popen, name)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        setattr(subprocess.Popen, name, interrupted)
        try:
            with PrivateDaemon(["16", "100"], 1):
                print("served")
        except KeyboardInterrupt:
            print(*pathlib.Path({str(temporary)!r}).glob("*"), *pathlib.Path({str(state_dir)!r}).glob("*"))
    """
    said = subprocess.check_output([sys.executable, "-c", script], env=os.environ | {"TMPDIR": str(temporary)}, text=True, timeout=30)
    assert said == ("\n" if when == "start" else "served\n\n")


def test_progress_on_a_terminal(state_dir: Path, no_leaks: None) -> None:
    with Terminal([sys.executable, "-m", "memcache_shm", "bench", "--seconds", "1", "--only", "tcp"], {"NO_COLOR": "1"}) as terminal:
        terminal.expect(r"\rtcp, round 1 of 7")
        terminal.expect(r"\r +\rvalues of 100 bytes")
        assert terminal.ends() == 0


def test_a_daemon_that_does_not_start(state_dir: Path, no_leaks: None) -> None:
    with pytest.raises(MemcacheError, match=r"did not start; it said: .*-m"):
        PrivateDaemon(["-m", "nothing"], 1).__enter__()


def test_what_cannot_be(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {("--seconds", "0"): 2, ("--value-bytes", "0"): 2, ("--only", "pigeon"): 2, ("app",): 2, ("-t", "0"): 2}
    for words, status in cases.items():
        assert main(["bench", *words]) == status
        assert re.fullmatch(r"memcache-shm: error: .+\n", said()[1])
    monkeypatch.setattr(bench, "measure", lambda *arguments: pytest.fail("it measures first"))
    for path, why in {"no/x.png": "there is no directory", ".": "it is a directory", "/proc/self/mounts/x": "there is no"}.items():
        assert main(["bench", "--png", path]) == 1
        assert re.match(f"memcache-shm: error: cannot write {re.escape(path)}: {why}", said()[1])
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", None)
        assert main(["bench"]) == 1
    assert "standard output is closed" in said()[1]
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["bench", "--png", "x.png"]) == 1
    assert "--png needs Pillow" in said()[1]


def test_figures_come_before_their_picture(said: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What has become of FILE's place meanwhile costs the picture alone."""
    place = tmp_path / "place"
    place.mkdir()

    def measure(*arguments: object) -> dict[str, Figures]:
        place.rmdir()
        return dict.fromkeys(DOORS, FIGURES)

    monkeypatch.setattr(bench, "measure", measure)
    assert main(["bench", "--png", str(place / "x.png")]) == 1
    out, error = said()
    assert re.search(r"^channel +10\.0 ", out, re.MULTILINE)
    assert re.fullmatch(r"memcache-shm: error: cannot write .*/x\.png: No such file or directory\n", error)


def test_help_teaches(said: Said) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    text = said()[0]
    for word in ("channel", "99 %", "CPU", "x UNIX", "--png FILE", "memcache_shm.connect", "examples:"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 100


def test_bars_are_as_long_as_their_figures() -> None:
    found = {door: replace(FIGURES, get_us=10.0 * number) for number, door in enumerate(DOORS, 1)}
    drawn = bench_image.draw("made up", found)
    stream = io.BytesIO()
    drawn.save(stream, "PNG")
    with Image.open(stream) as opened:
        first_panel = opened.convert("RGB").crop((0, 60, 1000, 60 + drawn.height // 6))
        counts = {colour: count for count, colour in first_panel.getcolors(1 << 20) or []}
    assert opened.width == 1000
    lengths = [counts[bench_image.COLOURS[door]] for door in DOORS]
    assert [round(length / lengths[0]) for length in lengths] == [1, 2, 3, 4]


def test_a_private_daemon_is_found_by_its_doors(state_dir: Path, no_leaks: None) -> None:
    with PrivateDaemon(["16", "100"], 1) as daemon:
        before_ns = daemon.cpu_ns()
        for door in ("channel", "unix", "tcp"):
            with memcache_shm.connect(written(daemon.address(door))) as cache:
                cache.set(door, b"1")
        assert daemon.cpu_ns() > before_ns
        with memcache_shm.attach(daemon.name) as cache:
            assert sorted(cache.get_many(["channel", "unix", "tcp"])) == ["channel", "tcp", "unix"]
    assert list_tables() == []
