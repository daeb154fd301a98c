#!/usr/bin/env python3
"""Leave out, or put in the wrong order, one store of the storage layer, or of a channel, at a time, and see a test fail.

    scripts/mutate.py               all mutations (a table: mutation, verdict, what noticed it; exit 1 when one survives)
    scripts/mutate.py split intent  those whose names contain one of these words

Verdicts: noticed (a test said what is wrong), hangs (a test did not come to its end), SURVIVED. First every test that may be asked runs
once without any mutation: what fails by itself proves nothing, so nothing is mutated then (exit 1).

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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mutation import Mutation, place
from mutations import MUTATIONS

ROOT = Path(__file__).parents[1]
STORAGE = "memcache_shm/storage"
COPIED = ("memcache_shm", "tests", "pyproject.toml")
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
TEST_LIMIT_S = 600
TRIES = 3  # of a test that says nothing: where the tracer lost its way
ASTRAY = "went another way"
STEPPING = ("-m", "torture.stepping", "--states", "--stop")
READING = ("-m", "torture.reading", "--stop", "--every", "9", "--states", "30")
PYTEST = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not torture")
NAMED = (*PYTEST, "-k", "names or tells or frees or busy", "tests/torture/test_stepping.py", "tests/client/test_busy.py")
HAMMER = (*PYTEST, "tests/model/test_hammer.py", "tests/storage/test_processes.py")
LISTENED = (*STEPPING, "--listened")
TESTS = (("tests", NAMED), ("stepping", STEPPING), ("listened", LISTENED), ("hammer", HAMMER))  # first what is quick


@dataclass(frozen=True)
class Outcome:
    """How a test ended: "passed", "failed", "hangs", or "astray" when it could not do its work, and what it said."""

    how: str
    said: str = ""


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
        path = self.directory / place(mutation.file)
        built = [self.directory / place(module + SUFFIX) for module in mutation.modules]
        self.saved = {original: original.read_bytes() for original in (path, *built)}
        path.write_text(mutation.mutate(path.read_text()))
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._build, mutation.modules))

    def _build(self, module: str) -> None:
        source = self.directory / place(f"{module}.pyx")
        target = self.directory / place(module + SUFFIX)
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

    def run(self, command: tuple[str, ...]) -> Outcome:
        """Run a test; once more when its tracer went astray."""
        for _ in range(TRIES):
            outcome = self._run_once(command)
            if outcome.how != "astray":
                break
        return outcome

    def _run_once(self, command: tuple[str, ...]) -> Outcome:
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
            return Outcome("hangs", f"no end after {TEST_LIMIT_S} s")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        return Outcome("passed") if process.returncode == 0 else read_failure(said)


def read_failure(said: str) -> Outcome:
    """What kind of failure it is, and its first line."""
    lines = [line for line in said.splitlines() if line.startswith(("WRONG", "FAILED", "ERROR", "E  "))]
    line = lines[0] if lines else (said.strip().splitlines() or ["it was killed"])[-1]
    if "from pytest-timeout" in said:
        return Outcome("hangs", next((line for line in lines if line.startswith("FAILED")), line))
    return Outcome("astray" if ASTRAY in line else "failed", line)


def stages(mutation: Mutation) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The tests to ask, those that ought to notice it first."""
    if mutation.tests:
        yield "tests", (*PYTEST, *mutation.tests)
        return
    if mutation.reading:
        yield "reading", (*READING, *mutation.reading)
    if mutation.words:
        yield "stepping", (*(LISTENED if mutation.listened else STEPPING), *mutation.words)
    yield from TESTS


def prove_tests(tree: Tree, mutations: list[Mutation]) -> bool:
    """Whether all that may be asked passes without any mutation; says what does not."""
    commands = dict(TESTS) if any(not mutation.tests for mutation in mutations) else {}
    if files := sorted({file for mutation in mutations for file in mutation.tests}):
        commands["tests of channels"] = (*PYTEST, *files)
    for word in sorted({word for mutation in mutations for word in mutation.reading}):
        commands[f"reading {word}"] = (*READING, word)  # one at a time: each takes minutes
    proven = True
    for name, command in commands.items():
        began = time.monotonic()
        outcome = tree.run(command)
        print(f"{f'no mutation: {name}':60} {time.monotonic() - began:6.1f} s  {outcome.how} {outcome.said[:150]}", flush=True)
        proven = proven and outcome.how == "passed"
    return proven


def judge(tree: Tree, mutation: Mutation) -> tuple[str, str]:
    """The verdict, and what the test said."""
    astray = ""
    try:
        tree.apply(mutation)
        for name, command in stages(mutation):
            outcome = tree.run(command)
            if outcome.how == "astray":
                astray = f"{name}: {outcome.said}"
            elif outcome.how != "passed":
                return ("hangs" if outcome.how == "hangs" else "noticed"), f"{name}: {outcome.said}"
        return "SURVIVED", astray
    finally:
        tree.restore()


def main() -> int:
    parser = argparse.ArgumentParser(description="See a test fail for every mutation.")
    parser.add_argument("words", nargs="*", help="only the mutations whose names contain one of these")
    words = parser.parse_args().words
    chosen = [mutation for mutation in MUTATIONS if not words or any(word in mutation.name for word in words)]
    if not chosen:
        parser.error(f"no mutation's name contains {' or '.join(words)}")
    verdicts: dict[str, list[str]] = {"noticed": [], "hangs": [], "SURVIVED": []}
    for mutation in chosen:
        mutation.mutate((ROOT / place(mutation.file)).read_text())
    with tempfile.TemporaryDirectory(prefix="mutants") as directory:
        tree = Tree(Path(directory))
        if not prove_tests(tree, chosen):
            print("the tests fail without any mutation", file=sys.stderr)
            return 1
        for mutation in chosen:
            began = time.monotonic()
            verdict, said = judge(tree, mutation)
            verdicts[verdict].append(mutation.name)
            print(f"{mutation.name:60} {time.monotonic() - began:6.1f} s  {verdict:8} {said[:150]}", flush=True)
    print(f"{len(chosen)} mutations: " + ", ".join(f"{len(names)} {verdict}" for verdict, names in verdicts.items()))
    for verdict in ("hangs", "SURVIVED"):
        if verdicts[verdict]:
            print(f"{verdict}: " + "; ".join(verdicts[verdict]))
    return 1 if verdicts["SURVIVED"] else 0


if __name__ == "__main__":
    sys.exit(main())
