"""How users write where a table is: a table's name, HOST:PORT, the path of a socket, or channel: and such a path."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TypeAlias

from memcache_shm.client.inputs import absolute_path
from memcache_shm.errors import IllegalInputError
from memcache_shm.storage.statefile import search_directories, state_path

DEFAULT_PORT = 11211
PORT_MAX = 65535
_CHANNEL = "channel:"


@dataclass(frozen=True)
class ChannelAddress:
    """A channel to the daemon that listens at the UNIX socket `path`."""

    path: str


Address: TypeAlias = str | tuple[str, int] | ChannelAddress  # a UNIX socket's path; host and port; a channel
_DOTTED = re.compile(r"[\w-]+(\.[\w-]+)+")  # a host's name or IPv4 address
_HOW = "write HOST:PORT, [V6]:PORT, a socket's path with a /, or channel: and such a path"


def source_address(text: str) -> Address | None:
    """As `remote_address`, but a table of this host goes first that has such a name: "app:1", "localhost"."""
    return None if "/" not in text and is_table(text) else remote_address(text)


def is_table(text: str) -> bool:
    """Whether a table of this host has that name."""
    return any(os.path.exists(state_path(directory, text)) for directory in search_directories())


def remote_address(text: str) -> Address | None:
    """The address in `text`: a channel if it begins with channel:, a path if it has a /, host and port if it has a : or is localhost;
    None: the name of a table of this host. IllegalInputError for what has a : and is no address, or has a NUL."""
    if "\0" in text:
        raise IllegalInputError(f"{text!r} is no address: a NUL is in it")
    if text.startswith(_CHANNEL) and not text[len(_CHANNEL) :].isdigit():  # a host may have that name, too
        path = text[len(_CHANNEL) :]
        if "/" not in path:
            raise IllegalInputError(f"{text!r} is no address; write {_CHANNEL} and the path of the daemon's UNIX socket, with a /")
        return ChannelAddress(path)
    if "/" in text:
        return text
    if ":" in text or text == "localhost":
        host, port = host_port(text)
        return host, DEFAULT_PORT if port is None else port
    return None


def given_address(address: str | Address) -> Address:
    """`address`, which may be written as users do. IllegalInputError for what is none, such as the name of a table."""
    if not isinstance(address, str | tuple | ChannelAddress):
        raise IllegalInputError(f"{address!r} is no address; {_HOW}")
    found = remote_address(address) if isinstance(address, str) else address
    if found is None:
        if _DOTTED.fullmatch(str(address)):
            raise IllegalInputError(f"{address!r} is no address without a port; write {address}:{DEFAULT_PORT}, if that is the daemon's")
        raise IllegalInputError(f"{address!r} is no address; {_HOW}")
    return found


def lasting_address(address: str | Address) -> Address:
    """As `given_address`, and a path leads to the same socket when the process goes to another directory."""
    found = given_address(address)
    if isinstance(found, ChannelAddress):
        return ChannelAddress(absolute_path(found.path))
    return absolute_path(found) if isinstance(found, str) else found


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


def socket_path(address: Address) -> str | None:
    """Of the UNIX socket that leads to `address`; None for a host and port."""
    if isinstance(address, ChannelAddress):
        return address.path
    return address if isinstance(address, str) else None


def written(address: Address) -> str:
    """`address` as a user writes it."""
    if isinstance(address, str):
        return address
    if isinstance(address, ChannelAddress):
        return _CHANNEL + address.path
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
