"""Errors of memcache_shm. Each docstring says whose fault it is and what helps.

``MemcacheError`` is the root, so that ``except memcache_shm.MemcacheError`` catches all of them.
"""

from __future__ import annotations


class MemcacheError(Exception):
    """Root of every error this package raises on purpose."""


class IllegalInputError(MemcacheError, ValueError):
    """The caller's key, value or argument breaks a rule; change the input."""


class TooLargeError(IllegalInputError):
    """The value is larger than the table's maximum (``max_item``); raise that when the table is made."""


class TableExistsError(MemcacheError):
    """The name is taken, by a live daemon or by a table of another geometry."""


class TableNotFoundError(MemcacheError):
    """No table of that name; start a daemon or call ``open()``."""


class TableRemovedError(MemcacheError):
    """The table was removed while attached (``rm``, ``ipcrm``, end of its daemon)."""


class LayoutError(MemcacheError):
    """The table was made by another version or is damaged; remove it, or use that version."""


class BusyError(MemcacheError):
    """A lock did not come within its limit: its owner is stopped or hung. The message names the pid."""


class NoSpaceError(MemcacheError):
    """The table is full and eviction is off (``-M``), old and new value do not fit side by side, or too many processes write to it."""


class ReadOnlyError(MemcacheError):
    """The caller wrote to a table that it attached with ``readonly=True``, or to one that follows another (``--follow``)."""


class RemoteError(MemcacheError):
    """A server cannot be reached, is no memcached, went away, or refused; the message has the address and the server's words."""


class ClosedError(MemcacheError):
    """The caller used a cache object after ``close()``."""


class FeedOffError(MemcacheError):
    """The table has no feed of changes; make it with one (``feed=``, ``--feed``)."""


class BackupError(MemcacheError):
    """A backup file cannot be written, cannot be read, or is not whole; the message names it and what is wrong.

    Nothing was restored then, unless somebody altered the file at that very time.
    """
