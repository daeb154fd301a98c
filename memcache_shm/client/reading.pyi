from typing import Any

from memcache_shm.client.types import Key, Serde
from memcache_shm.storage.table import Table

class Reading:
    name: str
    directory: str
    readonly: bool

    def __init__(
        self,
        table: Table,
        name: str,
        directory: str,
        *,
        serde: Serde | None = None,
        key_prefix: str | bytes = b"",
        default_noreply: bool = False,
        allow_unicode_keys: bool = False,
        encoding: str = "ascii",
        ignore_exc: bool = False,
    ) -> None: ...
    def get(self, key: Key, default: Any = None) -> Any: ...
    def gets(self, key: Key, default: Any = None, cas_default: Any = None) -> tuple[Any, Any]: ...
    def close(self) -> None: ...
    @property
    def attached_table(self) -> Table: ...
    @property
    def options(self) -> dict[str, Any]: ...
    def __getitem__(self, key: Key, /) -> Any: ...
    def __contains__(self, key: Key, /) -> bool: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
