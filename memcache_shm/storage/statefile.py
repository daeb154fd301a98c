"""The state file of a table: which name means which segment, and who looks after it.

`NAME.json` in the state directory says where a table is; `NAME.lock` beside it orders those who create, claim and
remove it (and `.NAME.making` tells what is being made, see `making`). The state file appears and changes by rename only, so
a reader sees a whole one without taking a lock.

    NAME.json   written under the flock of NAME.lock by the creator, and by a daemon that adopts the table
    .NAME.new   the next one while it is being written; only a killed writer leaves it
    NAME.lock   empty; flock = "I create, claim or remove NAME", POSIX lock = "I am the daemon of NAME"
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import stat
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from memcache_shm.errors import IllegalInputError, LayoutError, MemcacheError

STATE_VERSION = 1
DIRECTORY_VARIABLE = "MEMCACHE_SHM_DIR"
_DEFAULT_PREFIX = "/dev/shm/memcache_shm-"  # and the uid
# A name is part of two file names (255 bytes at most) and a word on a command line.
_NAME = re.compile(r"[A-Za-z0-9_.:@+][A-Za-z0-9_.:@+-]{0,199}")


def check_name(name: str) -> str:
    """`name` itself when it can name a table, else IllegalInputError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("."):
        raise IllegalInputError(f"name: {name!r} cannot name a table; use 1 to 200 of A-Z a-z 0-9 _ : @ + - and . (no . or - in front)")
    return name


@dataclass(frozen=True)
class State:
    """What a state file says. Ids are of the IPC namespace that it names; times are seconds of the wall clock."""

    name: str
    shmid: int
    semid: int
    uuid: str  # 32 hex digits, also in the segment's header: an id that was given out again is noticed by it
    geometry: dict[str, Any]
    mode: int  # permission bits of segment, semaphores and files
    evict: bool
    created: float
    made_by: str  # "open" (a program; never removed by a daemon) or "daemon" (removed at the daemon's end)
    pid: int  # the creator; then the daemon that adopted the table
    pid_start: int  # its start time in clock ticks after boot: a pid alone may come again
    uid: int
    ipc_namespace: str
    served: bool = False  # `pid` is a daemon that claimed the table and has not ended in order since
    socket: str = ""  # absolute path of that daemon's UNIX socket; "": it has none
    version: int = STATE_VERSION
    directory: str = field(default="", compare=False)  # where the file lies; not in it

    def to_json(self) -> str:
        """The file's text."""
        content = asdict(self)
        del content["directory"]
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, path: str) -> State:
        """The state in `text`; LayoutError when it is none that this version reads."""
        try:
            content = json.loads(text)
            if content["version"] != STATE_VERSION:
                raise ValueError(f"version {content['version']}")
            known = {f.name for f in fields(cls)} - {"directory"}
            state = cls(**{k: v for k, v in content.items() if k in known}, directory=os.path.dirname(path))
        except (ValueError, KeyError, TypeError) as error:
            raise LayoutError(
                f"{path} is no state file of this version ({error});"
                " use the version that wrote it, or delete the file ('ipcs -m' shows its segment)"
            ) from None
        return state

    def with_owner(self, **changes: Any) -> State:
        """This state with this process as the one that looks after the table."""
        return replace(self, pid=os.getpid(), pid_start=process_start(os.getpid()), **changes)

    @property
    def owner_is_me(self) -> bool:
        """Whether this very process is the one in `pid` (not one that got the same number later)."""
        return self.pid == os.getpid() and self.pid_start == process_start(self.pid)

    @property
    def in_this_namespace(self) -> bool:
        """Whether the ids mean anything here: a container may share the directory but not the segments."""
        return self.ipc_namespace == ipc_namespace()


def process_start(pid: int) -> int:
    """Clock ticks from boot to the start of `pid` (proc(5), stat field 22); 0 when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def ipc_namespace() -> str:
    """The kernel's name of the IPC namespace of this process."""
    return os.readlink("/proc/self/ns/ipc")


# Directories


def default_directory(uid: int) -> str:
    """Where tables of `uid` are unless MEMCACHE_SHM_DIR says otherwise."""
    return f"{_DEFAULT_PREFIX}{uid}"


def own_directory() -> str:
    """Where this process makes tables."""
    return os.environ.get(DIRECTORY_VARIABLE) or default_directory(os.geteuid())


def search_directories(user: str | int | None = None) -> list[str]:
    """Where to look for a table: `user`'s directory if one is given, else one's own, then root's."""
    if user is not None:
        return [default_directory(_uid_of(user))]
    if os.environ.get(DIRECTORY_VARIABLE):
        return [own_directory()]
    return list(dict.fromkeys([own_directory(), default_directory(0)]))


def _uid_of(user: str | int) -> int:
    if isinstance(user, int) and not isinstance(user, bool):
        return user
    if not isinstance(user, str):
        raise IllegalInputError(f"user: {user!r} is neither a user's name nor a number")
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):  # ValueError: a NUL in it
        raise IllegalInputError(f"user: no user is called {user!r} on this host") from None


def make_directory(path: str, mode: int) -> None:
    """See to it that `path` exists and that those whom `mode` lets read a table can reach it."""
    wanted = 0o700 | (0o050 if mode & 0o060 else 0) | (0o005 if mode & 0o006 else 0)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        check_directory(path)
    except OSError as error:
        raise MemcacheError(f"cannot make the state directory {path}: {error.strerror}; set {DIRECTORY_VARIABLE}") from None
    info = os.stat(path)
    # Only ever widened: another table in the same directory may be readable by more.
    if info.st_uid == os.geteuid() and wanted & ~info.st_mode:
        os.chmod(path, stat.S_IMODE(info.st_mode) | wanted)


def check_directory(path: str) -> None:
    """Refuse a default directory that another user put there: its name can be guessed and /dev/shm is open to all."""
    info = os.lstat(path)
    if not path.startswith(_DEFAULT_PREFIX):
        if not os.path.isdir(path):
            raise MemcacheError(f"{path} ({DIRECTORY_VARIABLE}) is no directory")
        return
    owner = path[len(_DEFAULT_PREFIX) :]
    if not stat.S_ISDIR(info.st_mode) or str(info.st_uid) != owner or info.st_mode & 0o022:
        raise MemcacheError(
            f"{path} is not a directory of user {owner} that only they can write; have it removed, or set {DIRECTORY_VARIABLE} to another"
        )


# Files


def state_path(directory: str, name: str) -> str:
    """The state file of `name`."""
    return os.path.join(directory, f"{name}.json")


def lock_path(directory: str, name: str) -> str:
    """The lock file of `name`."""
    return os.path.join(directory, f"{name}.lock")


def read_state(directory: str, name: str) -> State | None:
    """The state of `name` in `directory`, None when there is no such table."""
    path = state_path(directory, name)
    try:
        check_directory(directory)
        with open(path, encoding="utf-8") as file:
            return State.from_json(file.read(), path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_state(directory: str, state: State) -> State:
    """Put `state` in place, whole or not at all; the caller holds the flock."""
    temporary = _new_path(directory, state.name)  # one writer at a time: what a killed one left is overwritten
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), state.mode & 0o666)
            file.write(state.to_json())
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, state_path(directory, state.name))
    except BaseException:
        os.unlink(temporary)
        raise
    return replace(state, directory=directory)


def _new_path(directory: str, name: str) -> str:
    return os.path.join(directory, f".{name}.new")


def drop_state(directory: str, name: str) -> None:
    """Forget `name`, and what a killed writer left; the caller holds the flock."""
    for path in (state_path(directory, name), _new_path(directory, name)):
        with contextlib.suppress(FileNotFoundError):  # half made, or half dropped
            os.unlink(path)


def names_in(directory: str) -> list[str]:
    """The names that have a state file in `directory`, sorted."""
    return sorted(e[: -len(".json")] for e in entries(directory) if e.endswith(".json") and not e.startswith("."))


def entries(directory: str) -> list[str]:
    """What lies in a state directory; nothing where it may not be looked into."""
    try:
        check_directory(directory)
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
