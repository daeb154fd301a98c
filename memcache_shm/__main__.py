"""`python -m memcache_shm`: the command line."""

import sys

from memcache_shm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
