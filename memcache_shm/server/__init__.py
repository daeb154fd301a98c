"""The daemon: a supervisor that accepts, and forked workers that serve every client from one table."""
