"""`memcache-shm backup` and `restore` as people and scripts see them."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pytest
from support.backups import fill, table_of
from support.tables import verb
from support.terminal import Terminal

import memcache_shm
from memcache_shm.cli.progress import ProgressBar
from memcache_shm.ops.backup_parts import Step


def test_what_they_say(source: memcache_shm.Cache, target: memcache_shm.Cache, here: Path) -> None:
    result = verb("backup", "source", str(here / "b"))
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(
        rf"509 items, [\d.]+ KiB, of source backed up to {here}/b in \d+\.\d\d s; as of one instant, writers waited for \d+\.\d ms\n",
        result.stdout,
    )
    result = verb("restore", str(here / "b"), "target")
    assert (result.returncode, result.stderr) == (0, "")
    made = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"509 items of source, made {made}, restored to target in \d+\.\d\d s\n", result.stdout)


def test_json(source: memcache_shm.Cache, target: memcache_shm.Cache, here: Path) -> None:
    began_s = time.time()
    result = verb("backup", "--json", "source", str(here / "b"))
    assert (result.returncode, result.stderr) == (0, "")
    said = json.loads(result.stdout)
    assert {name: said[name] for name in ("source", "file", "format", "items", "instants", "consistency", "unnamed", "gone")} == {
        "source": "source", "file": str(here / "b"), "format": "binary", "items": 509, "instants": 1, "consistency": "one instant",
        "unnamed": 0, "gone": 0,
    }  # fmt: skip
    assert 0 < said["held_ns"] == said["held_sum_ns"] < said["took_s"] * 1e9
    assert said["bytes"] == sum(28 + len(item.key) + len(item.value) for item in table_of(source).values())
    result = verb("restore", "--json", "--replace", str(here / "b"), "target")
    assert (result.returncode, result.stderr) == (0, "")
    said = json.loads(result.stdout)
    facts = said.pop("facts")
    assert said.pop("took_s") > 0
    assert said == {
        "file": str(here / "b"), "target": "target", "items": 509, "refused": 0, "expired": 0, "removed": 0, "evicted": 0, "lost": 0,
        "unnamed": 0, "endless": 0, "keeps_cas": True, "raises_cas": True,
    }  # fmt: skip
    assert facts["source"] == "source"
    assert began_s - 1 < facts["created"] < time.time()
    assert facts["program"].startswith("memcache_shm ")


def test_json_beside_a_backup_on_standard_output(source: memcache_shm.Cache) -> None:
    result = verb("backup", "--json", "--format", "jsonl", "source", "-")
    assert json.loads(result.stderr)["items"] == 509
    assert len(result.stdout.splitlines()) == 511


def test_help_teaches() -> None:
    for name, words in (
        ("backup", ("SOURCE", "FILE", "--format {binary,jsonl,keys}", "--json", "one instant", "256 MiB", "memcached", "examples:")),
        ("restore", ("FILE", "TARGET", "--replace", "--json", "verified", "$TMPDIR", "by hand", "examples:")),
    ):
        result = verb(name, "--help")
        assert result.returncode == 0
        assert [word for word in words if word not in result.stdout] == []
        assert max(map(len, result.stdout.splitlines())) <= 100
        assert re.search(rf"^ +{name} +\w+", verb("--help").stdout, re.MULTILINE)


def shown(*words: str, **env: str) -> Terminal:
    return Terminal([sys.executable, "-m", "memcache_shm", *words], env, columns=100)


def test_progress_on_a_terminal(source: memcache_shm.Cache, target: memcache_shm.Cache, here: Path) -> None:
    """A line that is gone at the end."""
    path = str(here / "b")
    with shown("backup", "source", path) as terminal:
        terminal.expect(r"\r\x1b\[36mbacking up source \[#*\.*\] +\d+%  509 items.*\x1b\[0m")
        terminal.expect(r"\r +\r509 items, .*\n")
        assert terminal.ends() == 0
    with shown("restore", path, "target", NO_COLOR="1") as terminal:
        terminal.expect(r"\rverifying target \[#+\.*\] +\d+%  509 items")
        terminal.expect(r"\rrestoring target \[#+\.*\] +\d+%  509 items")
        terminal.expect(r"\r +\r509 items of source, .*\n")
        assert terminal.ends() == 0
        assert "\x1b" not in terminal.text


def test_no_binary_backup_to_a_terminal(source: memcache_shm.Cache) -> None:
    with shown("backup", "source", "-") as terminal:
        terminal.expect("a binary backup is nothing for a terminal; name a FILE, .*\n")
        assert terminal.ends() == 1
    with shown("restore", "-", "source") as terminal:
        terminal.expect("standard input is no file and no pipe; name a FILE\r\n")
        assert terminal.ends() == 1
    with shown("backup", "--format", "keys", "source", "-") as terminal:
        terminal.expect("EN\r+\nmemcache-shm: 509 keys of source listed\r\n")
        assert terminal.ends() == 0
        assert "listing" not in terminal.text


def test_the_bar_shows_how_fast_it_is() -> None:
    program = (
        "import time\nfrom memcache_shm.cli.progress import ProgressBar\nfrom memcache_shm.ops.backup_parts import Step\n"
        "with ProgressBar('app') as bar:\n"
        "    for part in range(9):\n"
        "        bar.tell(Step('backing up', part / 8, part * 1000, part << 20)); time.sleep(0.11)\n"
    )
    with Terminal([sys.executable, "-c", program], {"NO_COLOR": "1"}) as terminal:
        terminal.expect(r"\rbacking up app \[\.{24}\]   0%  0 items")
        terminal.expect(r"\rbacking up app \[#{12}\.{12}\]  50%  4,000 items  \d+ MiB/s")
        terminal.expect(r"\rbacking up app \[#{24}\] 100%  8,000 items  \d+ MiB/s")
        assert terminal.ends() == 0


@pytest.mark.parametrize("columns", [80, 60, 40, 20])
def test_the_line_is_never_longer_than_the_terminal(columns: int) -> None:
    program = (
        "from memcache_shm.cli.progress import ProgressBar\nfrom memcache_shm.ops.backup_parts import Step\n"
        "with ProgressBar('cache-1.example:11211') as bar:\n"
        "    bar.tell(Step('verifying', 0.5, 12345678, 1)); bar.tell(Step('restoring', 1, 123456789, 1 << 30))\n"
    )
    with Terminal([sys.executable, "-c", program], {"NO_COLOR": "1"}, columns=columns) as terminal:
        terminal.expect("\r.*12,345,678 i")
        terminal.expect("\r.*123,456,789 i")
        assert terminal.ends() == 0
        assert max(map(len, terminal.text.replace("\n", "\r").split("\r"))) < columns
        assert ("[####" in terminal.text) == (columns >= 80)


def test_no_bar_in_a_pipe(capfd: object) -> None:
    with ProgressBar("app") as bar:
        bar.tell(Step("backing up", 0.5, 1, 1))
    assert capfd.readouterr() == ("", "")  # type: ignore[attr-defined]


def test_the_table_behind_a_name_that_looks_like_an_address(state_dir: Path, here: Path) -> None:
    with memcache_shm.open("app:1", memory="1m") as cache:
        fill(cache, 5)
        assert verb("backup", "app:1", str(here / "b")).returncode == 0
        assert verb("restore", "--replace", str(here / "b"), "app:1").returncode == 0
