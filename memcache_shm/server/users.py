"""Users and passwords of the ASCII authentication (``-Y FILE``)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator
from pathlib import Path

from memcache_shm.errors import MemcacheError
from memcache_shm.protocol.auth import LOGIN_BYTES_MAX

_REMEDY = "each line is user:password"


class Users:
    """Who may log in.

    Kept are keyed digests, all of one length: a comparison takes the same time however much of a password is right and whether
    there is such a user at all, and a core dump shows no password.
    """

    def __init__(self, path: str) -> None:
        """Read a file of lines ``user:password``, as memcached's. Raises MemcacheError."""
        self._key = secrets.token_bytes(32)
        self._digests = [self._digest(login) for login in _read(path)]

    def admits(self, login: bytes) -> bool:
        """Whether "user password" is one of the file's. Compares with each of them, the right one or not."""
        told = self._digest(login)
        return sum(hmac.compare_digest(told, digest) for digest in self._digests) > 0

    def _digest(self, login: bytes) -> bytes:
        return hashlib.blake2b(login, key=self._key, digest_size=32).digest()


def _read(path: str) -> Iterator[bytes]:
    """The file's logins, "user password". Raises MemcacheError."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise MemcacheError(f"-Y: cannot read {path!r}: {error.strerror}; name a file whose lines are user:password") from None
    lines = text.removesuffix(b"\n").split(b"\n")
    if not text:
        raise MemcacheError(f"-Y: {path} is empty, so nobody could log in; {_REMEDY}")
    for number, line in enumerate(lines, 1):
        user, colon, password = line.removesuffix(b"\r").partition(b":")
        login = user + b" " + password
        if not (user and colon and password) or b" " in user or len(login) > LOGIN_BYTES_MAX:
            raise MemcacheError(f"-Y: {path}, line {number}: {_fault(user, colon, password)}; {_REMEDY}")
        yield login


def _fault(user: bytes, colon: bytes, password: bytes) -> str:
    """What is wrong with a line. None of it is repeated: it may be a password."""
    if not colon:
        return "has no colon"
    if not (user and password):
        return "user or password is empty"
    if b" " in user:
        return "the user's name has a space in it, at which a login is divided"
    return f"is longer than {LOGIN_BYTES_MAX} bytes"
