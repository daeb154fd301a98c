"""What the Makefile asks of pyproject.toml: the requirements of one extra, or (--stubs) the modules that have a .pyi."""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


def main(what: str) -> None:
    if what == "--stubs":
        lines = sorted(str(p.relative_to(ROOT).with_suffix("")).replace("/", ".") for p in (ROOT / "memcache_shm").rglob("*.pyi"))
    else:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        lines = project["optional-dependencies"][what]
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1])
