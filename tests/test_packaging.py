"""What the package consists of: every Cython module is built, described for Python, and shipped with its sources."""

from __future__ import annotations

import ast
import fnmatch
import importlib
import importlib.machinery
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import memcache_shm

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "memcache_shm"

# A line at the left margin that makes a name for Python: def, class, a plain assignment.
_VISIBLE = re.compile(r"^(?:def|class|cpdef|async def)\s|^(?!cdef|cimport|from|import|DEF)[A-Za-z]\w*\s*=", re.MULTILINE)
_TEXT = re.compile(r'"""(?:.|\n)*?"""')


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def cython_sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.pyx"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def visible_from_python(path: Path) -> bool:
    """Whether it makes names for Python, or a Python file takes a `cdef class` from it."""
    taken = f"from {module_of(path)} import "
    return bool(_VISIBLE.search(_TEXT.sub("", path.read_text()))) or any(
        taken in file.read_text() for suffix in ("py", "pyi") for file in PACKAGE.rglob(f"*.{suffix}")
    )


def test_every_cython_module_is_built(project: dict[str, Any]) -> None:
    listed = {module["name"]: module["sources"] for module in project["tool"]["setuptools"]["ext-modules"]}
    assert listed == {module_of(path): [str(path.relative_to(ROOT))] for path in cython_sources()}
    assert len(listed) == len(project["tool"]["setuptools"]["ext-modules"])


@pytest.mark.parametrize("path", cython_sources(), ids=module_of)
def test_module_imports(path: Path) -> None:
    module = importlib.import_module(module_of(path))
    assert module.__file__ is not None
    assert module.__file__.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))


def test_package_imports_what_is_asked_for() -> None:
    """A daemon starts without the clients; every public name is there all the same, and what is none is told as ever."""
    seen = (
        "import sys, memcache_shm as m;"
        "assert not any(name.startswith('memcache_shm.client') for name in sys.modules);"
        "assert set(m.__all__) <= set(dir(m)) and not hasattr(m, 'attache');"
        "print({name: getattr(m, name).__name__ for name in m.__all__ if name != '__version__'})"
    )
    told = ast.literal_eval(subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True).stdout)
    assert {name: text.rpartition(".")[2] for name, text in told.items()} == {name: name for name in told}
    assert told.keys() == set(memcache_shm.__all__) - {"__version__"}


@pytest.mark.parametrize("path", [path for path in cython_sources() if visible_from_python(path)], ids=module_of)
def test_what_python_sees_has_a_stub(path: Path) -> None:
    assert path.with_suffix(".pyi").exists()


def test_no_stub_without_a_module() -> None:
    assert [path for path in PACKAGE.rglob("*.pyi") if not path.with_suffix(".pyx").exists()] == []


def test_sources_are_shipped(project: dict[str, Any]) -> None:
    patterns = project["tool"]["setuptools"]["package-data"]["*"]
    unshipped = [
        path.relative_to(ROOT)
        for path in PACKAGE.rglob("*")
        if path.suffix in (".pyi", ".pxd", ".pyx", ".h", ".typed") and not any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)
    ]
    assert unshipped == []
    assert (PACKAGE / "py.typed").exists()


def test_every_folder_is_a_package() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py*") if "__pycache__" not in path.parts}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_directives_stand_in_every_module() -> None:
    """setuptools hands no directives to Cython, so the first line of each module does."""
    wanted = ("language_level=3", "boundscheck=False", "wraparound=False", "cdivision=True", "initializedcheck=False")
    for path in cython_sources():
        first = path.read_text().partition("\n")[0]
        assert first.startswith("# cython:"), path
        assert [directive for directive in wanted if directive not in first] == [], path
