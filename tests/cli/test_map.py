"""`memcache-shm map`, as a shell, a terminal and a viewer of images see it."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest
from PIL import Image
from support.segments import Segment
from support.tables import verb

import memcache_shm
from memcache_shm.cli import image
from memcache_shm.cli.bars import bars, columns, tops, total
from memcache_shm.cli.main import main
from memcache_shm.cli.terminal import picture
from memcache_shm.storage.occupancy import Cell, Occupancy, occupancy

Said = Callable[[], tuple[str, str]]
NOBODY = 65534
NS = 1_000_000_000
SGR = re.compile(r"\x1b\[([\d;]*)m")


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Standard output and standard error since the last call."""

    def read() -> tuple[str, str]:
        out, error = capsys.readouterr()
        return out, error

    return read


@pytest.fixture
def cache(state_dir: Path) -> memcache_shm.Cache:
    """A table of 4 shards in which a third is live, a third has expired; the directory's removal removes it."""
    cache = memcache_shm.open("app", memory="512k", max_item="1k")
    for number in range(2600):
        cache.set(f"k{number}", b"v" * 70, expire=10 * (number % 2))
    with Segment(cache.attached_table) as segment:
        segment.put(segment.header("clock_shift_ns"), 20 * NS)
    return cache


class Terminal(io.TextIOWrapper):
    """A stream that says it is one, of an encoding."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding)

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def lines_on(cache: memcache_shm.Cache, stream: TextIO) -> list[str]:
    table = cache.attached_table
    return list(picture("app", table.geometry, occupancy(table, 1000), stream))


def made_up(cells: list[Cell], shards: int) -> list[Occupancy]:
    return [Occupancy(number, 16, 1, 1, tuple(cells)) for number in range(shards)]


# The picture in characters


def test_a_pipe_gets_80_plain_columns(cache: memcache_shm.Cache, monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["map", "app"]) == 0
    out, error = said()
    assert error == ""
    head, live, expired, index, free, blank, caption, *shown = out.splitlines()
    assert head == "app: 512 KiB memory, items up to 1 KiB, 4 shards"
    assert [line.split()[1] for line in (live, expired, index, free)] == ["live", "expired", "index", "free"]
    assert blank == ""
    assert caption.startswith("shard its arena from lower to upper end; a column is ")
    assert caption.endswith(" used")
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) == 80
    labels = [line.split()[0] for line in shown if line[:5].strip()]
    assert labels == ["0", "1", "2", "3"]
    assert len(shown) == 4 * 6 + 3
    drawn = "".join(line[6:74] for line in shown if line)
    assert set(drawn) <= set("▁▂▃▄▅▆▇█xX≡·")
    assert {"█", "X", "≡", "·"} <= set(drawn)


def test_shares_are_those_of_the_table(cache: memcache_shm.Cache, said: Said) -> None:
    """The legend's figures are the table's, and what is drawn has their proportions."""
    whole = total(cell for shard in occupancy(cache.attached_table, 1) for cell in shard.cells)
    assert min(whole.live, whole.dead, whole.free) > whole.granules / 5
    assert main(["map", "app"]) == 0
    out = said()[0]
    for name, granules in (("live", whole.live), ("expired", whole.dead), ("index", whole.index), ("free", whole.free)):
        assert re.search(rf"^. {name} .* {granules / whole.granules:.1%}", out, re.MULTILINE), name
    drawn = "".join(line[6:74] for line in out.splitlines()[7:] if line)
    assert drawn.count("·") / len(drawn) == pytest.approx(whole.free / whole.granules, abs=0.06)
    assert sum(map(drawn.count, "xX")) / len(drawn) == pytest.approx(whole.dead / whole.granules, abs=0.1)


def test_a_terminal_gets_colours_and_its_width(cache: memcache_shm.Cache, terminal: Terminal) -> None:
    lines = lines_on(cache, terminal)
    bare = [SGR.sub("", line) for line in lines]
    assert max(map(len, bare)) == 120
    codes = {code for line in lines for code in SGR.findall(line)}
    assert {"1", "2", "32", "33", "34", "90", "0"} <= codes
    assert any(";" in code for code in codes), "two parts share a character"
    assert set("".join(bare[7:])) <= set("▁▂▃▄▅▆▇█0123456789% ")


def test_no_color(cache: memcache_shm.Cache, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = "\n".join(lines_on(cache, terminal))
    assert "\x1b" not in text
    assert {"█", "X", "≡", "·"} <= set(text)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_without_blocks(cache: memcache_shm.Cache, terminal: Terminal, encoding: str) -> None:
    lines = lines_on(cache, Terminal(encoding))
    text = SGR.sub("", "\n".join(lines))
    assert text.isascii()
    assert {"#", "X", "=", "-"} <= set("".join(text.splitlines()[7:]))
    assert "\x1b[33mX" in "\n".join(lines), "letters have colours, too"


def test_a_narrow_terminal(cache: memcache_shm.Cache, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert max(len(SGR.sub("", line)) for line in lines_on(cache, terminal)[6:]) == 6 + 16 + 6


@pytest.mark.parametrize(("shards", "bars_drawn"), [(1, 1), (2, 2), (8, 8), (16, 16), (32, 32), (64, 32), (128, 32), (32768, 32)])
def test_many_shards_stay_readable(cache: memcache_shm.Cache, terminal: Terminal, shards: int, bars_drawn: int) -> None:
    maps = made_up([Cell(live=3, dead=1), Cell(free=4)], shards)
    lines = [SGR.sub("", line) for line in picture("app", cache.attached_table.geometry, maps, terminal)]
    assert len(lines) <= 40
    assert len([line for line in lines[7:] if line.endswith(" 50%")]) == bars_drawn
    assert lines[7].split()[0] == ("0" if shards <= 32 else f"0-{shards // 32 - 1}")


def test_elements_are_counted(state_dir: Path, said: Said) -> None:
    cache = memcache_shm.open("few", elements=10, element_size=100)
    cache.set_many({"a": b"1", "b": b"2", "c": b"3"})
    cache.set("d", b"4", expire=-1)
    assert main(["map", "few"]) == 0
    lines = said()[0].splitlines()
    assert [line.split("  ")[-1] for line in lines[1:4]] == ["3 elements", "1 element", "7 places, one a shard for replacing"]
    assert "index" not in "".join(lines), "it has an arena of its own"
    assert len({line[6:74] for line in lines[6:]}) == 1
    assert re.fullmatch("█+X+·+|X+█+·+", lines[-1][6:74])


def test_columns_keep_the_sum() -> None:
    cells = [Cell(live=number, dead=1, index=2, free=50 - number) for number in range(50)]
    for count in (1, 3, 7, 49, 50):
        assert total(columns(cells, count)) == total(cells)
    assert columns(cells[:2], 4) == [cells[0], cells[0], cells[1], cells[1]]
    bar, *_, last = bars(made_up(cells, 7), 3)
    assert (bar.label, last.label, len(bar.cells), len(last.cells)) == ("0-2", "6", 150, 50)


def test_heights_have_the_shares_on_average() -> None:
    column = Cell(live=50, dead=30, index=1, free=19)
    ends = [tops(column, 8, number) for number in range(1000)]
    assert all(end == sorted(end) and end[-1] == 8 for end in ends)
    for part, share in enumerate((0.01, 0.51, 0.81)):
        assert sum(end[part] for end in ends) / 8000 == pytest.approx(share, abs=0.002)


# JSON


def test_json(cache: memcache_shm.Cache, said: Said) -> None:
    assert main(["map", "app", "--json"]) == 0
    out, error = said()
    assert error == ""
    shown = json.loads(out)
    assert (shown["name"], shown["geometry"]) == ("app", cache.attached_table.geometry.describe())
    parts = ("live_bytes", "expired_bytes", "index_bytes", "free_bytes")
    assert sum(shown[part] for part in parts) == shown["arena_bytes"] == cache.stats("shm")[b"arena_bytes"]
    assert [shard["shard"] for shard in shown["shards"]] == [0, 1, 2, 3]
    for part in ("arena_bytes", "free_pieces", *parts):
        assert sum(shard[part] for shard in shown["shards"]) == shown[part]
    for shard in shown["shards"]:
        assert len(shard["cells"]) == 64
        assert all(sum(cell[part] for cell in shard["cells"]) == shard[part] for part in parts)
    assert max(shard["largest_free_bytes"] for shard in shown["shards"]) == shown["largest_free_bytes"] > 0


# PNG


def test_png(cache: memcache_shm.Cache, tmp_path: Path, said: Said) -> None:
    path = tmp_path / "app.png"
    assert main(["map", "app", "--png", str(path)]) == 0
    out, error = said()
    assert (out.splitlines()[0], error) == ("app: 512 KiB memory, items up to 1 KiB, 4 shards", "")
    whole = total(cell for shard in occupancy(cache.attached_table, 1) for cell in shard.cells)
    with Image.open(path) as opened:
        assert (opened.format, opened.width) == ("PNG", 1000)
        counts = {colour: count for count, colour in opened.convert("RGB").getcolors(opened.width * opened.height) or []}
    swatch = 14 * 14
    drawn = {part: counts[colour] - swatch for part, colour in image.COLOURS.items()}
    for part, pixels in drawn.items():
        assert pixels / sum(drawn.values()) == pytest.approx(getattr(whole, part) / whole.granules, abs=0.005), part
    assert sum(drawn.values()) == 4 * 860 * 150
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["app.png", "tables"]


@pytest.mark.parametrize("shards", [1, 64, 32768])
def test_png_of_many_shards(cache: memcache_shm.Cache, shards: int) -> None:
    drawn = image.draw("app", cache.attached_table.geometry, made_up([Cell(live=4), Cell(free=4)], shards))
    assert drawn.width == 1000
    assert 250 < drawn.height < 1250


def test_png_and_json(cache: memcache_shm.Cache, tmp_path: Path, said: Said) -> None:
    assert main(["map", "--json", "--png", str(tmp_path / "app.png"), "app"]) == 0
    assert json.loads(said()[0])["name"] == "app"
    assert (tmp_path / "app.png").read_bytes().startswith(b"\x89PNG")


def test_png_replaces_what_a_link_leads_to(cache: memcache_shm.Cache, tmp_path: Path) -> None:
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("real.png")
    assert main(["map", "app", "--png", str(tmp_path / "link.png")]) == 0
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real.png").read_bytes().startswith(b"\x89PNG")


def test_png_into_a_pipe(cache: memcache_shm.Cache, tmp_path: Path) -> None:
    """What is no file is not replaced by one: /dev/null would suffer."""
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["head", "-c4", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        status = main(["map", "app", "--png", str(tmp_path / "pipe")])
        assert reader.communicate()[0] == b"\x89PNG"
    assert status in (0, 1), "it may have been told that the reader went away"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("path", ["missing/app.png", "tables", "x" * 300])
def test_png_that_cannot_be_written(cache: memcache_shm.Cache, tmp_path: Path, path: str, said: Said) -> None:
    before = sorted(os.listdir(tmp_path))
    assert main(["map", "app", "--png", str(tmp_path / path)]) == 1
    out, error = said()
    assert out == ""
    assert error.count("\n") == 1
    assert error.startswith(f"memcache-shm: error: cannot write {tmp_path / path}: ")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_file_that_is_in_the_way_stays_whole(
    cache: memcache_shm.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "app.png").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    assert main(["map", "app", "--png", str(tmp_path / "app.png")]) == 1
    assert said()[1] == f"memcache-shm: error: cannot write {tmp_path}/app.png: No space left on device\n"
    assert (tmp_path / "app.png").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["app.png", "tables"]


def test_without_pillow(cache: memcache_shm.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["map", "app", "--png", str(tmp_path / "app.png")]) == 1
    assert said() == ("", "memcache-shm: error: --png needs Pillow; pip install 'memcache_shm[png]'\n")
    assert main(["map", "app"]) == 0, "the terminal needs none"


def test_with_an_old_pillow(cache: memcache_shm.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    monkeypatch.setattr("PIL.__version__", "9.4.0")
    assert main(["map", "app", "--png", str(tmp_path / "app.png")]) == 1
    assert said()[1] == "memcache-shm: error: --png needs Pillow 10.1, not 9.4.0; pip install 'memcache_shm[png]'\n"


# Rights, names, usage


def test_no_such_table(state_dir: Path, said: Said) -> None:
    assert main(["map", "missing"]) == 1
    out, error = said()
    assert out == ""
    assert error.count("\n") == 1
    assert "'missing'" in error
    assert "'memcache-shm ls'" in error


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(("mode", "status"), [(0o644, 0), (0o600, 1)])
def test_the_right_to_read_is_enough_and_needed(monkeypatch: pytest.MonkeyPatch, mode: int, status: int) -> None:
    with tempfile.TemporaryDirectory(prefix="msmap") as directory, open(f"{directory}/said", "w+") as said:  # where others may look
        os.chmod(directory, 0o755)
        monkeypatch.setenv("MEMCACHE_SHM_DIR", f"{directory}/tables")
        memcache_shm.open("app", elements=1, element_size=1, mode=mode).close()
        child = multiprocessing.get_context("fork").Process(target=map_as_somebody_else, args=(said,))
        child.start()
        child.join()
        memcache_shm.unlink("app")
        said.seek(0)
        text = said.read()
    assert child.exitcode == status
    if status:
        assert text == "memcache-shm: error: no right to read table 'app'; run it as the table's owner\n"
    else:
        assert text.startswith("app: 1 elements of 1 bytes, 1 shard\n")


def map_as_somebody_else(said: TextIO) -> None:
    os.setuid(NOBODY)
    sys.stdout = sys.stderr = said
    sys.exit(main(["map", "app"]))


def test_left_behind_by_a_crash(cache: memcache_shm.Cache) -> None:
    """No process has it: the command alone attaches it."""
    cache.close()
    done = verb("map", "app")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("app: 512 KiB memory")


@pytest.mark.parametrize("words", [["map", "app", "--json"], ["ls"]], ids=["more-than-a-buffer", "less"])
def test_a_reader_that_has_seen_enough(cache: memcache_shm.Cache, words: list[str]) -> None:
    """As with `| head -1`."""
    command = [sys.executable, "-m", "memcache_shm", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize("words", [[], ["a/b"], ["app", "other"], ["app", "--png"], ["app", "--fix"]])
def test_wrong_usage(state_dir: Path, words: list[str], said: Said) -> None:
    assert main(["map", *words]) == 2
    out, error = said()
    assert out == ""
    assert error.count("\n") == 1
    assert "'memcache-shm map --help' explains" in error


def test_help_shows_how(said: Said) -> None:
    with pytest.raises(SystemExit) as end:
        main(["map", "--help"])
    assert end.value.code == 0
    assert "\n  memcache-shm map app --png app.png " in said()[0]
