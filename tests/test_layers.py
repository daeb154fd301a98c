"""Imports go downward only: cli > ops > client | server > protocol > storage > errors.

Every module is read, none is run: `.py` and `.pyi` through the syntax tree, `.pyx` and `.pxd` statement by statement.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "memcache_shm"

# A layer imports from lower numbers and from itself; client and server stand side by side.
RANKS = {"errors": 0, "version": 0, "storage": 1, "protocol": 2, "client": 3, "server": 3, "ops": 4, "cli": 5, "contrib": 5}
FACE = "client"  # `import memcache_shm` gives the public API
START = "__main__"  # `python -m`: above everything
NO_SOCKETS = {"storage", "protocol"}

_CYTHON_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<module>\.*[\w.]*)[ \t]+c?import[ \t]+(?P<names>\([^)]*\)|[^\n]*)|c?import[ \t]+(?P<modules>[^\n]+))",
    re.MULTILINE,
)
_TEXT_OR_COMMENT = re.compile(r'"""(?:.|\n)*?"""|\'\'\'(?:.|\n)*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|#[^\n]*|\\\n')


def names_of(listing: str) -> list[str]:
    """`a as b, c` without the aliases."""
    return [name.split()[0] for name in listing.strip().strip("()").split(",") if name.strip()]


def cython_imports(source: str) -> Iterator[tuple[str, list[str]]]:
    """(module, names taken from it) of every import and cimport of a `.pyx` or `.pxd`."""
    for match in _CYTHON_IMPORT.finditer(_TEXT_OR_COMMENT.sub(" ", source)):
        if match["modules"] is None:
            yield match["module"], names_of(match["names"])
        else:
            yield from ((module, []) for module in names_of(match["modules"]))


def python_imports(source: str) -> Iterator[tuple[str, list[str]]]:
    """The same of a `.py` or `.pyi`, imports inside functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]


def absolute(module: str, path: Path) -> str:
    """The full name of a module that the file `path` (relative to the root) names with leading dots."""
    name = module.lstrip(".")
    dots = len(module) - len(name)
    if not dots:
        return name
    package = path.parent.parts[: len(path.parent.parts) - dots + 1]
    return ".".join([*package, name] if name else package)


def layers_named(module: str, names: list[str]) -> Iterator[str]:
    """The layers that one import reaches."""
    parts = module.split(".")
    if parts[0] != PACKAGE:
        return
    if len(parts) > 1:
        yield parts[1]
    else:
        yield from (name if name in RANKS else FACE for name in names or [""])


def layer_of(path: Path) -> str:
    """The layer a file belongs to; the package's own `__init__` is the public face."""
    parts = path.with_suffix("").parts
    return FACE if parts[1] == "__init__" else parts[1]


def offences(root: Path) -> list[str]:
    """One line for every import that goes up or sideways, or opens a socket where none belongs."""
    found = []
    for file in sorted(root.glob(f"{PACKAGE}/**/*.p*")):
        if file.suffix not in (".py", ".pyi", ".pyx", ".pxd"):
            continue
        path = file.relative_to(root)
        layer = layer_of(path)
        if layer == START:
            continue
        read = python_imports if file.suffix in (".py", ".pyi") else cython_imports
        for module, names in read(file.read_text()):
            full = absolute(module, path)
            if layer in NO_SOCKETS and full.split(".")[0] in ("socket", "asyncio", "select", "selectors"):
                found.append(f"{path}: {layer} imports {full}")
            for target in layers_named(full, names):
                if target != layer and RANKS[target] >= RANKS[layer]:
                    found.append(f"{path}: {layer} imports {target}")
    return found


def test_imports_go_downward() -> None:
    assert offences(ROOT) == []


def test_every_module_belongs_to_a_layer() -> None:
    layers = {layer_of(file.relative_to(ROOT)) for file in ROOT.glob(f"{PACKAGE}/**/*.p*") if "__pycache__" not in file.parts}
    assert layers - {START} <= RANKS.keys()


UPWARD = {
    "storage/a.py": "import memcache_shm.server.loop",
    "storage/b.pyx": "from memcache_shm.protocol.parser cimport (\n    parse,  # a pure function\n    Parser,\n)",
    "storage/c.pxd": "cimport memcache_shm.client.reading as reading",
    "storage/d.py": "import socket",
    "storage/e.py": "def late():\n    from ..client import api",
    "storage/f.pyx": "from memcache_shm import client",
    "protocol/g.pxd": "from memcache_shm.server.connection cimport Connection",
    "client/h.py": "from memcache_shm.server import config",
    "server/i.pyx": "from memcache_shm.client.attached cimport \\\n    Attached",
    "server/j.py": "import memcache_shm",
    "ops/k.py": "from memcache_shm import cli",
    "errors.py": "from memcache_shm.storage.units import parse_size",
}
DOWNWARD = {
    "storage/a.py": "import os\nfrom memcache_shm.errors import LayoutError\nfrom . import layout",
    "storage/b.pyx": '"""Text:\nfrom memcache_shm.server.loop cimport Loop\n"""\nfrom memcache_shm.storage cimport reader, writer',
    "server/c.pxd": "# cimport memcache_shm.client.reading\nfrom memcache_shm.storage.table cimport Table",
    "client/d.py": "from memcache_shm.protocol.reader import Reader",
    "ops/e.py": "import socket\nimport memcache_shm\nfrom memcache_shm import server",
    "__init__.py": "from memcache_shm.client.api import open",
    "__main__.py": "from memcache_shm.cli.main import main",
}


def plant(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source + "\n")


@pytest.mark.parametrize("name", UPWARD)
def test_upward_import_is_noticed(tmp_path: Path, name: str) -> None:
    plant(tmp_path, {name: UPWARD[name]})
    assert len(offences(tmp_path)) == 1


def test_downward_imports_are_fine(tmp_path: Path) -> None:
    plant(tmp_path, DOWNWARD)
    assert offences(tmp_path) == []
