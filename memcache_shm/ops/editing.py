"""Reading lines from a terminal: completion by TAB, and a history that outlives the program."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

try:
    import readline
except ImportError:  # a Python built without it: lines can be typed all the same
    readline = None  # type: ignore[assignment]

_HISTORY_LINES = 1000
_HISTORY_MODE = 0o600  # values may be secrets


class Editor:
    """The terminal's one line editor (readline has no more)."""

    def __init__(self, complete: Callable[[str, int], Any], history: str | None) -> None:
        """`complete` gives readline the possible ends of a word, by their number; `history` is a file's path, None: keep none."""
        self._history = history if readline is not None else None
        if readline is None:
            return
        readline.set_completer(complete)
        readline.set_completer_delims(" \t")
        readline.parse_and_bind("tab: complete")
        readline.parse_and_bind("set bell-style none")
        readline.set_auto_history(False)
        if self._history is not None:
            self._load(self._history)

    def read(self, prompt: str) -> str:
        """The next line; it is in the history from then on. EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C."""
        line = input(prompt)
        if readline is not None and line.strip():
            self._remember(line)
        return line

    def _load(self, path: str) -> None:
        """Read the history; without a right to the file there is none."""
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _HISTORY_MODE))
            readline.read_history_file(path)
            readline.set_history_length(_HISTORY_LINES)  # of the file, when a line is appended
        except OSError:
            self._history = None
            return

    def _remember(self, line: str) -> None:
        """Append at once: several consoles share the file, and one may be killed."""
        try:
            readline.add_history(line)
        except UnicodeEncodeError:  # the locale has no such character: this line cannot be called back
            return
        if self._history is not None:
            try:
                readline.append_history_file(1, self._history)
            except OSError:
                self._history = None


def history_path(program: str) -> str | None:
    """`program`'s history in the user's state directory (XDG Base Directory Specification); None where there is no home."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            return None
        base = os.path.join(home, ".local", "state")
    return os.path.join(base, program, "console_history")
