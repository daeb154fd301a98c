"""How users write where a table is: a table's name, HOST:PORT, or the path of a socket."""

from __future__ import annotations

import os
import re
from typing import TypeAlias

from memcache_shm.errors import IllegalInputError
from memcache_shm.storage.statefile import search_directories, state_path

DEFAULT_PORT = 11211
PORT_MAX = 65535
Address: TypeAlias = str | tuple[str, int]  # a UNIX socket's path; or host and port


def source_address(text: str) -> Address | None:
    """As `remote_address`, but a table of this host goes first that has such a name: "app:1", "localhost"."""
    return None if "/" not in text and is_table(text) else remote_address(text)


def is_table(text: str) -> bool:
    """Whether a table of this host has that name."""
    return any(os.path.exists(state_path(directory, text)) for directory in search_directories())


def remote_address(text: str) -> Address | None:
    """The address in `text`: a path if it has a /, host and port if it has a : or is localhost; None: the name of a table of this host.
    IllegalInputError for what has a : and is no address."""
    if "/" in text:
        return text
    if ":" in text or text == "localhost":
        host, port = host_port(text)
        return host, DEFAULT_PORT if port is None else port
    return None


def host_port(text: str) -> tuple[str, int | None]:
    """`host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address; None where there is no port. IllegalInputError."""
    match = re.fullmatch(r"\[([^\]]*)\](?::(\d+))?|([^:\[\]]*)(?::(\d+))?", text.strip(), re.ASCII)
    if match is None:
        if text.count(":") > 1 and "[" not in text:
            return text.strip(), None
        raise IllegalInputError(f"{text!r} is no address; write HOST, HOST:PORT or [V6]:PORT")
    host, port = match.group(1) or match.group(3) or "", match.group(2) or match.group(4)
    if not host:
        raise IllegalInputError(f"{text!r} names no host; write 0.0.0.0 or * for every interface")
    if port is not None and int(port) > PORT_MAX:
        raise IllegalInputError(f"{text!r}: a port must be from 0 to {PORT_MAX}, not {int(port)}")
    return host, None if port is None else int(port)


def written(address: Address) -> str:
    """`address` as a user writes it."""
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
