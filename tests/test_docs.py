"""The examples in README and docs are true: Python blocks run, console sessions print what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language):
    """Each fenced block of a language, under the page's name and its number there."""
    return [
        pytest.param(text, id=f"{page.name}-{number}")
        for page in PAGES
        for number, text in enumerate(re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S), 1)
    ]


def sessions(text):
    """(command, expected output) pairs of a console block."""
    parts = re.split(r"^\$ ", text, flags=re.M)[1:]
    return [part.split("\n", 1) for part in parts]


@pytest.mark.parametrize("text", blocks("python"))
def test_python_example(text, tmp_path):
    result = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("text", blocks("console"))
def test_console_example(text, daemon_with, tmp_path):
    daemon = daemon_with("1024", "256")
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # where the installed commands are
    pairs = sessions(text)
    assert pairs
    for command, expected in pairs:
        shell = re.sub(r"127\.0\.0\.1([ :])11211", rf"{daemon.host}\g<1>{daemon.port}", command)
        shell = re.sub(r"(memcache-shm client (?:--json )?)11211", rf"\g<1>{daemon.port}", shell)
        result = subprocess.run(
            shell, shell=True, executable="/bin/bash", cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30
        )
        assert result.stdout.replace("\r\n", "\n") == expected


def test_every_link_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_options_named_in_the_readme_exist():
    usage = subprocess.run([sys.executable, "-m", "memcache_shm", "--help"], capture_output=True, text=True, timeout=30).stdout
    named = set(re.findall(r"[ `](--[a-z][a-z-]+)", (ROOT / "README.md").read_text())) - {"--json", "--help"}
    assert named
    assert not [option for option in named if option not in usage]
