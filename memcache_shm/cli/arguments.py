"""Reading words of a command line: a parser with one-line errors, and the types of its arguments."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable, Sequence
from typing import NoReturn

from memcache_shm.cli.messages import UsageError
from memcache_shm.client import addresses
from memcache_shm.errors import IllegalInputError
from memcache_shm.storage.statefile import check_name
from memcache_shm.storage.units import parse_size

# Packaged configurations pass a line such as "-m 64" as one word.
_OPTION_AND_VALUE = re.compile(r"(-[A-Za-z])\s+(\S.*)", re.DOTALL)


def _help_format(prog: str) -> argparse.HelpFormatter:
    width = min(shutil.get_terminal_size().columns, 120) - 2
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32, width=width)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are a `UsageError` of one line instead of an exit."""

    def __init__(self, prog: str, description: str, epilog: str | None = None, add_help: bool = True) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            add_help=add_help,
            allow_abbrev=False,
            formatter_class=_help_format,
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.replace('argument ', '', 1)} ('{self.prog} --help' explains)")


def split_words(words: Sequence[str]) -> list[str]:
    """`words` with every option that has its value in the same word taken apart."""
    split: list[str] = []
    for word in words:
        match = _OPTION_AND_VALUE.fullmatch(word)
        split += match.groups() if match else [word]
    return split


def whole(minimum: int, maximum: int, why: str = "") -> Callable[[str], int]:
    """The type of a whole number within limits; `why` explains them."""

    def parse(text: str) -> int:
        try:
            number = int(text.strip())
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if not minimum <= number <= maximum:
            raise argparse.ArgumentTypeError(f"must be from {minimum} to {maximum}, not {number}{why}")
        return number

    return parse


def octal(text: str) -> int:
    """The type of permission bits, such as 0640."""
    if not re.fullmatch(r"\s*(0o?)?[0-7]{1,3}\s*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no octal access mask; write three digits from 0 to 7, such as 640")
    return int(text.strip(), 8)


def size(plain_unit: int) -> Callable[[str], int]:
    """The type of a size in bytes, a number without letter counting `plain_unit` bytes."""

    def parse(text: str) -> int:
        try:
            return parse_size(text, "size", plain_unit)
        except IllegalInputError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix("size: ")) from None

    return parse


def table_name(text: str) -> str:
    """The type of a table's name."""
    try:
        return check_name(text)
    except IllegalInputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("name: ")) from None


def host_port(text: str) -> tuple[str, int | None]:
    """The type of `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address; None where there is no port."""
    try:
        return addresses.host_port(text)
    except IllegalInputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
