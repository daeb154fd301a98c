from memcache_shm.client.reading import Reading

class Place:
    def __init__(self, cache: Reading, patterns: tuple[str | bytes, ...], copies: bool = False) -> None: ...
