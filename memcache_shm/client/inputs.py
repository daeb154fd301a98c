"""What a caller may hand in, and what is said when it breaks a rule: the slow paths of `attached`, and all of `handling`'s.

The rules are pymemcache's, so that code which moves over meets no new ones (`pymemcache.client.base`), except that bytes-like
values are taken as bytes, and that an empty key is refused here instead of by the server.
"""

from __future__ import annotations

import codecs
import os
from typing import NoReturn

from memcache_shm.errors import IllegalInputError

KEY_MAX_BYTES = 250
UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1
INT64_MAX = 2**63 - 1
MODE_MAX = 0o777
OWNER_MODE = 0o600
TIMEOUT_MAX_S = 10**6  # more would not fit into what a socket waits by


def encode_key(key: object, allow_unicode_keys: bool, key_prefix: bytes) -> bytes:
    """The key's bytes on the wire, prefix included. Raises IllegalInputError, TypeError for what is no key at all."""
    if isinstance(key, str):
        try:
            key = key.encode("utf8" if allow_unicode_keys else "ascii")
        except UnicodeEncodeError:
            what = "key is no valid Unicode" if _has_surrogates(str(key)) else "Non-ASCII key"
            raise IllegalInputError(f"{what}: {key!r}") from None
    elif not isinstance(key, bytes | bytearray | memoryview):
        raise TypeError(f"key must be str or bytes, not {type(key).__name__}")
    return key_prefix + bytes(key)


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def refuse_key(key: bytes) -> NoReturn:
    """Say what is wrong with `key`, which is illegal."""
    if not key:
        raise IllegalInputError("Key is empty")
    if len(key) > KEY_MAX_BYTES:
        raise IllegalInputError(f"Key is too long: {key!r}")
    if b"\0" in key:
        raise IllegalInputError(f"Key contains null: {key!r}")
    raise IllegalInputError(f"Key contains whitespace: {key!r}")


def encode_value(value: object, encoding: str) -> bytes:
    """The bytes to store for `value`."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    try:
        return str(value).encode(encoding)
    except UnicodeEncodeError as error:
        raise IllegalInputError(f"Data values must be binary-safe: {error}") from None


def check_integer(value: object, name: str) -> int:
    """`value` as a number of 64 bits, for the argument `name`."""
    if not isinstance(value, int):
        raise IllegalInputError(f"{name} must be integer, got bad value: {value!r}")
    if not -INT64_MAX - 1 <= value <= INT64_MAX:
        raise IllegalInputError(f"{name} must fit into 64 bits, got bad value: {value!r}")
    return value


def wire_time(value: object, name: str) -> int:
    """`value` as an expiry or a delay for the argument `name`, in the 32 bits that memcached keeps: more than that may be past to it."""
    return min(max(check_integer(value, name), -(2**31)), 2**31 - 1)


def check_flags(flags: object) -> int:
    """`flags` as 32 bits."""
    if not isinstance(flags, int) or not 0 <= flags <= UINT32_MAX:
        raise IllegalInputError(f"flags must be integer from 0 to 2**32 - 1, got bad value: {flags!r}")
    return flags


def check_delta(value: object) -> int:
    """The amount of an incr or decr."""
    if not isinstance(value, int):
        raise IllegalInputError(f"value must be integer, got bad value: {value!r}")
    if not 0 <= value <= UINT64_MAX:
        raise IllegalInputError(f"value must be from 0 to 2**64 - 1, got bad value: {value!r}")
    return value


def check_cas(cas: object) -> int:
    """A CAS id given as number, text or bytes."""
    if isinstance(cas, int):
        cas = str(cas)
    if isinstance(cas, str):
        try:
            cas = cas.encode("ascii")
        except UnicodeEncodeError:
            raise IllegalInputError(f"non-ASCII cas value: {cas!r}") from None
    elif not isinstance(cas, bytes):
        raise IllegalInputError(f"cas must be integer, string, or bytes, got bad value: {cas!r}")
    if not cas.isdigit() or int(cas) > UINT64_MAX:
        raise IllegalInputError(f"cas must only contain values in 0-9 and fit into 64 bits, got bad value: {cas!r}")
    return int(cas)


# Arguments of `open`, `attach` and `connect`: checked before anything is made


def check_timeout(timeout: object) -> float:
    """`timeout` as the limit of a wait in seconds."""
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not 0 < timeout < TIMEOUT_MAX_S:
        raise IllegalInputError(f"timeout must be seconds, more than 0 and less than {TIMEOUT_MAX_S}, got bad value: {timeout!r}")
    return float(timeout)


def absolute_path(path: str) -> str:
    """`path` from the root, whatever it is; joined, as to leave out a `..` may lead elsewhere."""
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


def check_socket_path(path: object, name: str) -> str:
    """`path`, a text or path-like, as the absolute one of a UNIX socket, for the argument `name`."""
    if isinstance(path, os.PathLike):
        named = os.fspath(path)
        path = named if not isinstance(named, str) or "/" in named else os.path.join(os.curdir, named)
    if not isinstance(path, str) or "/" not in path or "\0" in path or path.startswith("channel:"):
        raise IllegalInputError(f"{name} must be the path of the daemon's UNIX socket, with a / (its -s PATH), got bad value: {path!r}")
    return absolute_path(path)


def check_count(value: object, name: str) -> int:
    """`value` as the number of something, for the argument `name`; its range is the geometry's business."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise IllegalInputError(f"{name} must be integer, got bad value: {value!r}")
    return value


def check_mode(mode: object) -> int:
    """`mode` as permission bits with which at least the owner can use the table."""
    if not isinstance(mode, int) or isinstance(mode, bool) or not 0 <= mode <= MODE_MAX or mode & OWNER_MODE != OWNER_MODE:
        shown = oct(mode) if isinstance(mode, int) and not isinstance(mode, bool) else repr(mode)
        raise IllegalInputError(f"mode must be permission bits such as 0o600 or 0o640, reading and writing for the owner, not {shown}")
    return mode


def check_handling(serde: object, key_prefix: object, encoding: object) -> None:
    """How a cache object is to treat keys and values. A bad `key_prefix` raises what pymemcache raises: TypeError."""
    if serde is not None and not all(callable(getattr(serde, method, None)) for method in ("serialize", "deserialize")):
        raise IllegalInputError(f"serde must have the methods serialize and deserialize, got bad value: {serde!r}")
    if not isinstance(key_prefix, str | bytes):
        raise TypeError("key_prefix should be bytes.")
    if isinstance(key_prefix, str) and not key_prefix.isascii():
        raise IllegalInputError(f"Non-ASCII key_prefix: {key_prefix!r}")
    try:
        codecs.lookup(encoding)  # type: ignore[arg-type]  # that is what is tested
    except (LookupError, TypeError, ValueError):
        raise IllegalInputError(f"encoding must be the name of a codec such as 'ascii' or 'utf8', got bad value: {encoding!r}") from None
