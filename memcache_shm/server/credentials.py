"""What tells friend from stranger: the users of ``-Y`` and the certificates of ``-Z``, read at the start and again at each SIGHUP."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from memcache_shm.errors import MemcacheError
from memcache_shm.server.tls import TlsOptions, make_context

if TYPE_CHECKING:
    import ssl

    from memcache_shm.server.users import Users

log = logging.getLogger(__name__)


class Credentials:
    """Made before the fork, while files may be read that the daemon's own user may not; each process reads them again for itself.

    Before a reload all workers have the supervisor's context, so a client may resume its session with any of them. Afterwards each has
    its own: a client that comes to another worker makes a whole handshake.
    """

    def __init__(self, auth_file: str | None = None, tls: TlsOptions | None = None) -> None:
        """Read the files. Raises MemcacheError with cause and remedy."""
        self._auth_file = auth_file
        self._tls = tls
        #: None: no client is asked who it is.
        self.users: Users | None = _read_users(auth_file) if auth_file is not None else None
        #: None: there is no TLS.
        self.context: ssl.SSLContext | None = make_context(tls) if tls is not None else None
        self._refreshed_s = time.monotonic()

    @property
    def age_s(self) -> int:
        """Seconds since the certificates were read."""
        return int(time.monotonic() - self._refreshed_s)

    def admits(self, login: bytes) -> bool:
        """Whether "user password" lets a client in."""
        return self.users is None or self.users.admits(login)

    def reload(self, level: int) -> None:
        """Read the files again. What cannot be used leaves the old as it is, and a line of that level in the log."""
        try:
            if self._auth_file is not None:
                self.users = _read_users(self._auth_file)
        except MemcacheError as error:
            log.log(level, "%s (the users stay as they were)", error)
        try:
            if self._tls is not None:
                self.context = make_context(self._tls)
                self._refreshed_s = time.monotonic()
        except MemcacheError as error:
            log.log(level, "%s (the certificate stays as it was)", error)


def _read_users(path: str) -> Users:
    """Raises MemcacheError. Hashing is imported late, as ssl is: a daemon without users does not pay its 10 ms."""
    from memcache_shm.server.users import Users

    return Users(path)
