"""What the suites share: servers that are started and ended, isolation and leak checks, conversations."""
