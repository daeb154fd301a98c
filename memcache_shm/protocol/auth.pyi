"""What a client may say before it has said who it is; its work is done in Cython."""

LOGIN_BYTES_MAX: int
"""Of "user password"."""
