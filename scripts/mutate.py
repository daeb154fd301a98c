#!/usr/bin/env python3
"""Leave out, or put in the wrong order, one store of the storage layer at a time, and see a test fail.

    scripts/mutate.py               all mutations (a table: mutation, what noticed it; exit 1 when one survives)
    scripts/mutate.py split intent  those whose names contain one of these words

Works in a copy of the tree. A mutation is found by its exact text: one whose text is gone is an error, so that the list keeps step with the
code. Fences are not among them: they change nothing that can be seen on x86-64 (tests/memory_model is about those).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[1]
STORAGE = "memcache_shm/storage"
COPIED = ("memcache_shm", "tests", "pyproject.toml")
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
TEST_LIMIT_S = 600  # a mutant that hangs is noticed
STEPPING = ("-m", "torture.stepping", "--states", "--stop")
READING = ("-m", "torture.reading", "--stop", "--every", "9", "--states", "30")
PYTEST = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
NAMED = (*PYTEST, "-k", "names or tells or frees or busy", "tests/torture/test_stepping.py", "tests/client/test_busy.py")
HAMMER = (*PYTEST, "tests/model/test_hammer.py", "tests/storage/test_processes.py")
TESTS = (("tests", NAMED), ("stepping", STEPPING), ("hammer", HAMMER))  # first what is quick


class Tree:
    """A copy of the package in which single files are changed and built."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.saved: dict[Path, bytes] = {}
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, directory / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
            else:
                shutil.copy2(source, directory / name)

    def apply(self, mutation: Mutation) -> None:
        """Change the text and build what contains it."""
        path = self.directory / STORAGE / mutation.file
        built = [path.with_name(module + SUFFIX) for module in mutation.modules]
        self.saved = {original: original.read_bytes() for original in (path, *built)}
        path.write_text(mutation.mutate(path.read_text()))
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._build, mutation.modules))

    def _build(self, module: str) -> None:
        source = self.directory / STORAGE / f"{module}.pyx"
        target = source.with_name(module + SUFFIX)
        translate = [sys.executable, "-m", "cython", "-3", str(source.relative_to(self.directory))]
        compiling = [
            os.environ.get("CC", "cc"),
            "-O1",
            "-shared",
            "-fPIC",
            "-w",
            "-fno-strict-aliasing",
            f"-I{sysconfig.get_paths()['include']}",
        ]
        compiling += [f"-I{self.directory / STORAGE}", "-o", str(target) + ".new", str(source.with_suffix(".c"))]
        for command in (translate, compiling):
            done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        os.replace(str(target) + ".new", target)

    def restore(self) -> None:
        for path, content in self.saved.items():
            path.unlink()  # a process may still have it mapped
            path.write_bytes(content)

    def run(self, command: tuple[str, ...]) -> str:
        """What a test that failed said last; empty when all passed."""
        state = self.directory / "state"
        shutil.rmtree(state, ignore_errors=True)
        environment = os.environ | {"PYTHONPATH": f"{self.directory}{os.pathsep}{self.directory / 'tests'}", "MEMCACHE_SHM_DIR": str(state)}
        # In a session of its own, so that nothing is left of a test that hangs.
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=self.directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=TEST_LIMIT_S)
        except subprocess.TimeoutExpired:
            said = "it hangs"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode == 0:
            return ""
        lines = [line for line in said.splitlines() if line.startswith(("WRONG", "FAILED", "ERROR", "E  "))]
        return lines[0] if lines else (said.strip().splitlines() or ["it was killed"])[-1]


def verdict(tree: Tree, mutation: Mutation) -> str:
    """What noticed the mutation; empty when nothing did."""
    try:
        tree.apply(mutation)
        if mutation.reading and (said := tree.run((*READING, *mutation.reading))):
            return f"reading: {said}"
        if mutation.words and (said := tree.run((*STEPPING, *mutation.words))):
            return f"stepping: {said}"
        for name, command in TESTS:
            if said := tree.run(command):
                return f"{name}: {said}"
        return ""
    finally:
        tree.restore()


def main() -> int:
    parser = argparse.ArgumentParser(description="See a test fail for every mutation.")
    parser.add_argument("words", nargs="*", help="only the mutations whose names contain one of these")
    words = parser.parse_args().words
    chosen = [mutation for mutation in MUTATIONS if not words or any(word in mutation.name for word in words)]
    survived = []
    with tempfile.TemporaryDirectory(prefix="mutants") as directory:
        tree = Tree(Path(directory))
        for mutation in chosen:
            mutation.mutate((ROOT / STORAGE / mutation.file).read_text())
        if said := tree.run((*STEPPING, "delete")):
            print(f"the tests fail without any mutation: {said}", file=sys.stderr)
            return 1
        for mutation in chosen:
            began = time.monotonic()
            said = verdict(tree, mutation)
            print(f"{mutation.name:60} {time.monotonic() - began:6.1f} s  {said[:150] or 'SURVIVED'}", flush=True)
            if not said:
                survived.append(mutation.name)
    print(f"{len(chosen)} mutations, {len(survived)} survived" + (": " + "; ".join(survived) if survived else ""))
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
