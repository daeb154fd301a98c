"""What the package consists of: every Cython module is built, described for Python, and shipped with its sources."""

from __future__ import annotations

import fnmatch
import importlib
import importlib.machinery
import re
import sys
from pathlib import Path
from typing import Any

import pytest

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
